"""Evaluation sets in files: pairs of sentences with a score or a label, and judged collections.

A file of pairs is Parquet with ``sentence1``, ``sentence2`` and ``score`` (any numbers: its task is
STS, also where they are 0 and 1, as C-MTEB has LCQMC, BQ, AFQMC, ATEC and PAWSX) or ``label`` (0
or 1: pair classification). A collection is what ``mining.retrieval_eval.load_collection`` reads.
"""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, Protocol, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from mining.retrieval_eval import Collection, load_collection

Kind = Literal["sts", "pair-classification"]
Named = TypeVar("Named", bound="HasName")

SENTENCES: Final = ("sentence1", "sentence2")
TARGETS: Final[dict[str, Kind]] = {
    "score": "sts",
    "label": "pair-classification",
    "labels": "pair-classification",  # mteb's own name
}
LABELS: Final = {0.0, 1.0}
QRELS: Final = "qrels"


class HasName(Protocol):
    """A set with a name of its own."""

    @property
    def name(self) -> str:
        """The set's name, in which sets that are evaluated together differ."""


@dataclass(frozen=True)
class PairSet:
    """Pairs of sentences with what people said of them; ``revision`` is a digest of all rows."""

    name: str
    kind: Kind
    firsts: list[str]
    seconds: list[str]
    targets: list[float]
    revision: str


@dataclass(frozen=True)
class CollectionSet:
    """A judged collection; ``revision`` is a digest of its texts and judgments."""

    name: str
    collection: Collection
    revision: str


def read_pair_sets(paths: Iterable[Path]) -> list[PairSet]:
    """Read files of pairs, and every Parquet file of a folder; named like the files."""
    return names_differ([read_pairs(file) for path in paths for file in find_files(path)])


def read_collections(paths: Iterable[Path]) -> list[CollectionSet]:
    """Read collections, and every collection in a folder of them; named like the folders."""
    return names_differ(
        [_read_collection(folder) for path in paths for folder in _collections(path)]
    )


def read_pairs(file: Path) -> PairSet:
    """Read one file of pairs; refuse columns that are missing, empty or of another type."""
    table = read_parquet(file)
    target = next((name for name in TARGETS if name in table.column_names), None)
    missing = [name for name in SENTENCES if name not in table.column_names]
    missing += [" or ".join(TARGETS)] if target is None else []
    if target is None or missing:
        raise ValueError(
            f"{file} has no column {', '.join(missing)}; it has {', '.join(table.column_names)}; "
            "a set of pairs has sentence1, sentence2, and score (any number) or label (0 or 1)"
        )
    firsts, seconds = (read_column(table, name, pa.string(), file) for name in SENTENCES)
    targets = read_column(table, target, pa.float64(), file)
    _check_targets(targets, target, file)
    revision = digest(f"{a}\0{b}\0{t}\n" for a, b, t in zip(firsts, seconds, targets, strict=True))
    return PairSet(file.stem, TARGETS[target], firsts, seconds, targets, revision)


def _read_collection(folder: Path) -> CollectionSet:
    collection = load_collection(folder)
    if not collection.queries:
        raise ValueError(
            f"{folder}: qrels judge no passage relevant (score above 0) for any query; there is "
            "nothing to measure"
        )
    judged = collection.judgments
    rows = zip(judged.queries, judged.passages, judged.grades, strict=True)
    parts = [
        *(f"{key}\0{text}\n" for key, text in _texts(collection)),
        *(f"{query}\0{passage}\0{grade}\n" for query, passage, grade in rows),
    ]
    return CollectionSet(collection.name, collection, digest(parts))


def _texts(collection: Collection) -> Iterable[tuple[str, str]]:
    yield from zip(collection.query_ids, collection.queries, strict=True)
    yield from zip(collection.passage_ids, collection.passages, strict=True)


def read_parquet(file: Path) -> pa.Table:
    """Read a whole Parquet file; ValueError for one that is none."""
    try:
        return pq.read_table(file)
    except pa.ArrowInvalid as error:
        raise ValueError(f"{file} cannot be read as Parquet: {error}") from None


def find_files(path: Path) -> list[Path]:
    """Return a Parquet file itself, or those of a folder; ValueError where there is none."""
    return _found(path, path.is_file(), sorted(path.glob("*.parquet")), "*.parquet")


def _collections(path: Path) -> list[Path]:
    is_one = any(path.glob(f"{QRELS}*"))
    inside = sorted({found.parent for found in path.glob(f"*/{QRELS}*")})
    return _found(path, is_one, inside, "folders with corpus, queries and qrels")


def _found(path: Path, is_one: bool, inside: list[Path], expected: str) -> list[Path]:
    """Return the path itself where it is one set, else the sets inside."""
    if not path.exists():
        raise ValueError(f"{path} does not exist; give a set, or a folder of sets ({expected})")
    found = [path] if is_one else inside
    if not found:
        raise ValueError(f"{path} holds no evaluation set; expected are {expected}")
    return found


def read_column(table: pa.Table, name: str, type: pa.DataType, file: Path) -> list[Any]:
    """Return a column's values as ``type``; ValueError for one with empty rows."""
    column = table[name]
    if column.null_count:
        raise ValueError(f"{file}: column {name} is empty in {column.null_count:,} rows")
    try:
        return list(column.cast(type).to_pylist())
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        raise ValueError(
            f"{file}: column {name} is of type {column.type}; expected is {type}"
        ) from None


def _check_targets(targets: list[float], name: str, file: Path) -> None:
    values = set(targets)
    if TARGETS[name] != "sts" and not values <= LABELS:
        shown = ", ".join(f"{value:g}" for value in sorted(values - LABELS)[:3])
        raise ValueError(f"{file}: column {name} holds {shown}; a label is 0 or 1")
    if len(values) < 2:
        raise ValueError(
            f"{file}: column {name} has {len(values)} different values in {len(targets):,} rows; "
            "at least 2 are needed to measure anything"
        )


def names_differ(sets: list[Named]) -> list[Named]:
    """Return the sets; ValueError where two of them have one name."""
    seen: set[str] = set()
    for one in sets:
        if one.name in seen:
            raise ValueError(f"two evaluation sets are called {one.name!r}; rename one of them")
        seen.add(one.name)
    return sets


def digest(parts: Iterable[str]) -> str:
    """Identify a set by its rows."""
    found = hashlib.sha256()
    for part in parts:
        found.update(part.encode("utf-8", "surrogatepass"))
    return found.hexdigest()[:32]
