"""Tasks as an array job of Slurm: the queue itself says which of them an earlier run submitted.

The index in the array is the number of the task, and the array's name is derived from the job, its
folder and the stage. So nothing has to be remembered: whoever runs the command again, also after a
kill between ``sbatch`` and its answer, finds in the queue what is queued or running, and submits
the tasks that neither are there nor have left a manifest.
"""

import hashlib
import shlex
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from catalog.errors import CatalogError, TasksPendingError
from catalog.slurm_queue import Queued, advice, call, queued_tasks, stuck_tasks, summary
from catalog.stage import Failure, Remark, Stage
from catalog.task_size import TaskSize

_PREFIX: Final = "lode-"
_SETTLE_LOOKS: Final = 3  # a shared file system may show a manifest later than the queue its end
_LOG_LINES: Final = 3
_EXPLAINED: Final = 3  # failed tasks whose logs are read


@dataclass(frozen=True, kw_only=True)
class SlurmSettings(TaskSize):
    """How a task is submitted; what is empty or 0 is left to the site's own defaults."""

    partition: str = ""
    time: str = ""  # as sbatch takes it: 30, 02:00:00, 1-12
    venv: str = ""  # a virtual environment that the nodes see (default: the submitter's Python)
    env_command: str = ""  # a shell command that puts Lode's python on the PATH
    sbatch: Mapping[str, str | int] = field(default_factory=dict)  # account = "…", qos = "…"
    wait: bool = True  # or submit, and leave the commit to a later run

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.venv and self.env_command:
            raise ValueError("[executor] has venv and env_command; give one of them")
        taken = {"array", "job-name", "output", "error", "parsable", "wrap"} & set(self.sbatch)
        if taken:
            raise ValueError(f"[executor] sbatch sets {min(taken)!r}, which Lode decides")

    def check(self) -> None:
        """Raise where Slurm is not there or would refuse the settings: it is asked."""
        for program in ("sbatch", "squeue", "scontrol"):
            if shutil.which(program) is None:
                raise CatalogError(
                    f"executor slurm: {program} is not on the PATH; submit from a login node of "
                    "the cluster, or install Slurm's client programs (Debian: slurm-client)"
                )
        call("sbatch", "--test-only", *self._options(), stdin="#!/bin/sh\ntrue\n")

    def running(self, stage: Stage) -> set[int]:
        """Return the tasks of a stage that are in the queue, whoever submitted them."""
        return {one.task for one in queued_tasks(_name(stage))}

    def run(
        self, stage: Stage, missing: Sequence[int], remark: Remark = lambda text: None
    ) -> list[Failure]:
        """Submit the tasks that are not in the queue, and wait until all have left it.

        CatalogError where what is left waits for a person, such as a job that is held.
        """
        queue = _queue_of(stage, missing)
        queued = {one.task for one in queue}
        fresh = [task for task in missing if task not in queued]
        stage.forget_failures(fresh)
        if fresh:
            self._submit(stage, fresh)
        if not self.wait:
            if not fresh:
                _refuse_stuck(stage, stuck_tasks(queue))
            before = f": {summary(queue)}" if queue else ""
            raise TasksPendingError(
                f"stage {stage.name}: {stage.num_tasks - len(missing):,} of {stage.num_tasks:,} "
                f"tasks done, {len(fresh):,} submitted now, {len(queue):,} in Slurm's queue before"
                f"{before} (squeue --me --name {_name(stage)}-0); run the same command again to go "
                "on"
            )
        failed = self._wait(stage, remark)[:_EXPLAINED]
        size = _max_array_size() if failed else 1
        return [_explain(stage, task, size) for task in failed]

    def _submit(self, stage: Stage, tasks: Sequence[int]) -> None:
        """Submit an array for each stretch of task numbers that one array can hold."""
        stage.logs.mkdir(parents=True, exist_ok=True)
        size = _max_array_size()
        for task in tasks:
            _log(stage, task, size).unlink(missing_ok=True)  # an earlier attempt's
        before: list[str] = []
        for offset in range(0, stage.num_tasks, size):
            indices = [task - offset for task in tasks if offset <= task < offset + size]
            if not indices:
                continue
            output = str(stage.logs / f"slurm-{offset}-%a.out").replace("%a", "\0")
            answer = call(
                "sbatch",
                "--parsable",
                f"--job-name={_name(stage)}-{offset}",
                f"--array={_ranges(indices)}%{self.max_tasks}",
                f"--output={output.replace('%', '%%')}".replace("\0", "%a"),
                *self._options(),
                *before,  # one array after the other: no more than max_tasks at a time
                stdin=self._script(stage, offset),
            )
            before = [f"--dependency=afterany:{answer.split(';')[0].strip()}"]

    def _options(self) -> list[str]:
        options: dict[str, str | int] = {
            "partition": self.partition,
            "time": self.time,
            "nodes": 1,
            "ntasks": 1,
            "cpus-per-task": self.cpus_per_task,
            "mem": f"{self.memory_mb_per_task}M" if self.memory_mb_per_task else "",
            "gpus-per-task": self.gpus_per_task,
            **self.sbatch,
        }
        return [f"--{name}={value}" for name, value in options.items() if value]

    def _script(self, stage: Stage, offset: int) -> str:
        """Return what a node runs; what it lacks it says in words."""
        python = sys.executable
        if self.venv:
            python = str(Path(self.venv).expanduser().absolute() / "bin" / "python")
        elif self.env_command:
            python = "python"
        path, quoted = shlex.quote(str(stage.path)), shlex.quote(python)
        shared = "the catalog's folder must be on a file system that all nodes share"
        return f"""#!/bin/bash
{self.env_command}
fail() {{ echo "lode: node $(hostname): $1" >&2; exit 3; }}
[ -r {path} ] || fail "cannot see "{path}"; {shared}, under the same path"
command -v {quoted} >/dev/null || fail "has no "{quoted}"; set venv or env_command in [executor]"
export OMP_NUM_THREADS={self.cpus_per_task} LODE_THREADS={self.cpus_per_task}
exec {quoted} -P -m catalog.stage {path} $(({offset} + SLURM_ARRAY_TASK_ID))
"""

    def _wait(self, stage: Stage, remark: Remark) -> list[int]:
        """Return the tasks that have left the queue without a manifest, when none is left in it."""
        looks = 0
        while missing := stage.missing():
            queue = _queue_of(stage, missing)
            remark(summary(queue))
            stuck = stuck_tasks(queue)
            looks = looks + 1 if stuck or not queue else 0
            if looks >= _SETTLE_LOOKS:
                _refuse_stuck(stage, stuck)
                return missing
            time.sleep(self.poll_s)
        return []


def _name(stage: Stage) -> str:
    """Name a stage of a job, in this catalog: another catalog may have the same job."""
    place = f"{stage.output.folder}\n{stage.name}"
    return f"{_PREFIX}{stage.name}-{hashlib.sha256(place.encode()).hexdigest()[:12]}"


def _queue_of(stage: Stage, missing: Sequence[int]) -> list[Queued]:
    """List those of the missing tasks that are in the queue."""
    wanted = set(missing)
    return [one for one in queued_tasks(_name(stage)) if one.task in wanted]


def _refuse_stuck(stage: Stage, stuck: Sequence[Queued]) -> None:
    if stuck:
        raise CatalogError(
            f"stage {stage.name}: {len(stuck):,} of {stage.num_tasks:,} tasks wait in Slurm's "
            f"queue, and {advice(stuck)}"
        )


def _max_array_size() -> int:
    """Return how many indices an array of this cluster can have; Slurm's own default is 1001."""
    for line in call("scontrol", "show", "config").splitlines():
        name, _, value = line.partition("=")
        if name.strip() == "MaxArraySize" and int(value) > 0:
            return int(value)
    return 1001


def _ranges(numbers: Sequence[int]) -> str:
    """Write sorted numbers as sbatch reads them: 1-3,7."""
    parts: list[list[int]] = []
    for number in numbers:
        if parts and parts[-1][1] == number - 1:
            parts[-1][1] = number
        else:
            parts.append([number, number])
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in parts)


def _log(stage: Stage, task: int, size: int) -> Path:
    return stage.logs / f"slurm-{task - task % size}-{task % size}.out"


def _explain(stage: Stage, task: int, size: int) -> Failure:
    """Say why a task has no manifest: its own words, the end of its log, or that there is none."""
    if failure := stage.failure(task):
        return failure
    log = _log(stage, task, size)
    if not log.exists():
        reason = (
            "it left no log: it was cancelled before it began, or its node cannot see "
            f"{stage.logs}; the catalog's folder must be on a file system that all nodes share"
        )
        return Failure(task, reason, "Slurm")
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    said = " / ".join(line.strip() for line in lines[-_LOG_LINES:])
    return Failure(task, f"{said or 'it was killed without a word'} ({log})", "Slurm")
