"""One stage of a job: its steps on disk, and a task of it run by whoever has been given it.

A process of this machine, a node of Slurm and a worker of Ray all do the same: they load the
stage's file out of the job's folder and run one task, which leaves its manifest there, or its
failure.

    python -P -m catalog.stage JOB/stages/embed.pickle 7

A step is a datatrove ``PipelineStep`` whose ``run`` takes what the step before it yields, the
task's number and the number of tasks. What flows between Lode's steps are Arrow tables. Steps are
pickled: they carry plain values only, and their classes come from modules that every worker can
import.
"""

import contextlib
import io
import json
import os
import pickle
import sys
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from datatrove.executor.local import LocalPipelineExecutor
from loguru import logger as datatrove_logger

from catalog.errors import CatalogError
from catalog.jobs import JobOutput
from catalog.records import node_name, write_bytes, write_json

# Called with what an executor has to say about tasks that nobody sees run.
Remark = Callable[[str], None]


@dataclass(frozen=True)
class Failure:
    """Why a task ended without its manifest, as it said itself, or as its executor found it."""

    task: int
    reason: str
    node: str

    def __str__(self) -> str:
        return f"task {self.task} on {self.node}: {self.reason}"


@dataclass(frozen=True)
class Stage:
    """Steps that every task of a stage runs, and where its tasks leave what they did."""

    output: JobOutput
    name: str
    num_tasks: int
    steps: Sequence[Any]

    @property
    def path(self) -> Path:
        """Where workers find the stage."""
        return self.output.folder / "stages" / f"{self.name}.pickle"

    @property
    def logs(self) -> Path:
        """Where the tasks' logs are."""
        return self.output.folder / "logs" / self.name

    def save(self) -> Path:
        """Write the stage for workers; the same plan gives the same stage, however often."""
        for step in self.steps:
            if type(step).__module__ == "__main__":
                raise CatalogError(
                    f"step {type(step).__name__} is defined in the program that was started, which "
                    "workers cannot import; put it into a module of its own"
                )
        write_bytes(self.path, pickle.dumps(self))
        return self.path

    def missing(self) -> list[int]:
        """List the tasks that have not left their manifest.

        The folder is listed, not asked for each name: over NFS a name that was not there a moment
        ago may stay unknown for a minute, a listing is fresh.
        """
        folder = self.output.manifest_path(self.name, 0).parent
        found = set(os.listdir(folder)) if folder.exists() else set()
        paths = (self.output.manifest_path(self.name, task) for task in range(self.num_tasks))
        return [task for task, path in enumerate(paths) if path.name not in found]

    def run(self, task: int) -> None:
        """Run one task in this process; nothing where another has done it already."""
        if self.output.is_done(self.name, task):
            return
        self._failure_path(task).unlink(missing_ok=True)
        executor = _TaskExecutor(
            pipeline=deepcopy(list(self.steps)), tasks=self.num_tasks, logging_dir=str(self.logs)
        )
        datatrove_logger.remove()
        # The log files have everything; the terminal belongs to the command and its progress.
        with contextlib.redirect_stderr(io.StringIO()):
            executor._run_for_rank(task)

    def attempt(self, task: int) -> Failure | None:
        """Run one task where nobody waits for its exception; leave and return why it failed."""
        try:
            self.run(task)
        except Exception as error:  # noqa: BLE001 - whatever it is, the submitter has to say it
            failure = Failure(task, f"{type(error).__name__}: {error}", node_name())
            write_json(self._failure_path(task), asdict(failure))
            return failure
        return None

    def failure(self, task: int) -> Failure | None:
        """Return what a task said when it failed; None where it said nothing."""
        with contextlib.suppress(FileNotFoundError):
            return Failure(**json.loads(self._failure_path(task).read_text(encoding="utf-8")))
        return None

    def forget_failures(self, tasks: Sequence[int]) -> None:
        """Remove what earlier attempts said."""
        for task in tasks:
            self._failure_path(task).unlink(missing_ok=True)

    def _failure_path(self, task: int) -> Path:
        return self.output.folder / "failures" / f"{self.name}-{task:05d}.json"


@lru_cache(maxsize=1)
def load_stage(path: Path) -> Stage:
    """Read a stage in a worker, once for all its tasks; say so where the worker cannot see it."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise CatalogError(
            f"node {node_name()} cannot see {path}: the catalog's folder must be on a file system "
            "that all nodes share, under the same path"
        ) from None
    stage: Stage = pickle.loads(content)
    return stage


class _TaskExecutor(LocalPipelineExecutor):  # type: ignore[misc]
    """Datatrove's running of one task: logs and statistics; manifests say what is done."""

    pipeline: Any

    def is_rank_completed(self, rank: int) -> bool:
        return False

    def mark_rank_as_completed(self, rank: int) -> None:
        """Leave no marker: it would say nothing about files."""


def main(path: str, task: str) -> int:
    """Run one task of a stage's file, as a node of a cluster does."""
    try:
        failure = load_stage(Path(path)).attempt(int(task))
    except CatalogError as error:
        failure = Failure(int(task), str(error), node_name())
    if failure is not None:
        sys.stderr.write(f"lode: {failure}\n")
    return int(failure is not None)


if __name__ == "__main__":
    # Under its importable name, which is the one that pickles of it carry.
    from catalog import stage as _stage

    sys.exit(_stage.main(*sys.argv[1:]))
