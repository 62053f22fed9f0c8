"""Measuring signals: which are missing for which files, computed and committed as side tables.

A signal lives in a side table ``signals_0001``, ``signals_0002``, …: all signals that were new at
one time share one table, but those of a classifier or n-gram model have one of their own, since
another recipe may not name it. A signal that comes later, or whose definition changed, gets a new
table; nothing that is there is touched. New files get rows in every table that is in use.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import pyarrow as pa
import pyarrow.compute
from datatrove.pipeline.base import PipelineStep

from catalog import duck
from catalog.columns import signal_tables
from catalog.executors import ExecutorSettings, ProgressCallback, run_tasks
from catalog.jobs import Job, JobOutput, Manifest, TaskOutput, open_job
from catalog.lake import LAKE, Catalog, scalar
from catalog.records import to_json
from catalog.schema import BAND_KEYS, FILE_SHIFT, create_table_sql
from catalog.storage import open_parquet
from catalog.views import refresh_views
from curation.minhash import MinHashSettings, band_keys
from curation.signals import PairBatch, Signal, SignalSettings, compute, registered
from curation.signals.classifiers import FAMILY as CLASSIFIERS
from curation.signals.fluency import FAMILY as NGRAMS
from curation.texts import decode, normalize

# What near-duplicates compare: the passage, or query and passage together.
KeyedText = Literal["passage", "pair"]
STAGE = "signals"
BAND_KEYS_TABLE = "band_keys"
# What signals read; the keys, labels and other fields stay on disk.
READ_COLUMNS = ("pair_id", "query", "positive", "url")
# Small enough for the caches to hold what the kernels walk, large enough to spread their call.
BATCH_ROWS = 8_192
# One task is a few row groups: progress is fine-grained and a lost worker costs a minute.
TASK_ROWS = 250_000


@dataclass(frozen=True)
class MeasureSettings:
    """What to measure; band keys are made for ``minhash`` from the text that it names."""

    signals: SignalSettings = field(default_factory=SignalSettings)
    minhash: MinHashSettings = field(default_factory=MinHashSettings)
    text: KeyedText = "passage"

    @property
    def minhash_version(self) -> str:
        """Identify everything that decides a band key."""
        return hashlib.sha256(to_json([asdict(self.minhash), self.text]).encode()).hexdigest()[:8]


@dataclass(frozen=True)
class Measured:
    """What a run of ``measure`` did."""

    job_id: str | None  # None: there was nothing to do
    pairs: int
    tables: list[str]


@dataclass(frozen=True)
class _Gap:
    """Signals of one side table that are missing for some files."""

    table: str
    signals: tuple[str, ...]
    file_ids: frozenset[int]
    is_new: bool


def measure(
    catalog: Catalog,
    settings: MeasureSettings | None = None,
    executor: ExecutorSettings | None = None,
    progress: ProgressCallback | None = None,
    recipe: str | None = None,
) -> Measured:
    """Compute every signal and band key that is missing, and commit them together."""
    settings = settings or MeasureSettings()
    wanted = registered(settings.signals)
    with catalog.reader() as connection:
        gaps = _find_gaps(connection, wanted, settings.minhash_version)
        file_ids = sorted(set().union(*(gap.file_ids for gap in gaps)))
    if not file_ids:
        return Measured(None, 0, [])
    inputs = {
        "gaps": [[gap.table, list(gap.signals), sorted(gap.file_ids)] for gap in gaps],
        "versions": {name: signal.version for name, signal in wanted.items()},
        "minhash": settings.minhash_version,
    }
    with open_job(catalog, STAGE, _plain(settings), inputs, recipe) as job:
        pairs = 0
        if not job.is_committed():
            plan = job.plan(lambda: plan_tasks(catalog, set(file_ids)))
            tasks: Any = plan["tasks"]
            steps = [
                ReadPairs(job.output, tasks),
                MeasureSignals(gaps, settings),
                WriteSideTables(job.output),
            ]
            run_tasks(job, STAGE, steps, len(tasks), executor, progress)
            done = _commit(job, gaps, wanted, settings.minhash_version)
            pairs = sum(manifest.notes["pairs"] for manifest in done)
    return Measured(job.job_id, pairs, [gap.table for gap in gaps])


def pending_pairs(catalog: Catalog, settings: MeasureSettings) -> int:
    """Count the pairs for which something is still to be measured."""
    with catalog.reader() as connection:
        gaps = _find_gaps(connection, registered(settings.signals), settings.minhash_version)
        file_ids = sorted(set().union(*(gap.file_ids for gap in gaps)))
        rows = scalar(
            connection,
            "select sum(rows)::bigint from files where list_contains(?, file_id)",
            [file_ids],
        )
    return int(str(rows or 0))


class ReadPairs(PipelineStep):  # type: ignore[misc]
    """Yields the pairs of a task as Arrow tables, straight from the lake's Parquet files."""

    type = "READER"
    name = "pairs"

    def __init__(
        self, output: JobOutput, tasks: Sequence[dict[str, Any]], stage: str = STAGE
    ) -> None:
        super().__init__()
        self.output = output
        self.tasks = tasks
        self.stage = stage

    def run(self, data: Any = None, rank: int = 0, world_size: int = 1) -> Iterator[pa.Table]:
        """Yield tables of at most BATCH_ROWS pairs, only those of files that are in the lake."""
        task = self.tasks[rank]
        live = pa.array(task["file_ids"], pa.int64())
        done = 0
        for path, group in task["groups"]:
            rows = open_parquet(path).read_row_group(group, columns=list(READ_COLUMNS))
            file_ids = pa.compute.shift_right(rows["pair_id"], FILE_SHIFT)
            rows = rows.filter(pa.compute.is_in(file_ids, live))
            for start in range(0, rows.num_rows, BATCH_ROWS):
                batch = rows.slice(start, BATCH_ROWS)
                yield batch
                done += batch.num_rows
                self.output.report_progress(self.stage, rank, done)


class MeasureSignals(PipelineStep):  # type: ignore[misc]
    """Turns pairs into the rows of every side table that lacks them."""

    type = "SIGNALS"
    name = "measure"

    def __init__(self, gaps: Sequence[_Gap], settings: MeasureSettings) -> None:
        super().__init__()
        self.gaps = gaps
        self.settings = settings

    def run(
        self, data: Iterator[pa.Table], rank: int = 0, world_size: int = 1
    ) -> Iterator[dict[str, pa.Table]]:
        """Yield {side table: rows} for each table of pairs."""
        for pairs in data:
            yield self.measure(pairs)

    def measure(self, pairs: pa.Table) -> dict[str, pa.Table]:
        """Compute all missing signals of some pairs at once, then share them out."""
        names = [name for gap in self.gaps for name in gap.signals if gap.table != BAND_KEYS_TABLE]
        batch = PairBatch(pairs)  # texts are decoded and normalised once for signals and keys
        measured = compute(batch, names, self.settings.signals) if names else None
        tables = {}
        for gap in self.gaps:
            if gap.table == BAND_KEYS_TABLE:
                rows = band_key_table(batch, self.settings)
            else:
                assert measured is not None
                rows = measured.select(["pair_id", *gap.signals])
            file_ids = pa.compute.shift_right(rows["pair_id"], FILE_SHIFT)
            missing = pa.array(sorted(gap.file_ids), pa.int64())
            tables[gap.table] = rows.filter(pa.compute.is_in(file_ids, missing))
        return tables


class WriteSideTables(PipelineStep):  # type: ignore[misc]
    """Writes what a task measured, and its manifest when all of it is on disk."""

    type = "WRITER"
    name = "side tables"

    def __init__(self, output: JobOutput) -> None:
        super().__init__()
        self.output = output

    def run(
        self, data: Iterator[dict[str, pa.Table]], rank: int = 0, world_size: int = 1
    ) -> Iterator[None]:
        """Write every table of every batch; nothing flows on."""
        with self.output.task(STAGE, rank) as out:
            for tables in data:
                self._write(out, tables)
        yield from ()

    @staticmethod
    def _write(out: TaskOutput, tables: dict[str, pa.Table]) -> None:
        for table, rows in tables.items():
            out.write(table, rows)
        out.note("pairs", max(rows.num_rows for rows in tables.values()))


def _find_gaps(
    connection: duck.Connection, wanted: dict[str, Signal], minhash_version: str
) -> list[_Gap]:
    """Compare what is wanted with what is stored: signals by version, files by side table."""
    files = {
        f for (f,) in connection.execute("select file_id from files where rows > 0").fetchall()
    }
    stored = connection.execute(
        "select signal, version, table_name from signal_columns order by position"
    ).fetchall()
    # Readers see the last table that has a signal: an older one does not help, even if it fits.
    place = {signal: (version, table) for signal, version, table in stored}
    by_table: set[str] = set()
    fresh: dict[str, list[str]] = {}
    for name, signal in wanted.items():
        version, table = place.get(name, ("", ""))
        if version == signal.version:
            by_table.add(table)
        else:
            own = signal.measure.name if signal.family in (CLASSIFIERS, NGRAMS) else ""
            fresh.setdefault(own, []).append(name)
    gaps = []
    stored_signals = dict(signal_tables(connection))
    for table in sorted(by_table):
        missing = files - _measured_files(connection, table)
        # A side table is measured whole: its rows have all its columns, also those since replaced.
        names = tuple(name for name in stored_signals[table] if name in wanted)
        gaps.append(_Gap(table, names, frozenset(missing), is_new=False))
    first = 1 + max((int(name.split("_")[1]) for name in stored_signals), default=0)
    for number, together in enumerate(fresh.values(), start=first):
        gaps.append(_Gap(f"signals_{number:04d}", tuple(together), frozenset(files), is_new=True))
    keys_known = place.get(BAND_KEYS_TABLE, ("", ""))[0] == minhash_version
    keyed = _measured_files(connection, BAND_KEYS_TABLE) if keys_known else set()
    gaps.append(_Gap(BAND_KEYS_TABLE, (), frozenset(files - keyed), is_new=not keys_known))
    return [gap for gap in gaps if gap.file_ids]


def _measured_files(connection: duck.Connection, table: str) -> set[int]:
    rows = connection.execute(
        f"select distinct pair_id >> {FILE_SHIFT} from {duck.identifier(table)}"
    ).fetchall()
    return {file_id for (file_id,) in rows}


def plan_tasks(catalog: Catalog, file_ids: set[int]) -> dict[str, object]:
    """Cut the row groups that hold pairs of these files into tasks, the largest first."""
    with catalog.reader() as connection:
        rows = connection.execute(
            f"select data_file from ducklake_list_files('{LAKE}', 'pairs') order by data_file"
        ).fetchall()
    tasks: list[dict[str, Any]] = []
    for (path,) in rows:
        current: dict[str, Any] = {"groups": [], "rows": 0, "bytes": 0}
        metadata = open_parquet(path).metadata
        for group in range(metadata.num_row_groups):
            found = metadata.row_group(group)
            if not _group_files(found) & file_ids:
                continue
            if current["rows"] + found.num_rows > TASK_ROWS and current["groups"]:
                tasks.append(current)
                current = {"groups": [], "rows": 0, "bytes": 0}
            current["groups"].append([path, group])
            current["rows"] += found.num_rows
            current["bytes"] += found.total_byte_size
        if current["groups"]:
            tasks.append(current)
    # The largest first: the last worker to finish then has little left to do.
    tasks.sort(key=lambda task: (-task["bytes"], task["groups"]))
    for task in tasks:
        task["file_ids"] = sorted(file_ids)
    return {"tasks": tasks}


def _group_files(group: Any) -> set[int]:
    """Return the numbers of the source files that a row group can hold."""
    for column in range(group.num_columns):
        chunk = group.column(column)
        if chunk.path_in_schema == "pair_id":
            low, high = chunk.statistics.min >> FILE_SHIFT, chunk.statistics.max >> FILE_SHIFT
            return set(range(low, high + 1))
    raise AssertionError("a data file of pairs has no pair_id")


def _commit(
    job: Job, gaps: Sequence[_Gap], wanted: dict[str, Signal], minhash_version: str
) -> list[Manifest]:
    def change(connection: duck.Connection) -> None:
        for gap in gaps:
            if not gap.is_new:
                continue
            if gap.table == BAND_KEYS_TABLE:
                _replace_band_keys(connection, minhash_version)
                continue
            schema = pa.schema(
                [pa.field("pair_id", pa.int64(), nullable=False)]
                + [pa.field(name, wanted[name].type) for name in gap.signals]
            )
            connection.execute(create_table_sql(gap.table, schema))
            position = int(gap.table.split("_")[1])
            for name in gap.signals:
                connection.execute(
                    "insert into signal_columns values (?, ?, ?, ?)",
                    [name, wanted[name].version, gap.table, position],
                )

    return job.commit(change, finish=refresh_views)


def _replace_band_keys(connection: duck.Connection, version: str) -> None:
    """Forget keys of other settings, and what was found with them."""
    for table in (BAND_KEYS_TABLE, "duplicate_edges", "duplicates", "text_ids"):
        connection.execute(f"delete from {table}")
    connection.execute("delete from signal_columns where table_name = 'band_keys'")
    connection.execute(
        "insert into signal_columns values ('band_keys', ?, 'band_keys', 0)", [version]
    )


def band_key_table(batch: PairBatch, settings: MeasureSettings) -> pa.Table:
    """Compute the band keys of pairs, in the shape of the table ``band_keys``."""
    texts = batch.normalized_passage
    if settings.text == "pair":
        sides = (batch.column("query"), batch.column("positive"))
        joined = pa.compute.binary_join_element_wise(*sides, "\n", null_handling="skip")
        texts = normalize(decode(joined))
    keys, valid = band_keys(texts, settings.minhash)
    columns = {
        f"b{band:02d}": pa.array(keys[:, band], pa.uint64(), mask=~valid)
        for band in range(settings.minhash.bands)
    }
    empty = pa.nulls(len(batch), pa.uint64())
    arrays = [columns.get(name, empty) for name in BAND_KEYS.names[1:]]
    return pa.table([batch.column("pair_id"), *arrays], schema=BAND_KEYS)


def _plain(settings: MeasureSettings) -> dict[str, object]:
    return {
        "signals": {key: str(value) for key, value in asdict(settings.signals).items()},
        "minhash": asdict(settings.minhash),
        "text": settings.text,
    }
