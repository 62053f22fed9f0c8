"""What a task costs beside its work: on this machine, on Slurm, on Ray, in datatrove's own pool.

    PYTHONPATH=. python -m benchmarks.executors [--tasks 8]

The task writes three rows. Slurm (as ``SLURM_CONF`` names it) and Ray (started here) are left out
where they are not installed. Peer: datatrove's ``LocalPipelineExecutor`` with the same step.
"""

import argparse
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pyarrow as pa
from datatrove.executor.local import LocalPipelineExecutor
from datatrove.pipeline.base import PipelineStep

from benchmarks.machine import describe
from catalog.executors import ExecutorSettings, run_tasks
from catalog.jobs import JobOutput, open_job
from catalog.lake import Catalog
from catalog.ray_tasks import RaySettings
from catalog.schema import TEXT_IDS
from catalog.slurm import SlurmSettings

STAGE = "write"
RUNS = 3


class WriteRows(PipelineStep):
    """Writes three rows."""

    type = "BENCHMARK"
    name = "rows"

    def __init__(self, output: JobOutput, number: int) -> None:
        super().__init__()
        self.output, self.number = output, number

    def run(self, data: Any = None, rank: int = 0, world_size: int = 1) -> Iterator[None]:
        """Write one task."""
        ids = pa.array(range(rank * 10, rank * 10 + 3), pa.int64())
        with self.output.task(STAGE, rank) as out:
            out.write("text_ids", pa.table([ids, ids, ids], schema=TEXT_IDS))
        yield from ()


def lode_run(executor: ExecutorSettings) -> Callable[[Catalog, int, int], None]:
    def run(catalog: Catalog, number: int, tasks: int) -> None:
        with open_job(catalog, "bench", {"n": number}, {}) as job:
            run_tasks(job, STAGE, [WriteRows(job.output, number)], tasks, executor)

    return run


def datatrove_run(catalog: Catalog, number: int, tasks: int) -> None:
    with open_job(catalog, "bench", {"n": number}, {}) as job:
        LocalPipelineExecutor(
            pipeline=[WriteRows(job.output, number)],
            tasks=tasks,
            workers=2,
            logging_dir=str(job.folder / "logs"),
            start_method="forkserver",
        ).run()


def measure(
    catalog: Catalog, run: Callable[[Catalog, int, int], None], tasks: int, first: int
) -> tuple[float, float, float]:
    """Return median wall and CPU seconds of a run, and the wall seconds of each task."""
    walls, cpus = [], []
    for number in range(first, first + RUNS):
        before, start = time.process_time(), time.perf_counter()
        run(catalog, number, tasks)
        walls.append(time.perf_counter() - start)
        cpus.append(time.process_time() - before)
    return statistics.median(walls), statistics.median(cpus), statistics.median(walls) / tasks


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--tasks", type=int, default=8)
    tasks = parser.parse_args().tasks
    runs: dict[str, Callable[[Catalog, int, int], None]] = {
        "Lode, in this process": lode_run(ExecutorSettings(1)),
        "Lode, 2 processes": lode_run(ExecutorSettings(2)),
        "datatrove, 2 processes": datatrove_run,
    }
    if shutil.which("sbatch") and "SLURM_CONF" in os.environ:
        runs["Lode, Slurm"] = lode_run(ExecutorSettings(cluster=SlurmSettings(poll_s=0.2)))
    if find_spec("ray"):
        import ray

        ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
        runs["Lode, Ray"] = lode_run(ExecutorSettings(cluster=RaySettings(poll_s=0.2)))
    print(describe(["datatrove", "ray"] if find_spec("ray") else ["datatrove"]))
    print(f"\n{tasks} tasks, median of {RUNS} runs; load average {os.getloadavg()[0]:.1f}\n")
    print("| | wall s | CPU s of the submitter | wall s a task |\n|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        catalog = Catalog.create(str(Path(folder) / "corpus"))
        for number, (name, run) in enumerate(runs.items()):
            wall, cpu, each = measure(catalog, run, tasks, number * RUNS)
            print(f"| {name} | {wall:.2f} | {cpu:.2f} | {each:.2f} |", flush=True)


if __name__ == "__main__":
    from benchmarks import executors  # under this name workers can import the step

    executors.main()
