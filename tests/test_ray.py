"""Tasks on a real Ray: a lost worker's task runs again by itself, a failed one by the next run."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from catalog.errors import CatalogError
from catalog.executor_options import choose_executor
from catalog.executors import ExecutorSettings, TasksFailedError, run_tasks
from catalog.jobs import Job, open_job
from catalog.lake import Catalog
from catalog.ray_tasks import RaySettings
from tests.cluster_steps import STAGE, WriteRows, rows_of
from tests.cluster_work import ALONE, curate_and_mine
from tests.tiny_catalog import fetch

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
ray = pytest.importorskip("ray", reason="Ray is not installed (the extra [cluster])")
ROOT = Path(__file__).parent.parent
ON_RAY = ExecutorSettings(cluster=RaySettings(poll_s=0.2, max_tasks=2, retries=1))
TASKS = 4
STARTS = 3

pytestmark = [pytest.mark.ray, pytest.mark.slow]


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    """Start a cluster of this machine, whose workers import the steps of the tests."""
    folder = f"/tmp/lode-ray-{os.getpid()}"  # a socket's path may have 107 characters
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(ROOT))
        patch.setenv("RAY_agent_register_timeout_ms", "120000")  # of a machine that is busy
        start(folder)
        yield
        ray.shutdown()
    shutil.rmtree(folder, ignore_errors=True)


def start(folder: str) -> None:
    """Start Ray; where the machine is too busy for Ray's own time-outs, try again."""
    for attempt in range(STARTS):
        try:
            ray.init(
                num_cpus=2, include_dashboard=False, log_to_driver=False, configure_logging=False,
                object_store_memory=100_000_000, _temp_dir=folder,
            )  # fmt: skip
        except Exception as error:  # noqa: BLE001 as bare as that is what Ray raises
            ray.shutdown()
            if attempt == STARTS - 1:
                pytest.skip(f"this machine cannot start Ray: {error}")
        else:
            return


def run(job: Job, notes: Path, executor: ExecutorSettings = ON_RAY) -> None:
    run_tasks(job, STAGE, [WriteRows(job.output, notes)], TASKS, executor)


def test_lost_workers_and_failed_tasks_cost_only_themselves(
    catalog: Catalog, tmp_path: Path
) -> None:
    (tmp_path / "fail-0").touch()
    (tmp_path / "die-1").touch()
    with open_job(catalog, "write", {}, {}) as job:
        with pytest.raises(TasksFailedError, match=r"1 of 4 tasks .*\n.*row 0 is damaged"):
            run(job, tmp_path)
        (tmp_path / "fail-0").unlink()
        run(job, tmp_path)
        job.commit()
    times_run = [len((tmp_path / f"ran-{task}").read_text().split()) for task in range(TASKS)]
    assert times_run == [2, 2, 1, 1]
    ids = [number for (number,) in fetch(catalog, "select pair_id from text_ids order by all")]
    assert ids == [
        number for task in range(TASKS) for number in rows_of(task)["pair_id"].to_pylist()
    ]


def test_a_worker_that_is_lost_too_often_is_told(catalog: Catalog, tmp_path: Path) -> None:
    (tmp_path / "die-0").touch()
    without = ExecutorSettings(cluster=RaySettings(retries=0))
    with open_job(catalog, "write", {}, {}) as job:
        with pytest.raises(TasksFailedError, match="task 0 on Ray: WorkerCrashedError"):
            run(job, tmp_path, without)
        run(job, tmp_path)


def test_a_task_that_fits_no_node_is_refused_before_any_work() -> None:
    with pytest.raises(CatalogError, match="no node of the cluster has 99 CPUs, 0 GPUs and 0 MB"):
        choose_executor(1, "ray", ["cpus_per_task=99"], True)
    assert choose_executor(1, "ray", ["cpus_per_task=2"], True).threads_of_task(16) == 2


@pytest.mark.thorough
def test_curation_and_mining_end_as_they_do_here(tmp_path: Path) -> None:
    here = curate_and_mine(tmp_path / "here", ALONE)
    assert curate_and_mine(tmp_path / "ray", ON_RAY, ON_RAY) == here
