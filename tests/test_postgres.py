"""A team's catalog: metadata in a real PostgreSQL, with many writers, and when it goes away."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from catalog.errors import CatalogError
from catalog.executors import ExecutorSettings
from catalog.lake import Catalog
from catalog.location import resolve
from catalog.maintenance import check_catalog
from catalog.snapshots import create_snapshot
from curation.curate import curate
from curation.demo import generate
from curation.ingest import find_sources, ingest_files
from curation.recipes import load_recipe, load_sources
from tests.processes import run_in_processes, start_process
from tests.test_lake import commit_often, counted
from tests.tiny_catalog import fetch

SCRIPT = Path(__file__).parent / "services" / "postgres.sh"
ALONE = ExecutorSettings(workers=1)
MakeUrl = Callable[[str], str]


def has_server() -> bool:
    return shutil.which("initdb") is not None or any(
        Path("/usr/lib/postgresql").glob("*/bin/initdb")
    )


pytestmark = [
    pytest.mark.postgres,
    pytest.mark.skipif(not has_server(), reason="PostgreSQL's initdb is not installed"),
]


def is_running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


class Server:
    """A PostgreSQL of the tests' own, on a free port of this machine."""

    def __init__(self, folder: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.folder = folder
        self.environment = {
            **os.environ, "PGBASE": str(folder), "PGPORT_PRIV": str(self.port),
        }  # fmt: skip

    def run(self, verb: str) -> None:
        subprocess.run(["bash", str(SCRIPT), verb], check=True, env=self.environment)

    def kill(self) -> None:
        """Stop it as a crash would: no connection is ended in order."""
        lock = self.folder / "data" / "postmaster.pid"
        first = int(lock.read_text().split()[0])
        found = subprocess.run(["pgrep", "-P", str(first)], capture_output=True, text=True)
        everyone = [first, *map(int, found.stdout.split())]
        for pid in everyone:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        while any(is_running(pid) for pid in everyone):  # or the next one would not start
            time.sleep(0.05)
        # Where nobody waits for orphans its number stays taken, and the server would not start.
        for left in (lock, *self.folder.glob("sock/.s.PGSQL.*")):
            left.unlink(missing_ok=True)

    def create_database(self, name: str) -> None:
        address = ["-h", "127.0.0.1", "-p", str(self.port), "-U", "lode"]
        subprocess.run(
            ["psql", "-q", *address, "postgres", "-c", f"create database {name}"], check=True
        )


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    # Short, as a socket's path may have 107 characters; readable by the server's own user.
    folder = Path("/tmp") / f"lode-pg-{os.getpid()}"
    made = Server(folder)
    made.run("start")
    yield made
    made.run("stop")
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def make_url(server: Server, tmp_path: Path) -> MakeUrl:
    def make(name: str) -> str:
        server.create_database(name)
        place = f"data={tmp_path / name / 'data'}&work={tmp_path / name / 'work'}"
        return f"postgres://lode@127.0.0.1:{server.port}/{name}?{place}"

    return make


def test_curation_ends_with_the_digest_of_a_local_catalog(
    make_url: MakeUrl, tmp_path: Path
) -> None:
    corpus = generate(tmp_path / "raw", 200)
    digests = set()
    for url in (str(tmp_path / "local"), make_url("curated")):
        catalog = Catalog.create(url)
        ingest_files(catalog, find_sources(recipe=load_sources(corpus.recipe)), executor=ALONE)
        curate(catalog, load_recipe("conan-v1"), ALONE)
        digests.add(create_snapshot(catalog, "v1").digest)
        assert check_catalog(catalog) == []
        before = catalog.version()
        ingest_files(catalog, find_sources(recipe=load_sources(corpus.recipe)), executor=ALONE)
        assert catalog.version() == before
    assert len(digests) == 1


def test_eight_processes_commit_at_once_and_no_commit_is_lost(make_url: MakeUrl) -> None:
    url = make_url("writers")
    catalog = Catalog.create(url)
    run_in_processes(commit_often, [(url, f"p{number}", 3) for number in range(8)])
    assert counted(catalog) == 24
    rows = fetch(
        catalog, "select counter, count(*) from counters where counter like 'p%' group by 1"
    )
    assert dict(rows) == {f"p{number}": 3 for number in range(8)}


def commit_and_note(url: str, path: str) -> None:
    """Commit until the server is gone, noting what was acknowledged."""
    catalog = Catalog(resolve(url))
    with Path(path).open("ab") as stream:
        for number in range(10_000):
            catalog.transact(
                lambda c, number=number: c.execute("insert into counters values ('x', ?)", [number])
            )
            stream.write(b".")
            stream.flush()


def test_a_server_that_dies_loses_nothing_that_was_acknowledged(
    server: Server, make_url: MakeUrl, tmp_path: Path
) -> None:
    url = make_url("killed")
    catalog = Catalog.create(url)
    notes = [tmp_path / f"notes-{number}" for number in range(2)]
    writers = [start_process(commit_and_note, (url, str(path))) for path in notes]
    deadline = time.monotonic() + 60
    while not all(path.exists() and path.stat().st_size >= 3 for path in notes):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    server.kill()
    for writer in writers:
        writer.join(60)
        assert writer.exitcode not in (None, 0)
    with pytest.raises(CatalogError, match="cannot open the catalog at postgres://lode@127"):
        Catalog.open(url).version()
    server.run("start")
    acknowledged = sum(path.stat().st_size for path in notes)
    committed = fetch(catalog, "select count(*) from counters where counter = 'x'")[0][0]
    # A commit may have landed whose answer was lost with the server: at most one a writer.
    assert acknowledged <= committed <= acknowledged + len(notes)
    commit_often(url, "after", 2)
    assert check_catalog(catalog) == []
