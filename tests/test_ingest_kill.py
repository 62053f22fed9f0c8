"""Ingest: kill -9 anywhere, run again, and the result is the same as without the kill."""

import multiprocessing
import signal

import pytest

from catalog.lake import Catalog
from tests.killed_ingest import ingest_until
from tests.sources import as_parquet, jsonl, write

pytestmark = pytest.mark.slow

CONTENT = {
    "pairs": "select * from pairs order by pair_id",
    "quarantine": "select * from quarantine order by file_id, row",
    "files": "select * from files order by file_id",
    "sources": "select * from sources order by source",
}


def content(url):
    with Catalog.open(url).reader() as connection:
        return {name: connection.execute(sql).fetchall() for name, sql in CONTENT.items()}


class Runner:
    """Runs ingests in processes of their own that can be killed."""

    def __init__(self):
        self.context = multiprocessing.get_context("forkserver")
        self.context.set_forkserver_preload(["tests.killed_ingest"])
        self.calls = self.context.Value("q", 0)

    def run(self, url, folder, last_call=-1):
        """Return the exit code and the number of calls that were made."""
        self.calls.value = 0
        process = self.context.Process(
            target=ingest_until, args=(url, folder, last_call, self.calls)
        )
        process.start()
        process.join()
        return process.exitcode, self.calls.value


@pytest.fixture
def folder(tmp_path):
    made = tmp_path / "sources"
    made.mkdir()
    good = [{"query": f"问题 {i}", "positive": f"答案 {i}"} for i in range(500)]
    write(made, "a.jsonl", jsonl(*good) + b"broken\n")
    write(made, "b.parquet", as_parquet([{"query": "", "positive": "x"}, *good[:300]]))
    write(made, "c.jsonl", jsonl({"query": "q", "pos": ["p1", "p2"], "neg": ["n", "p1"]}))
    return made


def test_kill_9_at_any_moment_changes_nothing_but_the_time(tmp_path, folder):
    runner = Runner()
    reference = str(tmp_path / "reference")
    Catalog.create(reference)
    exitcode, calls = runner.run(reference, folder)
    assert exitcode == 0
    expected = content(reference)
    assert [len(rows) for rows in expected.values()] == [803, 2, 3, 3]

    killed = str(tmp_path / "killed")
    Catalog.create(killed)
    empty = content(killed)
    for share in (0.2, 0.6, 0.95):
        exitcode, reached = runner.run(killed, folder, int(calls * share))
        assert exitcode in (-signal.SIGKILL, 0), reached
        assert content(killed) in (empty, expected)  # all or nothing
    assert runner.run(killed, folder)[0] == 0
    assert content(killed) == expected
