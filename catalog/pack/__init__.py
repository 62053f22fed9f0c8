"""A pack: a snapshot laid out for random access, memory-mapped and shared by a node's processes.

pack = build_pack(catalog, snapshot, "/disk/packs/v1", PackSettings(candidates_run=run))
pairs = pack.pairs("retrieval")
queries = pack.texts("query", pairs.query[:256])
rows, counts = pack.window(pairs.query[:256], i=1, n=7)
"""

from catalog.pack.build import build_pack
from catalog.pack.layout import (
    NONE,
    PackDamagedError,
    PackError,
    PackMissingError,
    PackSettings,
)
from catalog.pack.pairs import Pairs
from catalog.pack.read import Pack
from catalog.pack.selection import select_policy
from catalog.pack.windows import Window, lake_window, window, window_span

__all__ = [
    "NONE",
    "Pack",
    "PackDamagedError",
    "PackError",
    "PackMissingError",
    "PackSettings",
    "Pairs",
    "Window",
    "build_pack",
    "lake_window",
    "select_policy",
    "window",
    "window_span",
]
