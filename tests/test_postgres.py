"""A team's catalog: metadata in a real PostgreSQL, with many writers, and when it goes away."""

import time
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
from tests.postgres_server import MakeUrl, PostgresServer, has_postgres
from tests.processes import run_in_processes, start_process
from tests.test_lake import commit_often, counted
from tests.tiny_catalog import fetch

ALONE = ExecutorSettings(workers=1)


pytestmark = [
    pytest.mark.slow,
    pytest.mark.postgres,
    pytest.mark.skipif(not has_postgres(), reason="PostgreSQL's initdb is not installed"),
]


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
    postgres: PostgresServer, make_url: MakeUrl, tmp_path: Path
) -> None:
    url = make_url("killed")
    catalog = Catalog.create(url)
    notes = [tmp_path / f"notes-{number}" for number in range(2)]
    writers = [start_process(commit_and_note, (url, str(path))) for path in notes]
    deadline = time.monotonic() + 60
    while not all(path.exists() and path.stat().st_size >= 3 for path in notes):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    postgres.kill()
    for writer in writers:
        writer.join(60)
        assert writer.exitcode not in (None, 0)
    with pytest.raises(CatalogError, match="cannot open the catalog at postgres://lode@127"):
        Catalog.open(url).version()
    postgres.run("start")
    acknowledged = sum(path.stat().st_size for path in notes)
    committed = fetch(catalog, "select count(*) from counters where counter = 'x'")[0][0]
    # A commit may have landed whose answer was lost with the server: at most one a writer.
    assert acknowledged <= committed <= acknowledged + len(notes)
    commit_often(url, "after", 2)
    assert check_catalog(catalog) == []
