"""What processes of the tests of S3 run: few imports, as each of them starts anew."""

import os

import pyarrow as pa

from catalog.jobs import Job, open_job
from catalog.lake import Catalog
from catalog.location import resolve
from catalog.maintenance import check_catalog
from catalog.schema import TEXT_IDS

ROWS = 3


def write_task(job: Job, task: int) -> None:
    """Write three rows of ``text_ids``."""
    ids = pa.array(range(task * 1_000, task * 1_000 + ROWS), pa.int64())
    with job.output.task("write", task) as output:
        output.write("text_ids", pa.table([ids, ids, ids], schema=TEXT_IDS))


def write_job(url: str, name: str, task: int = 0) -> None:
    """Run a job of one task, as far as it has not run before."""
    with open_job(Catalog(resolve(url)), "made", {"name": name}, {}) as job:
        if not job.is_committed():
            if not job.output.is_done("write", task):
                write_task(job, task)
            job.commit()


def write_elsewhere(environment: dict[str, str], url: str, names: list[tuple[str, int]]) -> None:
    """Write jobs in a process that was forked before the tests' credentials were set."""
    os.environ.update(environment)
    for name, task in names:
        write_job(url, name, task)


def counted(catalog: Catalog) -> int:
    """Count the rows."""
    with catalog.reader() as connection:
        [(rows,)] = connection.execute("select count(*) from text_ids").fetchall()
    return int(rows)


def problems(catalog: Catalog) -> list[str]:
    """Check a catalog whose text ids have no pairs."""
    return [p for p in check_catalog(catalog) if "belong to no pair" not in p]
