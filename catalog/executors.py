"""Running a job's tasks: the one door to datatrove's executors, and to progress.

A step is a datatrove ``PipelineStep`` whose ``run`` takes what the step before it yields, the
task's
number and the number of tasks. What flows between Lode's steps are Arrow tables. Steps are pickled
to
the workers: they carry plain values only.
"""

import contextlib
import io
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import multiprocess
from datatrove.executor.local import LocalPipelineExecutor
from loguru import logger as datatrove_logger

from catalog.jobs import Job, JobOutput

# Called with (stage, units done so far). Library code shows nothing itself.
ProgressCallback = Callable[[str, int], None]
POLL_S = 0.3


@dataclass(frozen=True)
class ExecutorSettings:
    """How many tasks run at once; ``start_method`` is multiprocessing's."""

    workers: int = os.cpu_count() or 1
    start_method: str = "forkserver"

    def __post_init__(self) -> None:
        if self.workers < 1:
            raise ValueError(f"workers is {self.workers}; it must be at least 1")


class _LocalExecutor(LocalPipelineExecutor):  # type: ignore[misc]
    """Datatrove's local executor with the job's manifests as the truth about what is done."""

    pipeline: Any

    def __init__(self, missing: list[int], **settings: Any) -> None:
        super().__init__(**settings)
        self.missing = missing

    def get_incomplete_ranks(self, ranks: Any = None, skip_completed: Any = None) -> list[int]:
        return self.missing

    def is_rank_completed(self, rank: int) -> bool:
        return rank not in self.missing

    def run(self) -> None:
        """Run the missing tasks; unlike datatrove's, without a manager process beside the pool.

        A manager is forked, so it holds the job's lock and our output pipes, and it outlives a
        parent that is killed: the same command could never go on.
        """
        self.save_executor_as_json()
        if self.workers == 1:
            steps = self.pipeline
            for rank in self.missing:
                self.pipeline = deepcopy(steps)
                self._run_for_rank(rank)
            return
        with multiprocess.get_context(self.start_method).Pool(self.workers) as pool:
            for _ in pool.imap_unordered(self._run_for_rank, self.missing):
                pass

    def _run_for_rank(self, rank: int, local_rank: int = 0, node_rank: int = -1) -> Any:
        # The log files have everything; the terminal belongs to the command and its progress.
        with contextlib.redirect_stderr(io.StringIO()):
            return super()._run_for_rank(rank, local_rank, node_rank)


def run_tasks(
    job: Job,
    stage: str,
    steps: Sequence[Any],
    num_tasks: int,
    executor: ExecutorSettings | None = None,
    progress: ProgressCallback | None = None,
) -> None:
    """Run every task of a stage that has not left its manifest; return when all have."""
    executor = executor or ExecutorSettings()
    missing = [task for task in range(num_tasks) if not job.output.is_done(stage, task)]
    if not missing:
        return
    datatrove_logger.remove()  # its handler on the terminal; the tasks' log files are its own
    with contextlib.redirect_stderr(io.StringIO()), _watched(job.output, stage, progress):
        _LocalExecutor(
            missing,
            pipeline=list(steps),
            tasks=num_tasks,
            workers=min(executor.workers, len(missing)),
            logging_dir=str(job.folder / "logs" / stage),
            start_method=executor.start_method,
        ).run()
    unfinished = [task for task in missing if not job.output.is_done(stage, task)]
    if unfinished:
        raise RuntimeError(
            f"job {job.job_id}: {len(unfinished)} tasks of stage {stage!r} ended without a "
            f"manifest (first: {unfinished[0]}); see {job.folder / 'logs' / stage}"
        )


@contextlib.contextmanager
def _watched(output: JobOutput, stage: str, progress: ProgressCallback | None) -> Iterator[None]:
    """Report the sum of all tasks' progress while the block runs."""
    if progress is None:
        yield
        return
    stop = threading.Event()

    def watch() -> None:
        while not stop.wait(POLL_S):
            progress(stage, _units_done(output, stage))

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        progress(stage, _units_done(output, stage))


def _units_done(output: JobOutput, stage: str) -> int:
    done = 0
    for path in (output.folder / "progress").glob(f"{stage}-*"):
        with contextlib.suppress(OSError, ValueError):  # the file is being written
            done += int(path.read_text() or 0)
    return done
