"""What goes into a pack, as SQL: the kept rows of a snapshot and their text ids.

Ids and numbers are gathered in a DuckDB file beside the pack, which sorts and joins them in bounded
memory; texts are only ever streamed out of the lake, in ranges of ids.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from catalog import duck
from catalog.columns import available_columns
from catalog.expressions import unknown_name
from catalog.lake import Catalog, scalar
from catalog.pack.layout import CANDIDATES, MAX_SOURCES, Ids, PackError, PackSettings
from catalog.schema import TASKS
from catalog.snapshots import Snapshot
from catalog.verdicts import masks_sql

# What was mined and scored for a snapshot came after it: it is read from the lake as it is now.
NOW: Final = "lake_now"
SCRATCH: Final = "scratch"
# Texts that one statement sorts: 100 MB of 380-character texts.
RANGE_TEXTS: Final = 1 << 18
BATCH_ROWS: Final = 1 << 15
# Enough for zstd's trainer, which wants a hundred times the dictionary.
SAMPLE_TEXTS: Final = 30_000
SAMPLE_RUNS: Final = 32  # a run costs the reading of a row group of the lake
COLUMN_OF: Final = {"query": "query", "passage": "positive"}


@contextmanager
def open_contents(
    catalog: Catalog, snapshot: Snapshot, folder: Path, memory_mb: int
) -> Iterator[duck.Connection]:
    """Attach the lake at the snapshot, the lake as it is now, and an empty scratch database."""
    for path in folder.glob(f"{SCRATCH}.duckdb*"):
        path.unlink()
    with catalog.reader(version=snapshot.lake_version) as connection:
        connection.execute(f"set memory_limit = '{memory_mb}MB'")
        connection.execute(f"set temp_directory = {duck.quote(str(folder / 'spill'))}")
        # A batch of long texts can exceed the 2 GB that Arrow's 32-bit offsets reach.
        connection.execute("set arrow_large_buffer_size = true")
        duck.retry(lambda: connection.execute(catalog.attach_sql(NOW)))
        place = duck.quote(str(folder / f"{SCRATCH}.duckdb"))
        connection.execute(f"attach {place} as {SCRATCH}")
        yield connection


@dataclass(frozen=True)
class Scores:
    """The teacher scores that a pack takes."""

    model: str
    revision: str


def find_scores(connection: duck.Connection, settings: PackSettings) -> Scores | None:
    """Decide which revision's scores are meant; raise where there are none, or several."""
    model, revision = settings.scores_model, settings.scores_revision
    if model is None:
        return None
    rows = connection.execute(f"select distinct model, revision from {NOW}.scores").fetchall()
    known = sorted(r for m, r in rows if m == model)
    if not known:
        raise PackError(unknown_name("scores model", model, {m for m, _ in rows}))
    if revision is None and len(known) > 1:
        raise PackError(
            f"model {model!r} has scores of several revisions ({', '.join(known)}); "
            "say which: scores_revision"
        )
    if revision is not None and revision not in known:
        raise PackError(unknown_name(f"revision of {model}", revision, known))
    return Scores(model, revision or known[0])


def check_run(connection: duck.Connection, run: str) -> None:
    """Raise where the catalog has no candidates of a mining run."""
    runs = connection.execute(f"select distinct run from {NOW}.{CANDIDATES}").fetchall()
    if not runs:
        raise PackError("the catalog has no candidates yet; run: lode mine")
    if (run,) not in runs:
        raise PackError(unknown_name("mining run", run, {name for (name,) in runs}))


def gather_kept(connection: duck.Connection, snapshot: Snapshot, scores: Scores | None) -> None:
    """Write ``kept``: a row of numbers for every kept pair or passage of the snapshot.

    A row that has no text ids (it came after the last search for duplicates) names its own texts.
    """
    masks = masks_sql(snapshot.policy, available_columns(connection))
    model, revision = (scores.model, scores.revision) if scores else ("", "")
    connection.execute(
        f"""
        create table {SCRATCH}.kept as
        with masks as (
        {masks}
        ),
        scores as (
          select pair_id, score from {NOW}.scores where model = ? and revision = ?
        )
        select
          m.is_pair,
          list_position(?, p.task)::utinyint as task,
          p.pair_id,
          p.source,
          coalesce(t.query_id, p.pair_id) as query_id,
          coalesce(t.passage_id, p.pair_id) as passage_id,
          p.label::float as label,
          s.score::float as score
        from masks m
        join lake.pairs p using (pair_id)
        left join lake.text_ids t using (pair_id)
        left join scores s using (pair_id)
        where m.fails = 0
        """,
        [model, revision, list(TASKS)],
    )
    unknown = scalar(connection, f"select min(pair_id) from {SCRATCH}.kept where task is null")
    if unknown is not None:
        raise PackError(
            f"pair {unknown} has a task that is none of {', '.join(TASKS)}; correct it in the "
            "recipe and ingest its file again with --replace"
        )


def count_tasks(connection: duck.Connection) -> dict[str, int]:
    """Count the kept pairs of each task, in the order in which a pack holds them."""
    rows = connection.execute(
        f"select task, count(*) from {SCRATCH}.kept where is_pair group by task order by task"
    ).fetchall()
    return {TASKS[task - 1]: pairs for task, pairs in rows}


def list_sources(connection: duck.Connection) -> list[str]:
    """List the sources of the kept pairs; a source's place is its code."""
    rows = connection.execute(
        f"select distinct source from {SCRATCH}.kept where is_pair order by source"
    ).fetchall()
    if len(rows) > MAX_SOURCES:
        raise PackError(
            f"the snapshot has {len(rows):,} sources; a pack numbers at most {MAX_SOURCES:,}: "
            "make snapshots of some of them, or ingest with fewer source names"
        )
    return [source for (source,) in rows]


def query_ids(connection: duck.Connection) -> Iterator[Ids]:
    """Stream the ids of the kept pairs' queries, ascending."""
    sql = f"select distinct query_id as id from {SCRATCH}.kept where is_pair order by id"
    for batch in stream(connection, sql):
        yield batch.column(0).to_numpy()


def passage_ids(connection: duck.Connection, run: str | None) -> Iterator[Ids]:
    """Stream the ids of the kept rows' passages and of what a run kept for their queries."""
    mined = ""
    if run is not None:
        mined = f"""
          union all
          select unnest(passage_ids) as id, unnest(filtered_by) as filtered_by
          from {NOW}.{CANDIDATES}
          where run = {duck.quote(run)}
            and query_id in (select query_id from {SCRATCH}.kept where is_pair)
        """
    sql = f"""
        select distinct id from (
          select passage_id as id, 0 as filtered_by from {SCRATCH}.kept {mined}
        ) where filtered_by = 0 order by id
    """
    for batch in stream(connection, sql):
        yield batch.column(0).to_numpy()


def gather_late(connection: duck.Connection, ids: Ids) -> None:
    """Write ``late``: passages that candidates name and that the snapshot's version has not."""
    connection.execute(f"create table {SCRATCH}.late (id bigint)")
    with registered(connection, "wanted", ids):
        connection.execute(
            f"insert into {SCRATCH}.late "
            "select id from wanted anti join lake.pairs p on p.pair_id = wanted.id"
        )
    lost = connection.execute(
        f"select min(id), count(*) from {SCRATCH}.late "
        f"anti join {NOW}.pairs p on p.pair_id = late.id having count(*) > 0"
    ).fetchone()
    if lost is not None:
        raise PackError(
            f"{lost[1]:,} passages are no longer in the catalog (first: {lost[0]}); "
            "mine the snapshot again"
        )


def named_texts(connection: duck.Connection, side: str, ids: Ids) -> Iterator[pa.Array]:
    """Stream the texts of ids, which are ascending, as large_string arrays in their order."""
    return named_column(connection, side, COLUMN_OF[side], ids)


def named_keys(connection: duck.Connection, side: str, ids: Ids) -> Iterator[pa.Array]:
    """Stream the 128-bit keys of the texts of ids in their order."""
    connection.execute("set arrow_lossless_conversion = true")
    return named_column(connection, side, f"{COLUMN_OF[side]}_key", ids)


def named_column(
    connection: duck.Connection, side: str, column: str, ids: Ids
) -> Iterator[pa.Array]:
    """Stream a column of the rows that name texts by their ids, in the order of the ids."""
    for first in range(0, len(ids), RANGE_TEXTS):
        wanted = ids[first : first + RANGE_TEXTS]
        found = 0
        with registered(connection, "wanted", wanted):
            for batch in stream(connection, _named_sql(side, column, wanted)):
                these = batch.column(0).to_numpy()
                if not np.array_equal(these, wanted[found : found + len(these)]):
                    raise PackError(_lost_text(side, wanted[found : found + len(these)], these))
                found += len(these)
                yield batch.column(1)
        if found < len(wanted):
            raise PackError(_lost_text(side, wanted[found:], np.empty(0, np.int64)))


def _named_sql(side: str, column: str, wanted: Ids) -> str:
    between = f"p.pair_id between {int(wanted[0])} and {int(wanted[-1])}"
    late = ""
    if side == "passage":
        late = (
            f"union all select p.pair_id, p.{column} from {NOW}.pairs p "
            f"semi join {SCRATCH}.late l on p.pair_id = l.id "
            f"semi join wanted w on p.pair_id = w.id where {between}"
        )
    return (
        f"select p.pair_id, p.{column} from lake.pairs p "
        f"semi join wanted w on p.pair_id = w.id where {between} {late} order by 1"
    )


def _lost_text(side: str, wanted: Ids, found: Ids) -> str:
    missing = np.setdiff1d(wanted, found)
    first = missing[0] if len(missing) else "none"
    return (
        f"the lake has other {side} texts than its text ids name (first missing: {first}); "
        "run: lode check"
    )


def sample_texts(
    connection: duck.Connection, side: str, ids: Ids
) -> list[bytes | bytearray | memoryview]:
    """Read runs of texts, spread evenly over the ids, to train a dictionary on."""
    run_texts = -(-SAMPLE_TEXTS // SAMPLE_RUNS)
    step = max(run_texts, -(-len(ids) // SAMPLE_RUNS))
    runs = [ids[first : first + run_texts] for first in range(0, len(ids), step)]
    arrays = [array for run in runs for array in named_texts(connection, side, run)]
    return [text.encode() for array in arrays for text in array.to_pylist() if text]


def number(connection: duck.Connection, sql: str) -> int:
    """Return the one number that a query gives."""
    found = scalar(connection, sql)
    assert isinstance(found, int), sql
    return found


def stream(connection: duck.Connection, sql: str) -> Iterator[pa.RecordBatch]:
    """Run a query and yield its rows as they come."""
    yield from connection.execute(sql).to_arrow_reader(BATCH_ROWS)


@contextmanager
def registered(
    connection: duck.Connection, name: str, ids: npt.NDArray[np.int64]
) -> Iterator[None]:
    """Let queries read a vector of ids as a table with the column ``id``."""
    connection.register(name, pa.table({"id": pa.array(ids, pa.int64())}))
    try:
        yield
    finally:
        connection.unregister(name)
