"""Many processes committing at once, and commits that were killed or not acknowledged."""

import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from catalog.errors import CatalogError
from catalog.jobs import open_job
from catalog.lake import Catalog
from catalog.maintenance import check_catalog, collect_garbage
from catalog.schema import TEXT_IDS

ROOT = Path(__file__).parent.parent
WORKER = """
import sys
import pyarrow as pa
from catalog.jobs import open_job
from catalog.lake import Catalog
from catalog.schema import TEXT_IDS
catalog = Catalog.open(sys.argv[1])
worker = int(sys.argv[2])
for number in range(int(sys.argv[3])):
    with open_job(catalog, "made", {"worker": worker, "number": number}, {}) as job:
        first = worker * 1000 + number
        rows = {"pair_id": [first], "query_id": [None], "passage_id": [first]}
        with job.output.task("write", 0) as out:
            out.write("text_ids", pa.table(rows, schema=TEXT_IDS))
        job.commit()
"""


def write_rows(catalog: Catalog, name: str, first: int, rows: int = 3) -> None:
    """Commit a job that adds rows to text_ids."""
    with open_job(catalog, "made", {"name": name}, {}) as job:
        ids = list(range(first, first + rows))
        table = pa.table(
            {"pair_id": ids, "query_id": [None] * rows, "passage_id": ids}, schema=TEXT_IDS
        )
        with job.output.task("write", 0) as out:
            out.write("text_ids", table)
        job.commit()


def counted(catalog: Catalog) -> tuple[int, int]:
    with catalog.reader() as connection:
        row = connection.execute(
            "select count(*), count(distinct pair_id) from text_ids"
        ).fetchone()
    assert row is not None
    return row


@pytest.mark.slow
def test_eight_processes_that_commit_at_once_lose_and_double_nothing(tmp_path: Path) -> None:
    catalog = Catalog.create(str(tmp_path / "corpus"))
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", WORKER, catalog.location.url, str(n), "6"], cwd=ROOT
        )
        for n in range(8)
    ]
    assert [worker.wait() for worker in workers] == [0] * 8
    assert counted(catalog) == (48, 48)


def test_a_commit_that_landed_unacknowledged_is_not_repeated(tmp_path: Path) -> None:
    catalog = Catalog.create(str(tmp_path / "corpus"))
    write_rows(catalog, "a", 1)
    before = catalog.version()
    # The process died after the commit and before it dropped the manifests: the re-run makes the
    # same files again and commits them.
    write_rows(catalog, "a", 1)
    assert counted(catalog) == (3, 3)
    assert catalog.version() == before


def test_orphans_are_removed_and_what_can_be_resumed_is_kept(tmp_path: Path) -> None:
    catalog = Catalog.create(str(tmp_path / "corpus"))
    write_rows(catalog, "a", 1)
    with open_job(catalog, "made", {"name": "unfinished"}, {}) as job:
        table = pa.table({"pair_id": [9], "query_id": [None], "passage_id": [9]}, schema=TEXT_IDS)
        with job.output.task("write", 0) as out:
            out.write("text_ids", table)
    files = sorted((tmp_path / "corpus/data").rglob("*.parquet"))
    assert len(files) >= 2
    assert collect_garbage(catalog).files == []
    removed = collect_garbage(catalog, older_than_s=-1).files
    assert [job.job_id in file.path for file in removed] == [True]
    assert counted(catalog) == (3, 3)


def test_check_finds_a_flipped_byte_and_a_missing_file(tmp_path: Path) -> None:
    catalog = Catalog.create(str(tmp_path / "corpus"))
    write_rows(catalog, "a", 1)
    write_rows(catalog, "b", 10)
    first, second = sorted((tmp_path / "corpus/data/main/text_ids").glob("made-*.parquet"))
    content = bytearray(first.read_bytes())
    content[10] ^= 1
    first.write_bytes(content)
    problems = [p for p in check_catalog(catalog) if "belong to no pair" not in p]
    assert len(problems) == 1
    assert first.name in problems[0]
    assert "checksum" in problems[0]
    content[10] ^= 1
    first.write_bytes(content)
    assert [p for p in check_catalog(catalog) if "belong to no pair" not in p] == []
    second.rename(tmp_path / "elsewhere")
    assert check_catalog(catalog) == [f"{second} is missing"]


def test_a_writer_holds_a_bounded_number_of_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("catalog.jobs.ROW_GROUP_BYTES", 100_000)
    catalog = Catalog.create(str(tmp_path / "corpus"))
    with open_job(catalog, "long", {}, {}) as job, job.output.task("write", 0) as out:
        for number in range(40):
            out.write("texts", pa.table({"text": [str(number) * 10_000]}))
    (path,) = (tmp_path / "corpus/data/main/texts").glob("*.parquet")
    written = pq.ParquetFile(path)
    assert written.metadata.num_row_groups > 3
    assert written.read()["text"].to_pylist() == [str(n) * 10_000 for n in range(40)]


def test_a_task_that_cannot_finish_leaves_nothing_aside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    catalog = Catalog.create(str(tmp_path / "corpus"))

    def full(path: Path) -> None:
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr("catalog.storage.sync_file", full)
    with (
        open_job(catalog, "full", {}, {}) as job,
        pytest.raises(CatalogError, match="No space"),
        job.output.task("write", 0) as out,
    ):
        out.write("texts", pa.table({"text": ["a"]}))
    assert [p for p in (tmp_path / "corpus/data").rglob("*") if p.is_file()] == []
