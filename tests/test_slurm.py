"""Tasks on a real Slurm of one node: lost ones run again, queued ones are not submitted twice."""

import io
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.console import Console

from catalog.errors import CatalogError, TasksPendingError
from catalog.executor_options import choose_executor
from catalog.executors import ExecutorSettings, TasksFailedError, run_tasks
from catalog.jobs import Job, open_job
from catalog.lake import Catalog
from catalog.slurm import SlurmSettings
from catalog.snapshots import create_snapshot
from catalog.stage import Stage
from catalog.terminal import Bars
from mining.embed import embed
from tests.cluster_steps import STAGE, WriteRows, rows_of
from tests.cluster_work import ALONE, curate_and_mine, extract_and_score, write_crawl
from tests.pack_catalog import make_catalog
from tests.processes import CONTEXT
from tests.test_embed import ENCODER, ROWS, stored
from tests.tiny_catalog import fetch

SCRIPT = Path(__file__).parent / "services" / "slurm.sh"
ROOT = Path(__file__).parent.parent
WAIT_S = 120

pytestmark = [
    pytest.mark.slurm,
    pytest.mark.slow,
    pytest.mark.skipif(
        not all(map(shutil.which, ("slurmctld", "slurmd", "munged", "sbatch"))),
        reason="Slurm and munge are not installed",
    ),
    pytest.mark.skipif(os.geteuid() != 0, reason="a Slurm of one's own needs root"),
]


def free_port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


@pytest.fixture(scope="module", autouse=True)
def slurm() -> Iterator[None]:
    """Start a node whose arrays hold two tasks, so that stages need several."""
    folder = Path("/tmp") / f"lode-slurm-{os.getpid()}"  # a socket's path may have 107 characters
    settings = {
        "SLURM_BASE": str(folder), "SLURM_MAX_ARRAY": "2",
        "SLURM_CTLD_PORT": free_port(), "SLURM_SLURMD_PORT": free_port(),
    }  # fmt: skip
    environment = {**os.environ, **settings}
    started = subprocess.run(
        ["bash", str(SCRIPT), "start"], env=environment, stderr=subprocess.PIPE
    )
    if started.returncode:
        subprocess.run(["bash", str(SCRIPT), "stop"], check=False, env=environment)
        said = started.stderr.decode(errors="replace").strip().splitlines()
        pytest.skip(f"this machine cannot run a Slurm node: {said[:1]}")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SLURM_CONF", str(folder / "slurm.conf"))
        patch.setenv("PYTHONPATH", str(ROOT))  # nodes import the steps of the tests
        yield
        subprocess.run(["scancel", "--me"], check=False)
    subprocess.run(["bash", str(SCRIPT), "stop"], check=True, env=environment)
    shutil.rmtree(folder, ignore_errors=True)


def on_slurm(**settings: object) -> ExecutorSettings:
    return ExecutorSettings(cluster=SlurmSettings(poll_s=0.2, partition="cpu", **settings))


def run(job: Job, notes: Path, tasks: int, executor: ExecutorSettings) -> None:
    run_tasks(job, STAGE, [WriteRows(job.output, notes)], tasks, executor)


def times_run(notes: Path, tasks: int) -> list[int]:
    paths = [notes / f"ran-{task}" for task in range(tasks)]
    return [len(path.read_text().split()) if path.exists() else 0 for path in paths]


def wait_until_run(notes: Path, *tasks: int) -> None:
    deadline = time.monotonic() + WAIT_S
    while not all((notes / f"ran-{task}").exists() for task in tasks):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def committed_ids(catalog: Catalog) -> list[int]:
    return [number for (number,) in fetch(catalog, "select pair_id from text_ids order by all")]


def ids_of(tasks: int) -> list[int]:
    return [number for task in range(tasks) for number in rows_of(task)["pair_id"].to_pylist()]


def cancel_when_run(notes: Path, task: int) -> None:
    """Cancel the array that holds a task, as soon as the task runs."""
    wait_until_run(notes, task)
    listed = subprocess.run(
        ["squeue", "--noheader", "--array", "--format=%i %j %K"],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    for line in listed.splitlines():
        number, name, index = line.split()
        if int(name.rpartition("-")[2]) + int(index) == task:
            subprocess.run(["scancel", number], check=True)


def test_failed_and_cancelled_tasks_run_again_and_only_they(
    catalog: Catalog, tmp_path: Path
) -> None:
    (tmp_path / "fail-0").touch()
    (tmp_path / "hold-2").touch()
    canceller = threading.Thread(target=cancel_when_run, args=(tmp_path, 2))
    canceller.start()
    with open_job(catalog, "write", {}, {}) as job:
        with pytest.raises(TasksFailedError) as caught:
            run(job, tmp_path, 3, on_slurm())
        canceller.join()
        assert "2 of 3 tasks of stage 'write'" in str(caught.value)
        assert re.search(r"task 0 on \S+: ValueError: row 0 is damaged", str(caught.value))
        assert re.search(r"task 2 on Slurm: .*CANCELLED", str(caught.value))
        for fault in ("fail-0", "hold-2"):
            (tmp_path / fault).unlink()
        run(job, tmp_path, 3, on_slurm())
        job.commit()
    assert times_run(tmp_path, 3) == [2, 1, 2]
    assert committed_ids(catalog) == ids_of(3)


def scontrol(*words: str) -> None:
    subprocess.run(["scontrol", *words], check=True)


def queued_jobs() -> list[str]:
    listed = subprocess.run(
        ["squeue", "--noheader", "--format=%F"], capture_output=True, text=True, check=True
    )
    return sorted(set(listed.stdout.split()), key=int)


def wait_for_reason(reason: str) -> None:
    """Wait until the scheduler has looked at all that was submitted."""
    deadline = time.monotonic() + WAIT_S
    listing = ["squeue", "--noheader", "--format=%r"]
    while reason not in subprocess.run(listing, capture_output=True, text=True).stdout:
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_a_job_that_is_held_is_told_and_not_waited_for(
    catalog: Catalog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = io.StringIO()
    monkeypatch.setattr("catalog.terminal.console", Console(file=shown))
    later = {"begin": "now+3600"}
    with open_job(catalog, "write", {}, {}) as job:
        with pytest.raises(TasksPendingError, match="3 submitted now"):
            run(job, tmp_path, 3, on_slurm(wait=False, sbatch=later))
        first, second = queued_jobs()  # two tasks and one, which waits for the end of the two
        scontrol("hold", first)
        wait_for_reason("Dependency")
        told = rf"2 of 3 tasks wait .*JobHeldAdmin \(2 tasks\); .*scontrol release {first}\)"
        steps = [WriteRows(job.output, tmp_path)]
        for wait in (False, True):
            with pytest.raises(CatalogError, match=told):
                run_tasks(job, STAGE, steps, 3, on_slurm(wait=wait), Bars({}))
        # Once for every change, as this is no terminal.
        assert shown.getvalue() == "write: 1 pending (Dependency), 2 pending (JobHeldAdmin)\n"
        scontrol("release", first)
        for number in (first, second):
            scontrol("update", f"JobId={number}", "StartTime=now")
        run(job, tmp_path, 3, on_slurm())
        job.commit()
    assert times_run(tmp_path, 3) == [1, 1, 1]
    assert committed_ids(catalog) == ids_of(3)


def test_a_dependency_that_is_never_satisfied_is_not_waited_for(
    catalog: Catalog, tmp_path: Path
) -> None:
    failed = subprocess.run(
        ["sbatch", "--parsable", "--wait", "--output=/dev/null", "--wrap=false"],
        capture_output=True, text=True,
    )  # fmt: skip
    after = {"dependency": f"afterok:{failed.stdout.strip()}"}
    with open_job(catalog, "write", {}, {}) as job:
        with pytest.raises(CatalogError, match=r"DependencyNeverSatisfied .*cancel them \(scancel"):
            run(job, tmp_path, 1, on_slurm(sbatch=after))
        subprocess.run(["scancel", *queued_jobs()], check=True)
        run(job, tmp_path, 1, on_slurm())
    assert times_run(tmp_path, 1) == [1]


def submit_and_wait(url: str, notes: str) -> None:
    with open_job(Catalog.open(url), "write", {}, {}) as job:
        run(job, Path(notes), 2, on_slurm())


@pytest.mark.thorough
def test_tasks_of_a_killed_submitter_are_neither_lost_nor_submitted_twice(
    catalog: Catalog, tmp_path: Path
) -> None:
    for task in range(2):
        (tmp_path / f"hold-{task}").touch()
    submitter = CONTEXT.Process(target=submit_and_wait, args=(catalog.location.url, str(tmp_path)))
    submitter.start()
    wait_until_run(tmp_path, 0)
    submitter.kill()
    submitter.join()
    with open_job(catalog, "write", {}, {}) as job:
        stage = Stage(job.output, STAGE, 2, [])
        assert on_slurm().cluster.running(stage) == {0, 1}
        with pytest.raises(TasksPendingError, match="0 of 2 tasks done, 0 submitted now, 2 in"):
            run(job, tmp_path, 2, on_slurm(wait=False))
        for task in range(2):
            (tmp_path / f"hold-{task}").unlink()
        run(job, tmp_path, 2, on_slurm())
        job.commit()
    assert times_run(tmp_path, 2) == [1, 1]
    assert committed_ids(catalog) == ids_of(2)


def test_a_node_that_does_not_see_the_catalog_is_named(catalog: Catalog, tmp_path: Path) -> None:
    with open_job(catalog, "write", {}, {}) as job:
        stage = Stage(job.output, STAGE, 1, [WriteRows(job.output, tmp_path)])  # and not saved
        failures = on_slurm().cluster.run(stage, [0])
    assert re.search(r"node \S+: cannot see \S+write\.pickle; .* all nodes share", str(failures[0]))


def test_slurm_itself_says_what_is_wrong_before_any_work() -> None:
    with pytest.raises(CatalogError, match=r"sbatch refused: .*[Ii]nvalid partition"):
        choose_executor(1, "slurm", ["partition=nowhere"], True)
    with pytest.raises(CatalogError, match=r"sbatch refused: .*[Ii]nvalid.*time"):
        choose_executor(1, "slurm", ["partition=cpu", "time=soon"], True)
    assert choose_executor(1, "slurm", ["partition=cpu", "time=00:10:00"], True).cluster


def test_extraction_decontamination_and_scores_end_as_they_do_here(tmp_path: Path) -> None:
    crawl = write_crawl(tmp_path / "crawl")
    here = extract_and_score(tmp_path / "here", crawl, ALONE)
    assert extract_and_score(tmp_path / "slurm", crawl, on_slurm()) == here
    digest, quarantine, contamination, scores = here
    assert digest
    assert (len(quarantine), len(contamination), len(scores)) == (2, 12, 12)


@pytest.mark.thorough
def test_curation_and_mining_end_as_they_do_here(tmp_path: Path) -> None:
    here = curate_and_mine(tmp_path / "here", ALONE)
    assert curate_and_mine(tmp_path / "slurm", on_slurm()) == here


@pytest.mark.thorough
def test_embedding_goes_on_with_the_texts_that_were_submitted(tmp_path: Path) -> None:
    catalogs = [make_catalog(tmp_path / name, ROWS) for name in ("slurm", "here")]
    snapshots = [create_snapshot(catalog, "v1", "keep") for catalog in catalogs]

    def embed_on(executor: ExecutorSettings, number: int = 0) -> int:
        return embed(
            catalogs[number], snapshots[number], ENCODER, "passage", executor, task_texts=20
        ).texts

    with pytest.raises(TasksPendingError, match="2 submitted now"):
        embed_on(on_slurm(wait=False, sbatch={"begin": "now+5"}))
    [todo] = catalogs[0].jobs_folder.glob("embed-*/scratch/texts.parquet")
    listed = todo.stat().st_ino
    with pytest.raises(TasksPendingError, match="0 submitted now, 2 in"):
        embed_on(on_slurm(wait=False))
    assert todo.stat().st_ino == listed
    assert embed_on(on_slurm()) == embed_on(ALONE, 1) == 40
    assert stored(catalogs[0]) == stored(catalogs[1])


def test_the_command_can_end_and_be_run_again(catalog: Catalog, tmp_path: Path) -> None:
    source = tmp_path / "pairs.jsonl"
    source.write_text('{"query": "今天天气怎么样", "positive": "今天晴，最高气温二十度。"}\n')
    command = [
        sys.executable, "-m", "lode", "ingest", str(source), "-c", catalog.location.url,
        "--executor", "slurm", "--no-wait",
    ]  # fmt: skip
    first = subprocess.run(command, capture_output=True, text=True, check=False)
    assert first.returncode == 75, first.stderr
    assert "1 submitted now" in first.stderr
    deadline = time.monotonic() + WAIT_S
    while (done := subprocess.run(command, capture_output=True, text=True)).returncode == 75:
        assert "0 submitted now, 1 in Slurm's queue" in done.stderr
        assert time.monotonic() < deadline
    assert done.returncode == 0, done.stderr
    assert fetch(catalog, "select query from pairs") == [("今天天气怎么样",)]
