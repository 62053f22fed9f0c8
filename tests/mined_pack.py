"""A small pack with candidate lists of every length, for the tests of dynamic hard negatives."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from catalog.lake import Catalog
from catalog.pack import Pack, PackSettings, build_pack
from catalog.snapshots import Snapshot, create_snapshot
from tests.pack_catalog import Row, candidates, make_catalog, pair

FILE = 1 << 32
QUERIES = 40
RUN = "mined"


@dataclass
class Mined:
    """The pack, where it comes from, and each query's kept candidates as passage rows."""

    catalog: Catalog
    snapshot: Snapshot
    pack: Pack
    kept: dict[int, list[int]]  # query row -> passage rows


def make_rows() -> list[Row]:
    """Pairs with a query each, eight of which have a second positive, and passages without one."""
    rows = [pair(1, n, f"q{n}", f"p{n}") for n in range(QUERIES)]
    rows += [pair(1, QUERIES + n, f"q{n}", f"another p{n}") for n in range(8)]
    return rows + [pair(2, n, None, f"only a candidate {n}") for n in range(60)]


def make_lists() -> dict[int, list[tuple[int, float, int]]]:
    """Lists of 0 to 60 candidates, some of them removed; every tenth query was not mined."""
    lists = {}
    for query in range(QUERIES):
        if query % 10 == 9:
            continue
        length = (query * 7) % 61 if query % 10 else 60
        removed = [1 if (query + rank) % 6 == 0 else 0 for rank in range(length)]
        lists[FILE + query] = [
            (2 * FILE + (query + rank) % 60, 1 - rank / 64, removed[rank]) for rank in range(length)
        ]
    return lists


def make_pack(folder: Path) -> Mined:
    """Build a catalog, a snapshot v1 and its pack."""
    lists = make_lists()
    catalog = make_catalog(folder / "corpus", make_rows(), {"candidates": candidates(RUN, lists)})
    snapshot = create_snapshot(catalog, "v1")
    pack = build_pack(catalog, snapshot, folder / "pack", PackSettings(candidates_run=RUN))
    kept: dict[int, list[int]] = {row: [] for row in range(pack.num_texts("query"))}
    for query_id, entries in lists.items():
        ids = [passage for passage, _, reason in entries if reason == 0]
        (row,) = pack.rows("query", [query_id]).tolist()
        kept[row] = pack.rows("passage", ids).tolist()
    return Mined(catalog, snapshot, pack, kept)


def score_of(step: int, query: int, passage: int) -> float:
    """Return a score that falls with time, by chance, as those of learned negatives do."""
    digest = hashlib.sha256(f"{step} {query} {passage}".encode()).digest()
    chance = int.from_bytes(digest[:4], "little") / 2**32
    return float(np.float32(0.95 * chance - step / 400))


def positions_of(step: int, count: int, pairs: int) -> npt.NDArray[np.int64]:
    """Draw the pairs of a step's batch, in no order, each once."""
    keyed = [hashlib.sha256(f"{step}:{position}".encode()).digest() for position in range(pairs)]
    return np.array(sorted(range(pairs), key=keyed.__getitem__)[:count])
