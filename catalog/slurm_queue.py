"""What Slurm's queue says of a stage: which tasks run, wait, or will not start by themselves."""

import os
import re
import subprocess
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from catalog.errors import CatalogError

_LIST: Final = ("squeue", "--me", "--noheader", "--array", "--format=%j|%K|%F|%T|%r")
_UNANSWERED_S: Final = 300.0  # a controller that restarts answers again
PENDING: Final = "PENDING"
DEPENDENCY: Final = "Dependency"
_HELD: Final = r"JobHeldUser|JobHeldAdmin|JobHoldMaxRequeue|.*requeued held"
# Reasons that no waiting ends: a person has to release, change or cancel such a job. Others, such
# as Priority, Resources or a partition that is down, may pass.
_STUCK: Final = re.compile(
    rf"{_HELD}|DependencyNeverSatisfied|BadConstraints|Invalid(Account|QOS)"
    r"|(Account|QOS)NotAllowed|Partition(Node|Time)Limit|QOSMin\w+"
    r"|(QOS|Assoc)Max\w+Per(Job|Node)(Limit)?"
)


@dataclass(frozen=True)
class Queued:
    """A task in the queue, and why it waits if it does; ``job`` is the number of its array."""

    task: int
    job: str
    state: str
    reason: str

    @property
    def is_stuck(self) -> bool:
        """Say whether it waits for a person."""
        return self.state == PENDING and _STUCK.fullmatch(self.reason) is not None


def queued_tasks(name: str) -> list[Queued]:
    """List the tasks of arrays that are named ``name``-offset and have not ended."""
    return parse_queue(name, call(*_LIST, patience_s=_UNANSWERED_S))


def parse_queue(name: str, listed: str) -> list[Queued]:
    """Read a listing of array, index, job, state and reason."""
    tasks = []
    for line in listed.splitlines():
        array, index, job, state, reason = (*line.strip().split("|", 4), "", "", "", "")[:5]
        start, _, offset = array.rpartition("-")
        if start == name and index.isdigit():
            tasks.append(Queued(int(offset) + int(index), job, state, reason))
    return tasks


def summary(queue: Sequence[Queued]) -> str:
    """Say in a few words what tasks do, and why they wait: 2 running, 7 pending (Priority)."""
    counts = Counter((one.state, one.reason if one.state == PENDING else "") for one in queue)
    ordered = sorted(counts.items(), key=lambda item: (item[0][0] == PENDING, item[0]))
    return ", ".join(
        f"{count:,} {state.lower()}{f' ({reason})' if reason else ''}"
        for (state, reason), count in ordered
    )


def stuck_tasks(queue: Sequence[Queued]) -> list[Queued]:
    """Return the tasks that wait for a person, if nothing goes on before they are released.

    An array that waits for the end of another one waits for the same person.
    """
    stuck = [one for one in queue if one.is_stuck]
    others = [one for one in queue if not one.is_stuck]
    all_wait = all(one.state == PENDING and one.reason == DEPENDENCY for one in others)
    return stuck if all_wait else []


def advice(stuck: Sequence[Queued]) -> str:
    """Say why tasks will not start, and what somebody can do about it."""
    reasons = Counter(one.reason for one in stuck)
    why = ", ".join(f"{reason} ({count:,} tasks)" for reason, count in sorted(reasons.items()))
    jobs = " ".join(sorted({one.job for one in stuck}, key=lambda job: (len(job), job)))
    cancel = f"cancel them (scancel {jobs}), change what Slurm says"
    if all(re.fullmatch(_HELD, one.reason) for one in stuck):
        cancel = f"release them (scontrol release {jobs}) or cancel them (scancel {jobs})"
    return f"Slurm will not start them by itself: {why}; {cancel}, and run the same command again"


def call(*command: str, stdin: str | None = None, patience_s: float = 0.0) -> str:
    """Run a program of Slurm and return its output; its own message is the error's."""
    began = time.monotonic()
    while True:
        done = subprocess.run(
            command, input=stdin, capture_output=True, text=True, check=False, env=_environment()
        )
        if done.returncode == 0:
            return done.stdout
        if time.monotonic() - began > patience_s:
            said = (done.stderr.strip() or done.stdout.strip()).replace("\n", "; ")
            raise CatalogError(f"executor slurm: {command[0]} refused: {said}")
        time.sleep(1)


def _environment() -> dict[str, str]:
    """Return our environment without what another Slurm job, or a user's listing, has set."""
    dropped = ("SLURM_", "SQUEUE_")
    return {k: v for k, v in os.environ.items() if k == "SLURM_CONF" or not k.startswith(dropped)}
