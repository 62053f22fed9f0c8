"""The files of a pack: their names and types, the settings that decide them, and the manifest.

Every file is raw little-endian numbers (or text bytes) and is named ``<part>.<column>``; a part is
what is written, resumed and repaired as a whole. ``q``, ``p``, ``k``, ``c``, ``m`` count queries,
passages, pairs, candidate lists and given negatives; ``w`` is the longest list of candidates.

    query.ids               int64   [q]     the texts' ids, ascending
    query-00000.blob        bytes           texts one after another (UTF-8, or one zstd frame each)
    query-00000.offsets     uint64  [n+1]   of the n texts of this shard, from 0
    query-instructions.code uint16  [q]     0: none of its own; n: place n - 1 in the manifest's
                                            instructions. Only where a query has one
    passage.…                               the same; passages without an id (given negatives that
                                            are no pair's positive) come after those with one
    dictionary.query        bytes           with zstd only; empty where there was too little text
    dictionary.passage      bytes           to train one
    clusters.first          uint32  [p]     the near-duplicate cluster: its smallest passage row
    pairs.pair_id           int64   [k]     contiguous per task, ascending within a task
    pairs.query, .passage   uint32  [k]     rows
    pairs.label             float32 [k]     NaN: none
    pairs.source            uint16  [k]     place in the manifest's sources
    pairs.score             float16 [k]     teacher score; NaN: none. Only with a scores model
    negatives.offsets       uint64  [k+1]   a pair's given negatives. Only where there are any
    negatives.passage       uint32  [m]     rows
    lists.index             uint32  [q]     a query's row among the candidate lists; NONE: not mined
    lists.count             uint32  [c]     kept candidates of the list
    lists.positive_score    float16 [c]     of the list's positive, as the miner stored it
    candidates-00000.passage uint32 [n, w]  rows in rank order, NONE after the last
    candidates-00000.score  float16 [n, w]  NaN after the last
    query-vectors-00000.float16     [n, d]  teacher embeddings, where they were asked for
    passage-vectors-00000.float16   [n, d]  of the passages with an id only
"""

import hashlib
import json
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import xxhash

from catalog.bounds import check_at_least_one
from catalog.errors import CatalogError
from catalog.records import to_json, write_json
from catalog.snapshots import Snapshot

FORMAT: Final = 1
MANIFEST: Final = "pack.json"
SIDES: Final = ("query", "passage")
DICTIONARY: Final = "dictionary"
CANDIDATES: Final = "candidates"  # the miner's table
COMPRESSIONS: Final = (None, "zstd")

# No row: the fill of a short candidate list, and the answer for an id that the pack does not hold.
NONE: Final = 0xFFFF_FFFF
# Rows are uint32, and one number means "none".
MAX_ROWS: Final = NONE
MAX_SOURCES: Final = 1 << 16
MAX_INSTRUCTIONS: Final = (1 << 16) - 1

Rows = npt.NDArray[np.uint32]
Ids = npt.NDArray[np.int64]
Halves = npt.NDArray[np.float16]
Integers = npt.NDArray[np.integer]


class PackError(CatalogError):
    """A pack cannot be used as asked; the message says what to do instead."""


class PackMissingError(PackError):
    """There is no pack in the given folder."""


class PackDamagedError(PackError):
    """Files of a pack are missing or differ from what was written: it must be rebuilt."""

    def __init__(self, folder: Path, damaged: dict[str, str]) -> None:
        first, reason = next(iter(sorted(damaged.items())))
        others = f" and {len(damaged) - 1} more" if len(damaged) > 1 else ""
        super().__init__(
            f"the pack {folder} is damaged: {first} {reason}{others}; build it again into the same "
            "folder: only what is damaged is written anew"
        )
        self.damaged = damaged


@dataclass(frozen=True)
class PackSettings:
    """What a pack of a snapshot holds and how it is laid out.

    ``scores_revision`` is needed only where the catalog has scores of several revisions of the
    model. ``vectors`` is the key of the embeddings that ``build_pack`` is given. ``memory_mb``
    bounds the database of the build; it decides nothing of the result.
    """

    candidates_run: str | None = None
    scores_model: str | None = None
    scores_revision: str | None = None
    vectors: str | None = None
    compression: str | None = None
    texts_per_shard: int = 8_000_000  # 3 GB of 380-character texts; a node maps hundreds of files
    lists_per_shard: int = 2_000_000  # 2.4 GB at 200 candidates
    memory_mb: int = 2_000

    def __post_init__(self) -> None:
        if self.compression not in COMPRESSIONS:
            raise ValueError(f"compression is {self.compression!r}; allowed are None and 'zstd'")
        check_at_least_one(self, "texts_per_shard", "lists_per_shard", "memory_mb")
        if self.scores_revision is not None and self.scores_model is None:
            raise ValueError("scores_revision is set without scores_model; give both or neither")

    def content(self) -> dict[str, object]:
        """Return what decides the bytes of the pack."""
        return {name: value for name, value in asdict(self).items() if name != "memory_mb"}


@dataclass(frozen=True)
class Counts:
    """How many of what a pack holds; ``width`` is the length of its longest candidate list."""

    pairs: int
    queries: int
    passages: int
    named_passages: int  # the rest are given negatives that are no passage of the catalog
    negatives: int
    lists: int
    width: int
    scored: int  # pairs with a teacher score
    vector_width: int = 0  # of teacher embeddings; 0: the pack has none


@dataclass(frozen=True)
class FileRecord:
    """What was written: size and 128-bit xxh3, hexadecimal."""

    bytes: int
    xxh3: str


@dataclass(frozen=True)
class Manifest:
    """What a pack is made of. Equal packs have equal manifests: it holds no time and no place."""

    key: str
    snapshot: str
    digest: str
    lake_version: int
    settings: dict[str, Any]
    scores_revision: str | None
    counts: Counts
    tasks: dict[str, list[int]]  # task -> [first, end) among the pairs
    sources: list[str]
    files: dict[str, FileRecord] = field(default_factory=dict)
    instructions: list[str] = field(default_factory=list)  # of queries that have their own

    def write(self, folder: Path) -> None:
        """Write the manifest with a checksum of its own: the last file of a pack."""
        content = {"format": FORMAT, **asdict(self)}
        write_json(folder / MANIFEST, {**content, "xxh3": _self_checksum(content)})


def read_manifest(folder: Path) -> Manifest:
    """Read the manifest of a pack, refusing one of another format or that was changed."""
    path = folder / MANIFEST
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        found = content.pop("xxh3")
    except (FileNotFoundError, NotADirectoryError):
        raise PackMissingError(f"there is no pack in {folder}; make one with: lode pack") from None
    except (ValueError, KeyError, AttributeError, TypeError):
        raise PackDamagedError(folder, {MANIFEST: "cannot be read"}) from None
    if found != _self_checksum(content):
        raise PackDamagedError(folder, {MANIFEST: "has changed since it was written"})
    if content.pop("format") != FORMAT:
        raise PackError(
            f"the pack {folder} has another format than this Lode reads ({FORMAT}); delete the "
            "folder and build the pack again"
        )
    files = {name: FileRecord(**record) for name, record in content.pop("files").items()}
    counts = Counts(**content.pop("counts"))
    return Manifest(counts=counts, files=files, **content)


def pack_key(snapshot: Snapshot, settings: PackSettings) -> str:
    """Name a pack by everything that decides its bytes."""
    content = {
        "format": FORMAT,
        "digest": snapshot.digest,
        # Equal rows can have other clusters in a later version of the lake.
        "lake_version": snapshot.lake_version,
        "settings": settings.content(),
    }
    return hashlib.sha256(to_json(content).encode()).hexdigest()[:16]


def differing_settings(manifest: Manifest, settings: PackSettings) -> list[str]:
    """Describe the settings in which a pack differs from those asked for."""
    asked = settings.content()
    return [
        f"{f.name} is {manifest.settings.get(f.name)!r}, asked for {asked[f.name]!r}"
        for f in fields(settings)
        if f.name in asked and manifest.settings.get(f.name) != asked[f.name]
    ]


def check_rows(count: int, what: str) -> int:
    """Return ``count``, refusing more rows than uint32 can number."""
    if count > MAX_ROWS:
        raise PackError(
            f"the snapshot has {count:,} {what}; a pack numbers at most {MAX_ROWS:,} (32 bits): "
            "make several snapshots, each with a part of the sources"
        )
    return count


def checked_rows(rows: Integers, count: int, what: str) -> npt.NDArray[np.int64]:
    """Return rows as int64, refusing those that do not exist: numpy would wrap a negative one."""
    rows = np.asarray(rows)
    if rows.ndim != 1 or (rows.dtype.kind not in "iu" and len(rows)):
        raise TypeError(
            f"{what} rows are {rows.dtype} of shape {rows.shape}; give a vector of integers"
        )
    wide = rows.astype(np.int64)
    if len(wide) and (wide.min() < 0 or wide.max() >= count):
        wrong = wide[(wide < 0) | (wide >= count)][0]
        raise IndexError(f"{what} row {wrong} is asked for; the pack has {count:,}")
    return wide


def find_rows(ids: Ids, wanted: Ids) -> Rows:
    """Find the rows of ids in the ascending ids of all rows; NONE where there is no such id."""
    rows = np.full(len(wanted), NONE, np.uint32)
    if len(ids) == 0:
        return rows
    # In order, each search begins near the last one: five times as fast among 5 million ids.
    order = np.argsort(wanted)
    sought = wanted[order]
    places = np.searchsorted(ids, sought)
    places[places == len(ids)] = 0
    is_there = ids[places] == sought
    rows[order[is_there]] = places[is_there]
    return rows


def shard_ranges(count: int, per_shard: int) -> list[range]:
    """Cut rows into shards; there is always one, so that readers need no special case."""
    return [
        range(first, min(first + per_shard, count)) for first in range(0, max(count, 1), per_shard)
    ]


def shard_part(name: str, shard: int) -> str:
    """Name the part that holds a shard."""
    return f"{name}-{shard:05d}"


def _self_checksum(content: dict[str, Any]) -> str:
    return xxhash.xxh3_128(to_json(content).encode()).hexdigest()
