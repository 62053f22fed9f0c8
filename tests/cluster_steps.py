"""Steps of the tests of executors: workers import them from here."""

import os
import signal
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
from datatrove.pipeline.base import PipelineStep

from catalog.jobs import JobOutput
from catalog.schema import TEXT_IDS

STAGE = "write"


def rows_of(task: int) -> pa.Table:
    ids = pa.array(range(task * 1_000, task * 1_000 + 3), pa.int64())
    return pa.table([ids, ids, ids], schema=TEXT_IDS)


class WriteRows(PipelineStep):  # type: ignore[misc]
    """Writes three rows a task, after noting that it ran and after what the faults folder asks."""

    type = "TEST"
    name = "rows"

    def __init__(self, output: JobOutput, notes: Path) -> None:
        super().__init__()
        self.output, self.notes = output, notes

    def run(self, data: Any = None, rank: int = 0, world_size: int = 1) -> Any:
        with (self.notes / f"ran-{rank}").open("a") as stream:
            stream.write(f"{os.getpid()} ")
        if (self.notes / f"fail-{rank}").exists():
            raise ValueError(f"row {rank} is damaged")
        if (self.notes / f"die-{rank}").exists():
            (self.notes / f"die-{rank}").unlink()
            os.kill(os.getpid(), signal.SIGKILL)
        while (self.notes / f"hold-{rank}").exists():
            time.sleep(0.05)
        with self.output.task(STAGE, rank) as out:
            out.write("text_ids", rows_of(rank))
        self.output.report_progress(STAGE, rank, 3)
        yield from ()


class Unreadable:
    """Pickles well, and fails when it is read: as a class does that a worker cannot import."""

    def __reduce__(self) -> Any:
        return _fail_to_read, ()


def _fail_to_read() -> None:
    raise ImportError("no module named 'of_the_submitter'")
