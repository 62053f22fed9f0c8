"""What a run says of itself, step by step, on its way into a table of the lake.

Rows are appended to a file of the run's folder when they happen and committed at checkpoints:

    log = RunLog(run_folder / "log", "a", catalog, "train_events")
    log.begin(step)        # 0, or the step of the checkpoint that the run goes on from
    log.append(rows)       # when something happened
    log.sync()             # before a checkpoint is written: what it relies on is on the disk
    log.commit(step)       # after it is written: into the lake

A run that goes on from a checkpoint lives again what came after it: ``begin`` drops those rows
here, and the next commit drops them in the lake, in the transaction that adds the new ones.
"""

import uuid
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from catalog import duck
from catalog.jobs import open_job
from catalog.lake import Catalog, scalar
from catalog.records import sync_file, sync_folder, writing
from catalog.schema import TABLES


class RunLog:
    """The rows of a run on this machine that are not in the lake yet; one process writes it.

    The table has the columns ``run`` and ``step`` at least.
    """

    def __init__(self, folder: Path, run: str, catalog: Catalog, table: str) -> None:
        self.folder, self.run, self.catalog = folder, run, catalog
        self.table, self.schema = table, TABLES[table]
        self.path = folder / f"{table}.arrows"
        self._stream: pa.OSFile | None = None
        self._writer: pa.ipc.RecordBatchStreamWriter | None = None
        self._after, self._life, self._is_first_commit = 0, "", True

    def begin(self, step: int) -> None:
        """Start, or go on, after a checkpoint of this step: later rows will come again."""
        self.close()
        with writing(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
        kept = self._read()
        kept = kept.filter(pc.less_equal(kept["step"], step))
        self._rewrite(kept)
        # The lake may have these rows already, and others of a life that ended after the
        # checkpoint: the first commit clears what it has from here on.
        self._after = int(pc.min(kept["step"]).as_py()) - 1 if kept.num_rows else step
        self._is_first_commit = True
        # One process's life; the same steps may be lived, and committed, again.
        self._life = uuid.uuid4().hex

    def append(self, rows: pa.RecordBatch | pa.Table) -> None:
        """Write rows to the run's file: they outlive this process."""
        if rows.num_rows == 0:
            return
        with writing(self.folder):
            if self._writer is None:
                self._open(self.path)
            assert self._writer is not None
            self._writer.write(rows)

    def sync(self) -> None:
        """Wait until the rows are on the disk: they outlive a power cut, too."""
        if self._writer is not None:
            with writing(self.folder):
                sync_file(self.path)
                sync_folder(self.folder)

    def commit(self, step: int) -> int:
        """Put all rows up to a checkpoint's step into the lake; return how many.

        Killed at any moment and begun again, it adds no event twice.
        """
        rows = self._read()
        is_due = pc.less_equal(rows["step"], step)
        due, rest = rows.filter(is_due), rows.filter(pc.invert(is_due))
        if due.num_rows or (self._is_first_commit and self._has_later()):
            settings = {"run": self.run, "after": self._after, "until": step}
            with open_job(self.catalog, self.table, settings, {"life": self._life}) as job:
                if due.num_rows:
                    with job.output.task("rows", 0) as output:
                        output.write(self.table, due)
                job.commit(self._drop_later)
        self._rewrite(rest)
        self._after, self._is_first_commit = step, False
        return int(due.num_rows)

    def close(self) -> None:
        """Close the file; what is not committed is taken up by the next ``begin``."""
        self.sync()
        if self._writer is not None and self._stream is not None:
            self._writer.close()
            self._stream.close()
        self._writer = self._stream = None

    def _open(self, path: Path) -> None:
        self._stream = pa.OSFile(str(path), "wb")  # without a buffer of its own
        self._writer = pa.ipc.new_stream(self._stream, self.schema)

    def _rewrite(self, rows: pa.Table) -> None:
        """Let the file hold these rows only, all at once."""
        self.close()
        if not rows.num_rows:
            self.path.unlink(missing_ok=True)
            return
        aside = self.folder / f".{self.path.name}.tmp"
        with writing(self.folder):
            self._open(aside)
            assert self._writer is not None
            self._writer.write(rows)
            sync_file(aside)
            aside.rename(self.path)  # what is appended from now on goes to the renamed file
            sync_folder(self.folder)

    def _read(self) -> pa.Table:
        """Read the rows of the file, in the order in which they were written."""
        batches = list(_read_batches(self.path)) if self.path.exists() else []
        return pa.Table.from_batches(batches, self.schema)

    def _drop_later(self, connection: duck.Connection) -> None:
        if self._is_first_commit:
            connection.execute(
                f"delete from {self.table} where run = ? and step > ?", [self.run, self._after]
            )

    def _has_later(self) -> bool:
        """Say whether the lake has rows of a life that this run does not go on from."""
        with self.catalog.reader() as connection:
            sql = f"select count(*) from {self.table} where run = ? and step > ?"
            return scalar(connection, sql, [self.run, self._after]) != 0


def _read_batches(path: Path) -> Iterator[pa.RecordBatch]:
    """Read the whole batches of a file that may end inside one: its process was killed."""
    content = path.read_bytes()
    try:
        reader = pa.ipc.open_stream(content)
        while True:
            yield reader.read_next_batch()
    except (StopIteration, pa.ArrowInvalid, OSError):
        return
