"""The texts of evaluation sets in files, whatever they are used for: to find them in a corpus.

A set is a file of pairs or texts (Parquet or JSON lines with sentence1 and sentence2, text, …), or
a judged collection (a folder with corpus and queries, as Parquet or as BEIR publishes them).
"""

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Final

import pyarrow as pa
import pyarrow.parquet as pq

# Columns that hold texts, in files of the forms that mteb's users have.
TEXT_COLUMNS: Final = (
    "sentence1", "sentence2", "sentence", "text", "text1", "text2", "title", "query", "positive",
    "passage", "sentences",
)  # fmt: skip
PARTS: Final = ("corpus", "queries")
ENDINGS: Final = (".parquet", ".jsonl")
# Folders below the one that is named: eval/retrieval/cmrc2018 is two down.
MAX_DEPTH: Final = 3


@dataclass(frozen=True)
class EvaluationSet:
    """A set's texts and where each stands in it: ``corpus:17`` (by its _id), ``sentence1:3``."""

    name: str
    places: list[str]
    texts: list[str]

    @cached_property
    def digest(self) -> str:
        """Identify places and texts."""
        digest = hashlib.sha256()
        for place, text in zip(self.places, self.texts, strict=True):
            digest.update(f"{place}\0{text}\0".encode("utf-8", "surrogatepass"))
        return digest.hexdigest()[:32]


def read_evaluation_sets(paths: Iterable[Path | str]) -> list[EvaluationSet]:
    """Read sets, or folders that hold some at any of MAX_DEPTH levels; by name.

    ValueError where a path holds none, a set has no text, or two sets share a name.
    """
    found: dict[str, EvaluationSet] = {}
    for path in map(Path, paths):
        if not path.exists():
            raise ValueError(f"{path} does not exist; give evaluation sets, or a folder of them")
        places = list(_sets_in(path, MAX_DEPTH))
        if not places:
            raise ValueError(
                f"{path} holds no evaluation set: {' or '.join(ENDINGS)} files with one of "
                f"{', '.join(TEXT_COLUMNS)}, or folders with {' and '.join(PARTS)}"
            )
        for place in places:
            one = _read_collection(place) if place.is_dir() else _read_file(place)
            if not one.texts:
                raise ValueError(f"{place} holds no text: all of its rows are empty")
            if one.name in found and one.digest != found[one.name].digest:
                raise ValueError(f"two evaluation sets are called {one.name!r}; rename one of them")
            found[one.name] = one
    return [found[name] for name in sorted(found)]


def _sets_in(path: Path, depth: int) -> Iterator[Path]:
    if path.is_file() or _is_collection(path):
        yield path
        return
    for inside in sorted(path.iterdir()):
        is_file = inside.is_file() and inside.suffix in ENDINGS
        if is_file or (inside.is_dir() and depth > 0):
            yield from _sets_in(inside, depth - 1)


def _is_collection(folder: Path) -> bool:
    return all(_part(folder, part) is not None for part in PARTS)


def _part(folder: Path, part: str) -> Path | None:
    found = [folder / f"{part}{ending}" for ending in ENDINGS]
    return next((path for path in found if path.exists()), None)


def _read_collection(folder: Path) -> EvaluationSet:
    places: list[str] = []
    texts: list[str] = []
    for part in PARTS:
        path = _part(folder, part)
        assert path is not None
        table = _read_table(path)
        for column in _text_columns(table, path):
            # A title is a text of its own: a corpus may hold it as a query.
            name = part if column == "text" else f"{part}.{column}"
            ids = table["_id"] if "_id" in table.column_names else range(len(table))
            _add(places, texts, name, (str(each) for each in ids), table[column])
    return EvaluationSet(folder.name, places, texts)


def _read_file(path: Path) -> EvaluationSet:
    places: list[str] = []
    texts: list[str] = []
    table = _read_table(path)
    for column in _text_columns(table, path):
        _add(places, texts, column, map(str, range(len(table))), table[column])
    return EvaluationSet(path.stem, places, texts)


def _add(
    places: list[str], texts: list[str], name: str, ids: Iterable[str], column: pa.ChunkedArray
) -> None:
    for one, value in zip(ids, column.to_pylist(), strict=True):
        for text in value if isinstance(value, list) else [value]:
            if isinstance(text, str) and text.strip():
                places.append(f"{name}:{one}")
                texts.append(text)


def _text_columns(table: pa.Table, path: Path) -> list[str]:
    found = [column for column in TEXT_COLUMNS if column in table.column_names]
    if not found:
        raise ValueError(
            f"{path} has no text; it has {', '.join(table.column_names)}, and an evaluation set "
            f"one or more of {', '.join(TEXT_COLUMNS)}"
        )
    return found


def _read_table(path: Path) -> pa.Table:
    try:
        if path.suffix == ".parquet":
            return pq.read_table(path)
        with path.open(encoding="utf-8") as lines:
            return pa.Table.from_pylist([json.loads(line) for line in lines if line.strip()])
    except (pa.ArrowInvalid, ValueError) as error:
        raise ValueError(f"{path} cannot be read as {path.suffix[1:]}: {error}") from None
