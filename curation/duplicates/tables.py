"""What a deduplication reads from the lake's tables and writes to them, beside the edges."""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc

from catalog import duck
from catalog.jobs import TaskOutput
from catalog.lake import Catalog
from catalog.schema import DUPLICATES, TEXT_IDS
from curation.duplicates.clusters import clusters
from curation.duplicates.idset import IdSet
from curation.duplicates.steps import DuplicateStep, Work

WRITE_TEXT_IDS: Final = "text-ids"
WRITE_CLUSTERS: Final = "near-clusters"
_PAIR_IDS: Final = pa.schema([pa.field("pair_id", pa.int64())])
_BATCH_ROWS: Final = 122_880
_EDGE_BATCH_ROWS: Final = 4_000_000
# DuckDB itself asks for more than the smallest memory_mb.
_LEAST_DUCKDB_MB: Final = 256


@dataclass(frozen=True)
class LakeView:
    """The lake at the version that a job began with, and what the job has written beside it."""

    catalog: Catalog
    version: int
    from_scratch: bool  # what the tables hold is of other settings or other files: leave it out
    memory_mb: int
    new_text_ids: Sequence[str] = ()  # Parquet files
    new_edges: Sequence[str] = ()

    @contextlib.contextmanager
    def open(self) -> Iterator[duck.Connection]:
        """Open the lake with the views every_text_id and every_edge."""
        with self.catalog.reader(self.version) as connection:
            connection.execute(f"set memory_limit = '{max(self.memory_mb, _LEAST_DUCKDB_MB)}MB'")
            self._define(connection, "every_text_id", "text_ids", self.new_text_ids)
            self._define(connection, "every_edge", "duplicate_edges", self.new_edges)
            yield connection

    def _define(
        self, connection: duck.Connection, view: str, table: str, paths: Sequence[str]
    ) -> None:
        old = f"select * from {table}" + (" where false" if self.from_scratch else "")
        places = ", ".join(map(duck.quote, paths))
        new = f" union all by name select * from read_parquet([{places}])" if paths else ""
        connection.execute(f"create temp view {view} as {old}{new}")


class WriteTextIds(DuplicateStep):
    """Names the texts of the new pairs; its one task is the LakeView."""

    name = "text ids"
    stage = WRITE_TEXT_IDS

    def __init__(self, work: Work, tasks: Sequence[Any], file_rows: Mapping[int, int]) -> None:
        super().__init__(work, tasks)
        self.file_rows = file_rows

    def do(self, rank: int, out: TaskOutput) -> None:
        """Write the rows of ``text_ids``, and the set of pairs that stand for their text."""
        found = IdSet.empty(self.file_rows)
        by_passage = self.work.settings.text == "passage"
        with self.tasks[rank].open() as connection:
            named = "passages" if by_passage else "pairs"
            for ids in _stream(connection, f"representative_{named}", _PAIR_IDS):
                found.add(ids["pair_id"].to_numpy())
            for rows in _stream(connection, "text_ids", TEXT_IDS, new_from=self.work.new_from):
                self.write(rank, out, "text_ids", rows)
                if by_passage:
                    first = pc.equal(rows["pair_id"], rows["passage_id"])
                    found.add(rows["pair_id"].filter(first).to_numpy())
        found.save(self.work.representatives)


class WriteClusters(DuplicateStep):
    """Joins edges to clusters; its one task is the LakeView."""

    name = "clusters"
    stage = WRITE_CLUSTERS

    def do(self, rank: int, out: TaskOutput) -> None:
        """Write the rows of ``duplicates``."""
        settings = self.work.settings
        with self.tasks[rank].open() as connection:
            exact = statement("exact")
            connection.execute(f"create temp table exact_duplicates as {exact}")
            connection.register("near_clusters", _near_clusters(connection, settings.threshold))
            for rows in _batches(connection.execute("from exact_duplicates"), DUPLICATES):
                self.write(rank, out, "duplicates", rows)
            sizes = {"text": settings.text, "template_min_size": settings.template_min_size}
            for rows in _stream(connection, "near", DUPLICATES, **sizes):
                self.write(rank, out, "duplicates", rows)


def save_candidates(work: Work, lake: LakeView, file_rows: Mapping[int, int]) -> None:
    """Write the set of pairs whose texts will be compared.

    These are the members of the pairs that were found, and what is one edge away from an old one
    of them: a new text that is similar to it is compared with those as well.
    """
    if work.candidates.exists():
        return
    found, near = IdSet.empty(file_rows), IdSet.empty(file_rows)
    for run in work.found.open():
        found.add(run.ravel())
    if not lake.from_scratch:
        with lake.open() as connection:
            edges = connection.execute("select a_id, b_id from every_edge")
            for batch in edges.to_arrow_reader(_BATCH_ROWS):
                a_ids, b_ids = batch["a_id"].to_numpy(), batch["b_id"].to_numpy()
                touched = found.contains(a_ids) | found.contains(b_ids)
                near.add(a_ids[touched])
                near.add(b_ids[touched])
        found.bits[:] |= near.bits
    found.save(work.candidates)


def statement(name: str) -> str:
    """Load an SQL statement of this package."""
    return files("curation.duplicates").joinpath(f"{name}.sql").read_text(encoding="utf-8")


def _near_clusters(connection: duck.Connection, threshold: float) -> pa.Table:
    edges = connection.execute(
        "select a_id, b_id, jaccard from every_edge where jaccard >= ?::float", [threshold]
    ).to_arrow_reader(_EDGE_BATCH_ROWS)
    return clusters((pa.Table.from_batches([batch]) for batch in edges), threshold)


def _stream(
    connection: duck.Connection, name: str, schema: pa.Schema, **values: object
) -> Iterator[pa.Table]:
    return _batches(connection.execute(statement(name), values), schema)


def _batches(result: Any, schema: pa.Schema) -> Iterator[pa.Table]:
    for batch in result.to_arrow_reader(_BATCH_ROWS):
        yield pa.Table.from_batches([batch]).select(schema.names).cast(schema)
