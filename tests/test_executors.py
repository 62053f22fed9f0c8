"""Running tasks on this machine: what ends, what fails, and what a run again still has to do."""

import os
import re
import time
from pathlib import Path

import pytest

from catalog.errors import CatalogError
from catalog.executor_options import choose_executor, parse_cluster
from catalog.executors import ExecutorSettings, run_tasks
from catalog.jobs import Job, open_job
from catalog.lake import Catalog
from catalog.slurm_queue import Queued, parse_queue, stuck_tasks, summary
from catalog.stage import Stage, load_stage, main
from tests.cluster_steps import STAGE, Unreadable, WriteRows, rows_of
from tests.processes import CONTEXT
from tests.tiny_catalog import fetch

TASKS = 4


def run(job: Job, notes: Path, workers: int = 2) -> None:
    steps = [WriteRows(job.output, notes)]
    run_tasks(job, STAGE, steps, TASKS, ExecutorSettings(workers))


def times_run(notes: Path) -> list[int]:
    paths = [notes / f"ran-{task}" for task in range(TASKS)]
    return [len(path.read_text().split()) if path.exists() else 0 for path in paths]


def committed_ids(catalog: Catalog) -> list[int]:
    return [number for (number,) in fetch(catalog, "select pair_id from text_ids order by all")]


ALL_IDS = [number for task in range(TASKS) for number in rows_of(task)["pair_id"].to_pylist()]


@pytest.mark.parametrize("workers", [1, 3])
def test_a_task_that_fails_is_run_again_alone(
    catalog: Catalog, tmp_path: Path, workers: int
) -> None:
    (tmp_path / "fail-3").touch()
    with open_job(catalog, "write", {}, {}) as job:
        with pytest.raises(ValueError, match="row 3 is damaged"):
            run(job, tmp_path, workers)
        before = times_run(tmp_path)
        done = [task for task in range(TASKS) if job.output.is_done(STAGE, task)]
        (tmp_path / "fail-3").unlink()
        run(job, tmp_path, workers)
        job.commit()
    after = times_run(tmp_path)
    assert [after[task] for task in done] == [before[task] for task in done]
    assert after[3] == 2
    assert committed_ids(catalog) == ALL_IDS


def test_a_worker_that_is_killed_ends_the_run_and_says_so(catalog: Catalog, tmp_path: Path) -> None:
    (tmp_path / "die-1").touch()
    with open_job(catalog, "write", {}, {}) as job:
        with pytest.raises(
            RuntimeError, match=r"process of task 1 was killed by SIGKILL; .*memory"
        ):
            run(job, tmp_path)
        run(job, tmp_path)
        job.commit()
    assert committed_ids(catalog) == ALL_IDS


def test_steps_that_a_worker_cannot_read_end_the_run(catalog: Catalog, tmp_path: Path) -> None:
    with open_job(catalog, "write", {}, {}) as job:
        step = WriteRows(job.output, tmp_path)
        step.more = Unreadable()
        with pytest.raises(ImportError, match="of_the_submitter"):
            run_tasks(job, STAGE, [step], TASKS, ExecutorSettings(2))
    assert times_run(tmp_path) == [0] * TASKS


def test_steps_of_the_program_itself_are_refused(catalog: Catalog) -> None:
    stranger = type("Step", (), {"__module__": "__main__"})()
    with (
        open_job(catalog, "write", {}, {}) as job,
        pytest.raises(CatalogError, match="step Step is defined in the program"),
    ):
        run_tasks(job, STAGE, [stranger], TASKS, ExecutorSettings(2))


def run_alone(url: str, notes: str) -> None:
    with open_job(Catalog.open(url), "write", {}, {}) as job:
        run(job, Path(notes))


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_workers_end_when_their_parent_is_killed(catalog: Catalog, tmp_path: Path) -> None:
    for task in range(TASKS):
        (tmp_path / f"hold-{task}").touch()
    parent = CONTEXT.Process(target=run_alone, args=(catalog.location.url, str(tmp_path)))
    parent.start()
    while sum(times_run(tmp_path)) < 2:
        assert parent.is_alive()
        time.sleep(0.02)
    parent.kill()
    parent.join()
    workers = [int((tmp_path / f"ran-{task}").read_text()) for task in (0, 1)]
    for task in range(TASKS):
        (tmp_path / f"hold-{task}").unlink()
    deadline = time.monotonic() + 30
    while any(is_alive(pid) for pid in workers):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    # What they finished after their parent's end counts: the next run does the rest.
    with open_job(catalog, "write", {}, {}) as job:
        run(job, tmp_path)
        job.commit()
    assert times_run(tmp_path) == [1] * TASKS
    assert committed_ids(catalog) == ALL_IDS


def test_a_task_that_two_nodes_run_counts_once(catalog: Catalog, tmp_path: Path) -> None:
    with open_job(catalog, "write", {}, {}) as job:
        with job.output.task(STAGE, 0) as late:
            late.write("text_ids", rows_of(7))
            with job.output.task(STAGE, 0) as first:
                first.write("text_ids", rows_of(0))
        [manifest] = job.manifests()
        job.commit()
        with job.output.task(STAGE, 0) as zombie:  # after the commit it may not touch the file
            zombie.write("text_ids", rows_of(8))
    path = Path(catalog.location.data) / manifest.files[0].path
    assert committed_ids(catalog) == rows_of(0)["pair_id"].to_pylist()
    assert [file for file in path.parent.iterdir() if file.suffix == ".tmp"] == []


def test_a_node_that_does_not_see_the_job_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "stages" / "write.pickle"
    assert main(str(path), "0") == 1
    said = capsys.readouterr().err
    assert f"node {os.uname().nodename} cannot see {path}" in said
    assert "all nodes share" in said


def test_a_failure_is_left_for_the_submitter_and_forgotten_by_success(
    catalog: Catalog, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "fail-2").touch()
    with open_job(catalog, "write", {}, {}) as job:
        stage = Stage(job.output, STAGE, TASKS, [WriteRows(job.output, tmp_path)])
        path = stage.save()
        load_stage.cache_clear()
        assert main(str(path), "2") == 1
        assert "row 2 is damaged" in capsys.readouterr().err
        assert "ValueError: row 2 is damaged" in str(stage.failure(2))
        (tmp_path / "fail-2").unlink()
        assert main(str(path), "2") == 0
        assert stage.failure(2) is None
        assert stage.missing() == [0, 1, 3]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((2, "pbs", None, True), "executor is 'pbs'; allowed are local, slurm, ray"),
        ((2, None, ["partition=cpu"], True), "--cluster needs --executor slurm or ray"),
        ((2, None, None, False), "--no-wait needs --executor slurm or ray"),
        ((2, "ray", None, False), "tasks of Ray end with the command"),
        ((2, "slurm", ["partitoin=cpu"], True), "did you mean 'partition'"),
        ((2, "slurm", ["cpus_per_task=many"], True), "cpus_per_task is 'many'; its type is int"),
        ((2, "slurm", ["cpus_per_task=0"], True), "cpus_per_task is 0; more than 0"),
        ((2, "slurm", ["venv=/x", "env_command=y"], True), "give one of them"),
        ((2, "slurm", ['sbatch={ array = "1-3" }'], True), "sbatch sets 'array', which Lode"),
    ],
)
def test_bad_settings_are_refused(arguments: tuple, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        choose_executor(*arguments)


def test_settings_come_from_a_file_and_from_options(tmp_path: Path) -> None:
    path = tmp_path / "site.toml"
    path.write_text('[executor]\nkind = "nowhere"\npartition = "gpu"\ntime = "02:00:00"\n')
    with pytest.raises(ValueError, match="executor is 'nowhere'"):
        choose_executor(2, None, [str(path)], True)
    assert parse_cluster("slurm", {"time": "30", "poll_s": 1}).poll_s == 1


LISTING = """
lode-x-0|0|7|RUNNING|None
lode-x-0|1|7|PENDING|JobHeldUser
lode-x-0|2|7|PENDING|Nodes required for job are DOWN, DRAINED or reserved
lode-x-1000|0|8|PENDING|Dependency
lode-y-0|0|9|PENDING|Priority
other job
"""


def test_slurms_queue_is_read_and_told_in_few_words() -> None:
    queue = parse_queue("lode-x", LISTING)
    assert [(one.task, one.job) for one in queue] == [(0, "7"), (1, "7"), (2, "7"), (1000, "8")]
    assert summary(queue) == (
        "1 running, 1 pending (Dependency), 1 pending (JobHeldUser), "
        "1 pending (Nodes required for job are DOWN, DRAINED or reserved)"
    )


@pytest.mark.parametrize(
    ("states", "stuck"),
    [
        (["RUNNING None", "PENDING JobHeldUser"], 0),
        (["PENDING Priority", "PENDING JobHeldUser"], 0),
        (["PENDING Dependency"], 0),
        (["PENDING PartitionDown", "PENDING BeginTime"], 0),
        (["PENDING JobHeldUser", "PENDING Dependency"], 1),
        (["PENDING launch failed requeued held"], 1),
        (["PENDING QOSMaxWallDurationPerJobLimit", "PENDING InvalidQOS"], 2),
        (["PENDING QOSMaxJobsPerUserLimit"], 0),
    ],
)
def test_tasks_are_stuck_where_only_a_person_can_help(states: list[str], stuck: int) -> None:
    queue = [Queued(n, str(n), *state.split(" ", 1)) for n, state in enumerate(states)]
    assert len(stuck_tasks(queue)) == stuck


def test_a_machine_without_slurm_is_told_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(CatalogError, match=r"sbatch is not on the PATH; .*slurm-client"):
        choose_executor(2, "slurm", None, True)


def test_a_machine_without_ray_is_told_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("catalog.ray_tasks.find_spec", lambda name: None)
    with pytest.raises(CatalogError, match=r"lode-engine\[cluster\]"):
        choose_executor(2, "ray", None, True)


def test_a_ray_that_does_not_run_is_told_how_to_start() -> None:
    pytest.importorskip("ray", reason="Ray is not installed (the extra [cluster])")
    with pytest.raises(CatalogError, match=r"there is no cluster at '.*' .*ray start --head"):
        choose_executor(1, "ray", ["address=127.0.0.1:1"], True)
