"""Tasks on a Ray cluster: the one door to Ray, which the extra [cluster] brings.

Ray itself runs a task again whose worker or node was lost. Its tasks end with the program that
submitted them; the same command then runs those that left no manifest.
"""

import contextlib
import io
import logging
import os
import socket
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

from catalog.errors import CatalogError
from catalog.stage import Failure, Remark, Stage, load_stage
from catalog.task_size import TaskSize

_MEGABYTE: Final = 1 << 20
_PROBE_S: Final = 10.0


@dataclass(frozen=True, kw_only=True)
class RaySettings(TaskSize):
    """Which cluster, and what a task asks of it."""

    address: str = "auto"  # the cluster that this machine belongs to, RAY_ADDRESS, or HOST:PORT
    retries: int = 3  # of a task whose worker was lost; a task that fails is not tried again
    poll_s: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.retries < 0:
            raise ValueError(f"[executor] retries is {self.retries}; it must be 0 or more")

    def check(self) -> None:
        """Connect to the cluster; raise where that, or a task of this size, is not possible."""
        if find_spec("ray") is None:
            raise CatalogError(
                "executor ray: Ray is not installed; install the extra: "
                "pip install 'lode-engine[cluster]'"
            )
        ray = self._connect()
        offered = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        wanted = {
            "CPU": self.cpus_per_task,
            "GPU": self.gpus_per_task,
            "memory": self.memory_mb_per_task * _MEGABYTE,
        }
        if not any(all(node.get(k, 0) >= n for k, n in wanted.items()) for node in offered):
            raise CatalogError(
                f"executor ray: no node of the cluster has {self.cpus_per_task} CPUs, "
                f"{self.gpus_per_task} GPUs and {self.memory_mb_per_task} MB for a task; "
                "ray status shows what they have"
            )

    def running(self, stage: Stage) -> set[int]:
        """Return nothing: tasks of Ray end with the program that submitted them."""
        return set()

    def run(
        self, stage: Stage, missing: Sequence[int], remark: Remark = lambda text: None
    ) -> list[Failure]:
        """Run tasks, ``max_tasks`` at a time; those that fail do not keep others from running."""
        ray = self._connect()
        remote = ray.remote(_run_on_worker).options(
            num_cpus=self.cpus_per_task,
            num_gpus=self.gpus_per_task,
            memory=self.memory_mb_per_task * _MEGABYTE or None,
            max_retries=self.retries,
            scheduling_strategy="SPREAD",
            name=f"lode-{stage.name}",
        )
        stage.forget_failures(missing)
        failures: list[Failure] = []
        left = deque(missing)
        flying: dict[Any, int] = {}
        while left or flying:
            while left and len(flying) < self.max_tasks:
                task = left.popleft()
                flying[remote.remote(str(stage.path), task, os.getcwd())] = task
            done, _ = ray.wait(list(flying), num_returns=1)
            for reference in done:
                failure = _outcome(ray, reference, flying.pop(reference))
                failures += [failure] if failure else []
        return failures

    def _connect(self) -> Any:
        # Ray reads this when it is imported; its report about us is nobody's business.
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        import ray

        if ray.is_initialized():
            return ray
        self._probe()
        try:
            with _quiet():
                ray.init(self.address, log_to_driver=False, logging_level=logging.ERROR)
        except (OSError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
            raise self._absent(error) from error
        return ray

    def _probe(self) -> None:
        """Raise where nobody listens: Ray itself would try for minutes."""
        address = self.address
        if address == "auto":
            address = os.environ.get("RAY_ADDRESS", address)
        host, _, port = address.removeprefix("ray://").rpartition(":")
        if not port.isdigit():
            return
        try:
            socket.create_connection((host.strip("[]"), int(port)), _PROBE_S).close()
        except (OSError, OverflowError) as error:
            raise self._absent(error) from error

    def _absent(self, error: Exception) -> CatalogError:
        said = (str(error).strip().splitlines() or [type(error).__name__])[0]
        return CatalogError(
            f"executor ray: there is no cluster at {self.address!r} ({said}); start one (ray start "
            "--head) or give its address"
        )


def _run_on_worker(path: str, task: int, folder: str) -> Failure | None:
    """Run a task in a worker of Ray, from the folder in which the command was started."""
    with contextlib.suppress(OSError):  # only relative paths of the user need it
        os.chdir(folder)
    return load_stage(Path(path)).attempt(task)


def _outcome(ray: Any, reference: Any, task: int) -> Failure | None:
    try:
        failure: Failure | None = ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        return Failure(task, str(error.cause or error).strip().splitlines()[-1], "Ray")
    except ray.exceptions.RayError as error:
        # A lost worker, a lost node, memory: Ray has tried it again as often as it was told to.
        return Failure(task, f"{type(error).__name__}: {str(error).strip().splitlines()[0]}", "Ray")
    return failure


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
        yield
