import json
import shutil
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from catalog import duck, jobs
from catalog.errors import CatalogError, JobBusyError
from catalog.jobs import Job, is_running, name_job, open_job, register_files
from catalog.lake import Catalog
from catalog.location import resolve
from catalog.maintenance import check_catalog
from catalog.schema import TEXT_IDS
from tests.processes import run_in_processes, start_process
from tests.tiny_catalog import fetch

TASKS, ROWS = 3, 2_000


def rows_of(first: int, rows: int = 3) -> pa.Table:
    ids = pa.array(range(first, first + rows), pa.int64())
    return pa.table([ids, ids, ids], schema=TEXT_IDS)


def write_task(job: Job, task: int, rows: int = 3) -> None:
    with job.output.task("write", task) as output:
        output.write("text_ids", rows_of(task * 1_000_000, rows))
        output.note("rows", rows)


def counted(catalog: Catalog) -> int:
    [(rows,)] = fetch(catalog, "select count(*) from text_ids")
    return int(rows)


def problems(catalog: Catalog) -> list[str]:
    """Check a catalog whose text ids have no pairs."""
    return [p for p in check_catalog(catalog) if "belong to no pair" not in p]


def parquet_files(catalog: Catalog) -> list[str]:
    return sorted(p.name for p in Path(catalog.location.data).rglob("*") if p.is_file())


def test_a_job_is_visible_when_it_is_committed_and_not_before(catalog: Catalog) -> None:
    with open_job(catalog, "write", {"b": 1, "a": 2}, {}, recipe="mine") as job:
        write_task(job, 0)
        write_task(job, 1)
        assert counted(catalog) == 0
        assert not job.is_committed()
        notes = [manifest.notes for manifest in job.commit()]
        assert job.is_committed()
    assert notes == [{"rows": 3}, {"rows": 3}]
    assert counted(catalog) == 6
    assert fetch(catalog, "select run_id, kind, recipe, settings, status, tasks from runs") == [
        (job.job_id, "write", "mine", '{"a":2,"b":1}', "finished", 2)
    ]
    assert problems(catalog) == []


def test_file_names_derive_from_job_and_task(catalog: Catalog) -> None:
    with open_job(catalog, "write", {}, {}) as job:
        write_task(job, 7)
        job.commit()
    assert parquet_files(catalog) == [f"{job.job_id}-write-00007-000.parquet"]
    [(path, rows, size, xxh3)] = fetch(catalog, "select path, rows, bytes, xxh3 from task_files")
    assert path == f"main/text_ids/{job.job_id}-write-00007-000.parquet"
    file = Path(catalog.location.data) / path
    assert (rows, size, len(xxh3)) == (3, file.stat().st_size, 32)


def test_a_job_is_named_by_what_it_does() -> None:
    name = name_job("ingest", {"a": 1, "b": [2]}, {"files": ["x"]})
    assert name == name_job("ingest", {"b": [2], "a": 1}, {"files": ["x"]})
    others = [
        name_job("measure", {"a": 1, "b": [2]}, {"files": ["x"]}),
        name_job("ingest", {"a": 1, "b": [3]}, {"files": ["x"]}),
        name_job("ingest", {"a": 1, "b": [2]}, {"files": ["y"]}),
    ]
    assert len({name, *others}) == 4


def test_committing_twice_adds_nothing(catalog: Catalog) -> None:
    for _ in range(2):
        with open_job(catalog, "write", {}, {}) as job:
            write_task(job, 0)
            job.commit()
            job.commit()
    assert counted(catalog) == 3
    assert fetch(catalog, "select count(*) from runs") == [(1,)]
    assert problems(catalog) == []


def test_a_commit_that_landed_unacknowledged_is_not_made_again(catalog: Catalog) -> None:
    with open_job(catalog, "write", {}, {}) as job:
        write_task(job, 0)
        shutil.copytree(job.folder, catalog.location.work / "before")
        job.commit()
    # The process died before it could tell: its folder is as it was before the commit.
    shutil.rmtree(job.folder)
    shutil.move(catalog.location.work / "before", job.folder)
    with open_job(catalog, "write", {}, {}) as again:
        assert len(again.manifests()) == 1
        again.commit()
    assert counted(catalog) == 3
    assert problems(catalog) == []


def test_a_registered_file_is_never_registered_again(catalog: Catalog) -> None:
    with open_job(catalog, "write", {}, {}) as job:
        write_task(job, 0)
        [manifest] = job.manifests()
        job.commit()
    data = catalog.location.data
    catalog.transact(lambda c: register_files(c, data, "another", manifest.files))
    assert counted(catalog) == 3
    assert fetch(catalog, "select run_id from task_files") == [(job.job_id,)]


def test_a_task_that_fails_leaves_nothing(catalog: Catalog) -> None:
    def fail(job: Job) -> None:
        with job.output.task("write", 0) as output:
            output.write("text_ids", rows_of(0, jobs.ROW_GROUP_ROWS + 1))
            raise ValueError("in the middle")

    with open_job(catalog, "write", {}, {}) as job:
        with pytest.raises(ValueError, match="in the middle"):
            fail(job)
        assert not job.output.is_done("write", 0)
        assert parquet_files(catalog) == []
        write_task(job, 0)
        assert job.output.is_done("write", 0)
        job.commit()
    assert counted(catalog) == 3


def test_long_tables_are_cut_into_files_and_keep_their_order(
    catalog: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs, "ROW_GROUP_ROWS", 10)
    monkeypatch.setattr(jobs, "FILE_MAX_ROWS", 20)
    with open_job(catalog, "write", {}, {}) as job:
        with job.output.task("write", 0) as output:
            for first in range(0, 49, 7):
                output.write("text_ids", rows_of(first, 7).to_batches()[0])
        [manifest] = job.manifests()
        job.commit()
    assert [file.rows for file in manifest.files] == [20, 20, 9]
    tables = [pq.read_table(f"{catalog.location.data}/{file.path}") for file in manifest.files]
    assert pa.concat_tables(tables)["pair_id"].to_pylist() == list(range(49))
    assert counted(catalog) == 49


def test_a_task_without_rows_is_done_too(catalog: Catalog) -> None:
    with open_job(catalog, "write", {}, {}) as job:
        with job.output.task("write", 0) as output:
            output.write("text_ids", rows_of(0, 0))
        assert job.output.is_done("write", 0)
        job.commit()
    assert counted(catalog) == 0
    assert parquet_files(catalog) == []


def test_replaced_tables_keep_their_history(catalog: Catalog) -> None:
    with open_job(catalog, "write", {"n": 1}, {}) as job:
        write_task(job, 0)
        job.commit()
    before = catalog.version()
    with open_job(catalog, "write", {"n": 2}, {}) as job:
        write_task(job, 1, rows=5)
        job.commit(replace_tables=("text_ids",))
    assert fetch(catalog, "select min(pair_id), count(*) from text_ids") == [(1_000_000, 5)]
    with catalog.reader(version=before) as connection:
        rows = connection.execute("select min(pair_id), count(*) from text_ids").fetchall()
    assert rows == [(0, 3)]


def test_what_a_commit_changes_is_all_or_nothing(catalog: Catalog) -> None:
    def make_table(connection: duck.Connection) -> None:
        connection.execute("create table extra(pair_id bigint)")

    def fail(connection: duck.Connection) -> None:
        assert connection.execute("select count(*) from text_ids").fetchall() == [(3,)]
        raise ValueError("at the end")

    version = catalog.version()
    with open_job(catalog, "write", {}, {}) as job:
        write_task(job, 0)
        with pytest.raises(ValueError, match="at the end"):
            job.commit(make_table, finish=fail)
        assert catalog.version() == version
        assert counted(catalog) == 0
        assert len(job.manifests()) == 1  # a second try needs no task again
        job.commit(make_table)
    assert fetch(catalog, "select count(*) from extra") == [(0,)]
    assert counted(catalog) == 3


def test_only_chosen_files_are_registered(catalog: Catalog) -> None:
    with open_job(catalog, "write", {}, {}) as job:
        write_task(job, 0)
        write_task(job, 1, rows=5)
        job.commit(files=job.manifests()[1].files)
    assert counted(catalog) == 5


def test_the_plan_is_made_once(catalog: Catalog) -> None:
    with open_job(catalog, "write", {}, {}) as job:
        assert job.plan(lambda: {"tasks": [1, 2]}) == {"tasks": [1, 2]}
    with open_job(catalog, "write", {}, {}) as job:
        assert job.plan(lambda: {"tasks": [9]}) == {"tasks": [1, 2]}


def test_one_process_at_a_time_runs_a_job(catalog: Catalog) -> None:
    with open_job(catalog, "write", {}, {}) as job:
        assert is_running(job.folder)
        with (
            pytest.raises(JobBusyError, match="is being run by another process"),
            open_job(catalog, "write", {}, {}),
        ):
            pass
        with open_job(catalog, "write", {"other": 1}, {}):
            pass
    assert not is_running(job.folder)
    assert not is_running(catalog.jobs_folder / "none")


def test_progress_is_what_each_task_said_last(catalog: Catalog) -> None:
    with open_job(catalog, "write", {}, {}) as job:
        job.output.report_progress("write", 0, 10)
        job.output.report_progress("write", 0, 20)
        [path] = (job.folder / "progress").iterdir()
        assert path.read_text() == "20"
        job.commit()
        assert not path.exists()
        assert "finished_at" in json.loads((job.folder / "committed.json").read_text())


def run_other_job(url: str, number: int) -> None:
    with open_job(Catalog(resolve(url)), "write", {"n": number}, {}) as job:
        write_task(job, number)
        job.commit()


def test_jobs_of_several_processes_commit_at_once(catalog: Catalog) -> None:
    run_in_processes(run_other_job, [(catalog.location.url, n) for n in range(4)])
    assert counted(catalog) == 12
    assert problems(catalog) == []


# -- killed at any moment --------------------------------------------------------------------------


def run_job(url: str, number: int) -> None:
    """Run a job of three tasks to its end, saying how far it is."""
    catalog = Catalog(resolve(url))
    with open_job(catalog, "write", {"n": number}, {}) as job:
        if job.is_committed():
            return
        for task in range(TASKS):
            if not job.output.is_done("write", task):
                with job.output.task("write", task) as output:
                    for part in range(10):
                        ids = (number * TASKS + task) * 1_000_000 + part * ROWS // 10
                        output.write("text_ids", rows_of(ids, ROWS // 10))
            (job.folder / f"done-{task}").touch()

        def change(connection: duck.Connection) -> None:
            connection.execute("insert into counters values ('job', ?)", [number])
            (job.folder / "committing").touch()

        job.commit(change)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("sign", "pauses_ms"),
    [
        ("job.json", (0, 1, 2, 4, 8, 16)),
        ("done-1", (0, 2, 6)),
        ("committing", (0, 2, 5, 10, 20, 40, 80)),
    ],
)
def test_a_killed_job_ends_the_same_when_it_is_run_again(
    catalog: Catalog, sign: str, pauses_ms: tuple[int, ...]
) -> None:
    url = catalog.location.url
    for number, pause_ms in enumerate(pauses_ms):
        process = start_process(run_job, (url, number))
        folder = catalog.jobs_folder / name_job("write", {"n": number}, {})
        while not (folder / sign).exists() and process.is_alive():
            time.sleep(0.001)
        time.sleep(pause_ms / 1000)
        process.kill()
        process.join()
        # All of the job is there or none of it, and no earlier job is harmed.
        assert counted(catalog) in (number * TASKS * ROWS, (number + 1) * TASKS * ROWS)
        run_job(url, number)
        assert counted(catalog) == (number + 1) * TASKS * ROWS
    assert fetch(catalog, "select count(distinct pair_id) from text_ids") == [
        (len(pauses_ms) * TASKS * ROWS,)
    ]
    assert fetch(catalog, "select count(*) from counters where counter = 'job'") == [
        (len(pauses_ms),)
    ]
    assert problems(catalog) == []


def test_a_job_whose_files_are_gone_says_which(catalog: Catalog) -> None:
    with open_job(catalog, "write", {}, {}) as job:
        write_task(job, 0)
        [manifest] = job.manifests()
        (Path(catalog.location.data) / manifest.files[0].path).unlink()
        with pytest.raises((CatalogError, duck.Error), match=job.job_id):
            job.commit()
    assert counted(catalog) == 0
