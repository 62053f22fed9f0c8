"""Running a job's tasks, here or on a cluster, with the manifests as the truth about what is done.

However a run ends, the next one runs what has left no manifest, and nothing else.
"""

import contextlib
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from catalog.errors import CatalogError
from catalog.jobs import Job, JobOutput
from catalog.stage import Failure, Remark, Stage
from catalog.worker_pool import run_in_processes

# Called with (stage, units done so far). Library code shows nothing itself.
ProgressCallback = Callable[[str, int], None]
POLL_S = 0.3
_SHOWN_TASKS = 3


class TasksFailedError(CatalogError):
    """Tasks of a cluster ended without their manifest; the same command runs them again."""


class Cluster(Protocol):
    """Where tasks run that this machine only submits."""

    @property
    def cpus_per_task(self) -> int:
        """Cores of a task, which shares them with no other."""
        ...

    @property
    def poll_s(self) -> float:
        """Seconds between two looks at what is done."""
        ...

    def check(self) -> None:
        """Raise where it cannot be reached, or refuses the settings, before any work."""
        ...

    def running(self, stage: Stage) -> set[int]:
        """Return the tasks of a stage that an earlier run left queued or running."""
        ...

    def run(self, stage: Stage, missing: Sequence[int], remark: Remark = ...) -> list[Failure]:
        """Run tasks, but those that run already; return what is known about those that failed.

        ``remark`` takes what there is to say while they wait.
        """
        ...


@runtime_checkable
class RemarksShown(Protocol):
    """A progress callback that also shows what a cluster says about a stage."""

    def remark(self, stage: str, text: str) -> None:
        """Show a text beside the stage, in the place of the one before."""


@dataclass(frozen=True)
class ExecutorSettings:
    """Where tasks run: ``workers`` at a time on this machine, or on a cluster.

    ``start_method`` is multiprocessing's.
    """

    workers: int = os.cpu_count() or 1
    start_method: str = "forkserver"
    cluster: Cluster | None = None

    def __post_init__(self) -> None:
        if self.workers < 1:
            raise ValueError(f"workers is {self.workers}; it must be at least 1")

    @property
    def tasks_per_machine(self) -> int:
        """Tasks that share the memory of one machine; a cluster's tasks have their own."""
        return 1 if self.cluster else self.workers

    def threads_of_task(self, threads: int) -> int:
        """Return how many of a machine's threads each task may use."""
        return self.cluster.cpus_per_task if self.cluster else max(1, threads // self.workers)


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
    work = Stage(job.output, stage, num_tasks, steps)
    missing = work.missing()
    if not missing:
        return
    poll_s = executor.cluster.poll_s if executor.cluster else POLL_S
    with _watched(job.output, stage, progress, poll_s):
        if executor.cluster:
            work.save()
            failures = executor.cluster.run(work, missing, _remark_on(stage, progress))
        else:
            failures = []
            _run_here(work, missing, executor)
    unfinished = work.missing()
    if unfinished:
        raise TasksFailedError(_describe(job, work, unfinished, failures))


def _remark_on(stage: str, progress: ProgressCallback | None) -> Remark:
    def remark(text: str) -> None:
        if isinstance(progress, RemarksShown):
            progress.remark(stage, text)

    return remark


def running_elsewhere(job: Job, stage: str, executor: ExecutorSettings) -> bool:
    """Say whether tasks of a stage that an earlier run submitted are still queued or running."""
    work = Stage(job.output, stage, 0, [])
    return executor.cluster is not None and bool(executor.cluster.running(work))


def _run_here(stage: Stage, missing: Sequence[int], executor: ExecutorSettings) -> None:
    if min(executor.workers, len(missing)) == 1:
        for task in missing:
            stage.run(task)
    else:
        run_in_processes(stage.save(), missing, executor.workers, executor.start_method)


def _describe(
    job: Job, stage: Stage, unfinished: Sequence[int], failures: Sequence[Failure]
) -> str:
    told = {failure.task: failure for failure in failures}
    reasons = [str(told[task]) for task in unfinished if task in told][:_SHOWN_TASKS]
    return (
        f"job {job.job_id}: {len(unfinished):,} of {stage.num_tasks:,} tasks of stage "
        f"{stage.name!r} ended without a manifest (first: {unfinished[0]})"
        + "".join(f"\n  {reason}" for reason in reasons)
        + f"\nlogs: {stage.logs}\nrun the same command again to run these tasks, and only these"
    )


@contextlib.contextmanager
def _watched(
    output: JobOutput, stage: str, progress: ProgressCallback | None, poll_s: float
) -> Iterator[None]:
    """Report the sum of all tasks' progress while the block runs."""
    if progress is None:
        yield
        return
    stop = threading.Event()

    def watch() -> None:
        while not stop.wait(poll_s):
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
