"""Relations: what a snapshot says about its queries and passages, as arrays on disk.

Workers read them without a database. Ids ascend: the row of a query or passage is its place among
them.
"""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from catalog import duck
from catalog.errors import CatalogError
from catalog.instructions import own_instruction
from catalog.lake import Catalog, scalar
from catalog.records import sync_file, write_json
from catalog.snapshots import Snapshot, snapshot_reader
from mining.candidates import Known
from mining.embeddings import keys_of

Ids = npt.NDArray[np.int64]
Keys = npt.NDArray[np.uint64]

SQL_FOLDER: Final = Path(__file__).parent / "sql"
BATCH_ROWS: Final = 1 << 18
_WRITTEN: Final = "relations.json"
# Arrays of a statement's columns: (statement, names of its columns' arrays).
_COLUMNS: Final = {
    "queries": ("query_ids", "query_keys", "same_text"),
    "passages": ("passage_ids", "passage_keys"),
    "known": ("known_queries", "known_passages"),
    "positives": ("positive_queries", "positive_passages"),
    "clusters": ("clustered", "clusters"),
}


@dataclass(frozen=True)
class Relations:
    """Arrays in a folder, mapped when they are used; cheap to hand to another process."""

    folder: Path

    def __getattr__(self, name: str) -> npt.NDArray[Any]:
        if name not in {array for arrays in _COLUMNS.values() for array in arrays}:
            raise AttributeError(name)
        array: npt.NDArray[Any] = np.load(self.folder / f"{name}.npy", mmap_mode="r")
        return array

    def known(self, here: slice) -> Known:
        """Return what is known of the queries in some rows."""
        ids = self.query_ids[here]
        low, high = np.searchsorted(self.known_queries, [ids[0], ids[-1] + 1])
        offsets = np.searchsorted(self.known_queries[low:high], np.append(ids, ids[-1] + 1))
        return Known(
            offsets,
            np.asarray(self.known_passages[low:high]),
            np.asarray(self.same_text[here]),
            self.clustered,
            self.clusters,
        )

    def positive_rows(self, here: slice) -> tuple[Ids, Ids]:
        """Return (offsets, rows of passages) of the kept positives of the queries in some rows."""
        ids = self.query_ids[here]
        low, high = np.searchsorted(self.positive_queries, [ids[0], ids[-1] + 1])
        offsets = np.searchsorted(self.positive_queries[low:high], np.append(ids, ids[-1] + 1))
        return offsets, np.searchsorted(self.passage_ids, self.positive_passages[low:high])


@dataclass(frozen=True)
class Wanted:
    """Which relations: of the pairs of some tasks, and of some queries only, or of all (None)."""

    tasks: tuple[str, ...]
    query_ids: Ids | None = None


def write_relations(
    catalog: Catalog, snapshot: Snapshot, wanted: Wanted, folder: Path, memory_mb: int
) -> Relations:
    """Read a snapshot's relations out of the lake; a folder that is complete stays as it is."""
    if not (folder / _WRITTEN).exists():
        folder.mkdir(parents=True, exist_ok=True)
        with _prepared(catalog, snapshot, wanted, memory_mb) as connection:
            rows = {name: _write_columns(connection, name, folder) for name in _COLUMNS}
        write_json(folder / _WRITTEN, rows)
    return Relations(folder)


@contextlib.contextmanager
def _prepared(
    catalog: Catalog, snapshot: Snapshot, wanted: Wanted, memory_mb: int
) -> Iterator[duck.Connection]:
    tasks = wanted.tasks
    with snapshot_reader(catalog, snapshot) as connection:
        connection.execute(f"set memory_limit = '{memory_mb}MB'")
        connection.execute("set arrow_lossless_conversion = true")  # keys as 16 bytes, not as text
        unnamed = connection.execute(_sql("unnamed"), {"tasks": list(tasks)}).fetchone()
        if unnamed is not None and unnamed[0]:
            raise CatalogError(
                f"{unnamed[0]:,} kept rows of snapshot {snapshot.name} have no text ids: they came "
                "after the last curation; run lode curate and make a new snapshot"
            )
        for statement in _sql("kept").split(";"):
            bound = {"tasks": list(tasks)} if "$tasks" in statement else {}
            connection.execute(statement, bound)
        own = f"{own_instruction(connection)} is not null"
        connection.execute(
            "create temp table instructed_queries as select q.query_id, p.query "
            f"from mine_queries q join pairs p on p.pair_id = q.query_id where {own}"
        )
        if wanted.query_ids is not None:
            connection.register("wanted_queries", pa.table({"query_id": wanted.query_ids}))
            connection.execute(
                "delete from mine_queries where query_id not in (from wanted_queries)"
            )
        if not scalar(connection, "select count(*) from mine_queries"):
            raise CatalogError(
                f"snapshot {snapshot.name} keeps no pair of task {' or '.join(tasks)} with "
                f"{'a query' if wanted.query_ids is None else 'one of the wanted queries'}: there "
                "is nothing to mine; lode snapshot show says what it holds"
            )
        yield connection


def _write_columns(connection: duck.Connection, name: str, folder: Path) -> int:
    """Stream a statement's columns into one array each; return its number of rows."""
    sql = _sql(name)
    rows = int(str(scalar(connection, f"select count(*) from ({sql})")))
    arrays: list[npt.NDArray[Any]] = []
    filled = 0
    reader = connection.execute(sql).to_arrow_reader(BATCH_ROWS)
    for array_name, field in zip(_COLUMNS[name], reader.schema, strict=True):
        arrays.append(_create(folder / f"{array_name}.npy", field.type, rows))
    for batch in reader:
        for array, column in zip(arrays, batch.columns, strict=True):
            array[filled : filled + len(column)] = _numbers(column)
        filled += batch.num_rows
    for array, array_name in zip(arrays, _COLUMNS[name], strict=True):
        array.flush()  # type: ignore[attr-defined]
        sync_file(folder / f"{array_name}.npy")
    return rows


def _create(path: Path, kind: pa.DataType, rows: int) -> npt.NDArray[Any]:
    if kind == pa.int64():
        return np.lib.format.open_memmap(path, "w+", np.int64, (rows,))
    return np.lib.format.open_memmap(path, "w+", np.uint64, (rows, 2))


def _numbers(column: pa.Array) -> npt.NDArray[Any]:
    return column.to_numpy() if column.type == pa.int64() else keys_of(column)


def _sql(name: str) -> str:
    return (SQL_FOLDER / f"mine_{name}.sql").read_text(encoding="utf-8")
