"""Resumable jobs: tasks write Parquet files aside, one commit makes all of them visible.

A job is named by what it does (kind, settings, inputs), so the same command finds its own earlier
work. Its tasks write whole files under names derived from (job, task), publish them (a synced
rename, or an upload to S3) and leave a manifest; workers need no database. The commit registers
every file and the record of the job in one transaction. A file that is registered already is never
registered again: DuckLake would silently double its rows.

    with open_job(catalog, "signals", settings, inputs) as job:
        if not job.is_committed():
            plan = job.plan(make_plan)                        # made once, read again by a re-run
            run_tasks(job, "signals", steps, num_tasks=len(plan["tasks"]))   # catalog.executors
            job.commit()
"""

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from types import TracebackType

import pyarrow as pa
import pyarrow.parquet as pq

from catalog import duck
from catalog.errors import CatalogError, JobBusyError
from catalog.lake import LAKE, Catalog, scalar
from catalog.records import checksum, now, to_json, write_json, writing
from catalog.storage import Storage, open_storage
from catalog.version import code_version

# One row group is what a reader decodes at once; DuckDB's own size, so its threads share files
# well.
ROW_GROUP_ROWS = 122_880
# Long texts make smaller groups: what a writer holds is bounded in bytes, too.
ROW_GROUP_BYTES = 256 << 20
# A longer file is cut: registration, checksums and resuming stay in seconds.
FILE_MAX_ROWS = 4_000_000


@dataclass(frozen=True)
class WrittenFile:
    """A finished Parquet file of a task; ``path`` is relative to the catalog's data."""

    table: str
    path: str
    rows: int
    bytes: int
    xxh3: str


@dataclass(frozen=True)
class Manifest:
    """What one finished task wrote, and the numbers it noted for the commit."""

    task: int
    files: list[WrittenFile]
    notes: dict[str, int]


@dataclass(frozen=True)
class JobOutput:
    """Where the tasks of a job write: plain values, so that it travels to any worker."""

    job_id: str
    folder: Path
    data: str

    def is_done(self, stage: str, task: int) -> bool:
        """Say whether the task has left its manifest."""
        return self.manifest_path(stage, task).exists()

    def is_closed(self) -> bool:
        """Say whether the job's folder was closed by a commit: its files may be registered."""
        return (self.folder / "committed.json").exists()

    def manifest_path(self, stage: str, task: int) -> Path:
        """Return where the task leaves its manifest."""
        return self.folder / "manifests" / f"{stage}-{task:05d}.json"

    def task(self, stage: str, task: int) -> "TaskOutput":
        """Open the output of one task; files and manifest appear when the block ends well."""
        return TaskOutput(self, stage, task)

    def report_progress(self, stage: str, task: int, done: int) -> None:
        """Note how many units a running task has finished, for whoever shows progress."""
        path = self.folder / "progress" / f"{stage}-{task:05d}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(str(done))


@dataclass
class TaskOutput:
    """Parquet files that a task is writing, a set of parts for each table."""

    place: JobOutput
    stage: str
    task: int
    notes: dict[str, int] = field(default_factory=dict)
    _writers: dict[str, "_TableWriter"] = field(default_factory=dict)
    _opened: Storage | None = None

    def write(self, table: str, rows: pa.Table | pa.RecordBatch) -> None:
        """Append rows to a table; its first rows fix the schema."""
        if isinstance(rows, pa.RecordBatch):
            rows = pa.Table.from_batches([rows])
        with writing(self.place.data):
            writer = self._writers.get(table)
            if writer is None:
                name = f"{self.place.job_id}-{self.stage}-{self.task:05d}"
                writer = _TableWriter(self._storage(), self.place.folder, table, name, rows.schema)
                self._writers[table] = writer
            writer.write(rows)

    def _storage(self) -> Storage:
        # Opened where the task runs: credentials never travel.
        if self._opened is None:
            self._opened = open_storage(self.place.data)
        return self._opened

    def note(self, name: str, amount: int = 1) -> None:
        """Add to a count that the commit will read."""
        self.notes[name] = self.notes.get(name, 0) + amount

    def __enter__(self) -> "TaskOutput":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        # A cluster may run a task twice, when a node is lost and comes back: the first one counts.
        if error is not None or self.place.is_done(self.stage, self.task):
            for writer in self._writers.values():
                writer.discard()
            return
        closed = self.place.is_closed()
        try:
            with writing(self.place.data):
                files = [f for writer in self._writers.values() for f in writer.finish(closed)]
        except BaseException:
            # What was written aside would keep a full disk full.
            for writer in self._writers.values():
                writer.discard()
            raise
        manifest = Manifest(self.task, files, self.notes)
        write_json(self.place.manifest_path(self.stage, self.task), asdict(manifest))


class _TableWriter:
    """Writes the rows of one table as a run of Parquet files, aside, then published."""

    def __init__(
        self, storage: Storage, work: Path, table: str, name: str, schema: pa.Schema
    ) -> None:
        self.storage, self.work = storage, work
        self.table, self.name, self.schema = table, name, schema
        self.finished: list[tuple[Path, str, int]] = []  # aside, path in the storage, rows
        self.writer: pq.ParquetWriter | None = None
        self.aside = work
        self.rows = 0
        self.pending: list[pa.Table] = []
        self.pending_rows = 0
        self.pending_bytes = 0

    def write(self, rows: pa.Table) -> None:
        """Collect rows until they fill a row group."""
        self.pending.append(rows)
        self.pending_rows += rows.num_rows
        self.pending_bytes += rows.nbytes
        while self.pending_rows >= ROW_GROUP_ROWS:
            gathered = pa.concat_tables(self.pending)
            self._write_group(gathered.slice(0, ROW_GROUP_ROWS))
            rest = gathered.slice(ROW_GROUP_ROWS)
            self.pending, self.pending_rows = ([rest] if rest.num_rows else []), rest.num_rows
            self.pending_bytes = rest.nbytes
        if self.pending_bytes >= ROW_GROUP_BYTES:
            self._write_group(pa.concat_tables(self.pending))
            self.pending, self.pending_rows, self.pending_bytes = [], 0, 0

    def finish(self, keep_existing: bool = False) -> list[WrittenFile]:
        """Make the files durable, give them their names and return their checksums.

        ``keep_existing`` leaves a file of that name as it is: the lake may have registered it.
        """
        if self.pending_rows:
            self._write_group(pa.concat_tables(self.pending))
            self.pending = []
        self._close_part()
        written = []
        for aside, path, rows in self.finished:
            digest, size = checksum(aside), aside.stat().st_size
            there = self.storage.find(path) if keep_existing else None
            if there is None:
                self.storage.publish(aside, path)
            else:
                aside.unlink()
                size = there.bytes
            written.append(WrittenFile(self.table, path, rows, size, digest))
        return written

    def discard(self) -> None:
        """Remove what was written: the task failed."""
        if self.writer is not None:
            with contextlib.suppress(OSError, pa.ArrowException):
                self.writer.close()
            self.aside.unlink(missing_ok=True)
        for aside, _path, _rows in self.finished:
            aside.unlink(missing_ok=True)

    def _write_group(self, rows: pa.Table) -> None:
        if self.writer is None:
            self.aside = self.storage.aside(self._path(), self.work)
            self.writer = pq.ParquetWriter(
                self.aside,
                self.schema,
                compression="zstd",
                compression_level=1,  # level 3 is 8 % smaller and takes twice the time
                use_dictionary=self._dictionary_columns(),
            )
        self.writer.write_table(rows, row_group_size=ROW_GROUP_ROWS)
        self.rows += rows.num_rows
        if self.rows >= FILE_MAX_ROWS:
            self._close_part()

    def _path(self) -> str:
        return f"main/{self.table}/{self.name}-{len(self.finished):03d}.parquet"

    def _dictionary_columns(self) -> list[str]:
        # Texts and keys are almost all distinct: a dictionary costs a hash table and saves nothing.
        plain = {"query", "positive", "negatives", "meta", "url", "raw"}
        return [f.name for f in self.schema if pa.types.is_string(f.type) and f.name not in plain]

    def _close_part(self) -> None:
        if self.writer is None:
            return
        self.writer.close()
        self.finished.append((self.aside, self._path(), self.rows))
        self.writer, self.rows = None, 0


@dataclass
class Job:
    """A job that this process runs; another process that starts the same job is refused."""

    catalog: Catalog
    kind: str
    job_id: str
    settings: dict[str, object]
    recipe: str | None
    started_at: datetime

    @property
    def folder(self) -> Path:
        """Plan, manifests, logs and progress of the job."""
        return self.catalog.jobs_folder / self.job_id

    @property
    def output(self) -> JobOutput:
        """Where its tasks write."""
        return JobOutput(self.job_id, self.folder, self.catalog.location.data)

    def is_committed(self) -> bool:
        """Say whether an earlier run of this job is in the catalog already."""
        with self.catalog.reader() as connection:
            return is_registered(connection, self.job_id)

    def plan(self, make: Callable[[], dict[str, object]]) -> dict[str, object]:
        """Return the plan that the job began with, making it the first time."""
        path = self.folder / "plan.json"
        if not path.exists():
            write_json(path, make())
        plan: dict[str, object] = json.loads(path.read_text())
        return plan

    def manifests(self) -> list[Manifest]:
        """Read what the finished tasks of all stages wrote, in stage and task order."""
        found = []
        for path in sorted((self.folder / "manifests").glob("*.json")):
            content = json.loads(path.read_text())
            files = [WrittenFile(**entry) for entry in content["files"]]
            found.append(Manifest(content["task"], files, content["notes"]))
        return found

    def commit(
        self,
        change: Callable[[duck.Connection], None] | None = None,
        *,
        replace_tables: tuple[str, ...] = (),
        files: list[WrittenFile] | None = None,
        finish: Callable[[duck.Connection], None] | None = None,
    ) -> list[Manifest]:
        """Make the job visible and return what its tasks noted: all or nothing.

        ``replace_tables`` are emptied first; older versions of the lake keep their rows.
        ``files`` limits what is registered (a stage's files can be intermediate); default all.
        Tables that do not exist yet must be made by ``change``, which runs before registration;
        ``finish`` runs after it, in the same transaction.
        """
        manifests = self.manifests()
        chosen = [file for m in manifests for file in m.files] if files is None else files

        def transaction(connection: duck.Connection) -> None:
            # A commit that was not acknowledged may have landed: look before registering again.
            if is_registered(connection, self.job_id):
                return
            for table in replace_tables:
                connection.execute(f"delete from {duck.identifier(table)}")
            if change is not None:
                change(connection)
            register_files(connection, self.catalog.location.data, self.job_id, chosen)
            if finish is not None:
                finish(connection)
            self._record(connection, len(manifests))

        self.catalog.transact(transaction)
        # The commit landed: a disk that is full now cannot take it back.
        with contextlib.suppress(OSError, CatalogError):
            self.close_folder()
        return manifests

    def close_folder(self) -> None:
        """Drop what only a re-run would need; logs stay until ``lode gc``."""
        for name in ("progress", "scratch", "aside", "manifests", "stages", "failures"):
            shutil.rmtree(self.folder / name, ignore_errors=True)
        write_json(self.folder / "committed.json", {"finished_at": now().isoformat()})

    def _record(self, connection: duck.Connection, tasks: int) -> None:
        connection.execute(
            "insert into runs values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            [
                self.job_id,
                self.kind,
                self.recipe,
                to_json(self.settings),
                [],
                code_version(),
                self.started_at,
                now(),
                "finished",
                tasks,
            ],
        )


@contextlib.contextmanager
def open_job(
    catalog: Catalog,
    kind: str,
    settings: Mapping[str, object],
    inputs: Mapping[str, object],
    recipe: str | None = None,
) -> Iterator[Job]:
    """Open a job by what it does: settings and inputs decide its name, and so what it resumes."""
    job_id = name_job(kind, settings, inputs)
    folder = catalog.jobs_folder / job_id
    with writing(catalog.location.url):
        folder.mkdir(parents=True, exist_ok=True)
    with _job_lock(folder, job_id):
        start = folder / "job.json"
        if not start.exists():
            write_json(
                start,
                {
                    "kind": kind,
                    "settings": settings,
                    "inputs": inputs,
                    "recipe": recipe,
                    "started_at": now().isoformat(),
                },
            )
        started_at = datetime.fromisoformat(json.loads(start.read_text())["started_at"])
        yield Job(catalog, kind, job_id, dict(settings), recipe, started_at)


def name_job(kind: str, settings: Mapping[str, object], inputs: Mapping[str, object]) -> str:
    """Derive a job's name from everything that decides its result."""
    content = to_json({"kind": kind, "settings": settings, "inputs": inputs})
    return f"{kind}-{hashlib.sha256(content.encode()).hexdigest()[:12]}"


def is_unfinished(
    catalog: Catalog, kind: str, settings: Mapping[str, object], inputs: Mapping[str, object]
) -> bool:
    """Say whether such a job was begun and not committed."""
    folder = catalog.jobs_folder / name_job(kind, settings, inputs)
    return (folder / "job.json").exists() and not (folder / "committed.json").exists()


def is_running(folder: Path) -> bool:
    """Say whether a live process holds the job in this folder."""
    try:
        descriptor = os.open(folder / "lock", os.O_RDWR)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


@contextlib.contextmanager
def _job_lock(folder: Path, job_id: str) -> Iterator[None]:
    with writing(folder):
        descriptor = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise JobBusyError(
                f"job {job_id} is being run by another process; wait for it (lode status shows "
                "its progress) or stop it first"
            ) from None
        yield
    finally:
        os.close(descriptor)


def is_registered(connection: duck.Connection, job_id: str) -> bool:
    """Say whether a job's commit is in the lake."""
    return scalar(connection, "select count(*) from runs where run_id = ?", [job_id]) != 0


def register_files(
    connection: duck.Connection, data: str, job_id: str, files: list[WrittenFile]
) -> None:
    """Add finished Parquet files to their tables, with their checksums; never one twice."""
    paths = [file.path for file in files]
    known = connection.execute(
        "select path from task_files where list_contains(?, path)", [paths]
    ).fetchall()
    seen = {path for (path,) in known}
    fresh = [file for file in files if file.path not in seen and file.rows]
    for table in sorted({file.table for file in fresh}):
        # DuckLake takes a list of literals only.
        places = ", ".join(duck.quote(f"{data}/{f.path}") for f in fresh if f.table == table)
        connection.execute(
            f"call ducklake_add_data_files('{LAKE}', {duck.quote(table)}, [{places}])"
        )
    if fresh:
        rows = pa.table(
            {
                "run_id": [job_id] * len(fresh),
                "task": pa.array(range(len(fresh)), pa.int64()),
                "table_name": [file.table for file in fresh],
                "path": [file.path for file in fresh],
                "rows": pa.array([file.rows for file in fresh], pa.int64()),
                "bytes": pa.array([file.bytes for file in fresh], pa.int64()),
                "xxh3": [file.xxh3 for file in fresh],
            }
        )
        connection.register("fresh_files", rows)
        connection.execute("insert into task_files select * from fresh_files")
        connection.unregister("fresh_files")
