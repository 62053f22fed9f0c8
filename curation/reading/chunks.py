"""Some rows of a source file, whatever it is written in: their columns, and what was rejected."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, Final

import numpy as np
import orjson
import pyarrow as pa

from curation.reading.arrow_rows import is_text, plain
from curation.reading.faults import Faults, Reject, Rows, to_strings
from curation.reading.fields import FieldPath, Fields, Key, dig, parse_nested, remover

# The column whose fields become the pair's own meta instead of a field of it.
META: Final = "meta"


@dataclass(frozen=True)
class ChunkSize:
    """Where a chunk ends: at what comes first. What is made of it takes ten times its bytes."""

    rows: int = 16_384
    bytes: int = 32 << 20


class Chunk(ABC):
    """Rows of a source file: ``rows`` numbers those that were read, ``rejects`` are the others."""

    def __init__(self, rows: Rows, rejects: Sequence[Reject], rows_read: int) -> None:
        self.rows = rows
        self.rejects = list(rejects)
        self.rows_read = rows_read
        self._parsed: dict[str, list[Any]] = {}

    def __len__(self) -> int:
        return len(self.rows)

    @abstractmethod
    def names(self) -> list[str]:
        """Name the columns, in the order of the file."""

    @abstractmethod
    def column(self, name: str) -> list[Any]:
        """Return a column as Python values, None where a row has none."""

    @abstractmethod
    def texts(self, path: FieldPath, target: str, faults: Faults) -> pa.Array:
        """Return texts as pa.string(); a value that is no text is a fault, and null."""

    @abstractmethod
    def raws(self, indexes: list[int]) -> list[bytes]:
        """Return rows as they were read."""

    @abstractmethod
    def leftovers(self, fields: Fields) -> list[dict[str, Any]]:
        """Return what each row holds beside the mapped fields."""

    def values(self, path: FieldPath) -> list[Any]:
        """Return the values at a path, None where a row has none."""
        if not path.keys:
            return self.column(path.column)
        return [dig(value, path.keys) for value in self.parsed(path.column)]

    def parsed(self, name: str) -> list[Any]:
        """Return a column with its JSON texts parsed, once for all who ask."""
        if name not in self._parsed:
            self._parsed[name] = [parse_nested(value) for value in self.column(name)]
        return self._parsed[name]

    def _nested_leftovers(
        self, used: Mapping[str, frozenset[tuple[Key, ...]]]
    ) -> dict[str, list[Any]]:
        """Return what remains of columns that are used in part, and the parsed meta column."""
        remaining = {
            name: list(map(remover(paths), self.parsed(name)))
            for name, paths in used.items()
            if () not in paths and name in self.names()
        }
        if META in self.names() and META not in used:
            remaining[META] = self.parsed(META)
        return remaining


class RecordChunk(Chunk):
    """Rows that came as JSON objects or CSV records, with their bytes."""

    def __init__(
        self,
        records: list[dict[str, Any]],
        lines: list[bytes],
        rows: Rows,
        rejects: Sequence[Reject],
    ) -> None:
        super().__init__(rows, rejects, len(rows) + len(rejects))
        self.records = records
        self.lines = lines
        self._names: list[str] = []

    def names(self) -> list[str]:
        """Name the fields in the order in which they first appear."""
        if not self._names:
            self._names = list(dict.fromkeys(chain.from_iterable(self.records)))
        return self._names

    def column(self, name: str) -> list[Any]:
        """Return a field of every record."""
        return [record.get(name) for record in self.records]

    def texts(self, path: FieldPath, target: str, faults: Faults) -> pa.Array:
        """Return a field that must be a text."""
        return to_strings(self.values(path), target, faults)

    def raws(self, indexes: list[int]) -> list[bytes]:
        """Return lines or records."""
        return [self.lines[at] for at in indexes]

    def leftovers(self, fields: Fields) -> list[dict[str, Any]]:
        """Return the unmapped fields of every record."""
        used = fields.used
        apart = {*used, META}
        rest = [
            {key: value for key, value in record.items() if key not in apart and value is not None}
            for record in self.records
        ]
        if any(() not in paths for paths in used.values()) or META in self.names():
            _merge(rest, self._nested_leftovers(used))
        return rest


class ArrowChunk(Chunk):
    """Rows that came as Arrow columns."""

    def __init__(
        self, batch: pa.RecordBatch, rows: Rows, rejects: Sequence[Reject], rows_read: int
    ) -> None:
        super().__init__(rows, rejects, rows_read)
        self.batch = batch
        self._columns: dict[str, list[Any]] = {}

    def names(self) -> list[str]:
        """Name the columns."""
        return list(self.batch.schema.names)

    def column(self, name: str) -> list[Any]:
        """Return a column as Python values."""
        if name not in self._columns:
            self._columns[name] = self.batch.column(name).to_pylist()
        return self._columns[name]

    def texts(self, path: FieldPath, target: str, faults: Faults) -> pa.Array:
        """Return a text column as it is, without a Python object per text."""
        if not path.keys and is_text(self.batch.schema.field(path.column).type):
            return self.batch.column(path.column).cast(pa.string())
        return to_strings(self.values(path), target, faults)

    def raws(self, indexes: list[int]) -> list[bytes]:
        """Return rows as JSON."""
        rows = self.batch.take(pa.array(indexes, pa.int64())).to_pylist()
        return [orjson.dumps(row, default=plain) for row in rows]

    def leftovers(self, fields: Fields) -> list[dict[str, Any]]:
        """Return the unmapped columns, row by row, without nulls."""
        used = fields.used
        names = [name for name in self.names() if name not in used and name != META]
        rest = _dicts(names, [self.column(name) for name in names], len(self))
        _merge(rest, self._nested_leftovers(used))
        return rest


def _dicts(names: list[str], columns: list[list[Any]], size: int) -> list[dict[str, Any]]:
    if not names:
        return [{} for _ in range(size)]
    return [
        {name: value for name, value in zip(names, row, strict=True) if value is not None}
        for row in zip(*columns, strict=True)
    ]


def _merge(rest: list[dict[str, Any]], nested: Mapping[str, list[Any]]) -> None:
    """Add nested remains; the fields of ``meta`` go to the top, as ``meta.x`` where x is taken."""
    for name, values in nested.items():
        for record, value in zip(rest, values, strict=True):
            if name == META and isinstance(value, dict):
                if value.keys().isdisjoint(record):
                    record.update(value)
                    continue
                for key, item in value.items():
                    record[f"{META}.{key}" if key in record else key] = item
            elif value is not None:
                record[name] = value


def numbers(first: int, count: int) -> Rows:
    """Number consecutive rows."""
    return np.arange(first, first + count, dtype=np.int64)
