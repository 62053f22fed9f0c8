"""Catalogs that many tests begin with; each test that writes gets a copy of its own."""

import os
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from catalog.lake import Catalog
from tests.postgres_server import MakeUrl, PostgresServer
from tests.s3_server import S3Server
from tests.tiny_catalog import copy_catalog, make_corpus


@pytest.fixture(scope="session")
def empty_catalog(tmp_path_factory: pytest.TempPathFactory) -> Catalog:
    """An empty catalog, not to be changed."""
    return Catalog.create(str(tmp_path_factory.mktemp("empty") / "corpus"))


@pytest.fixture
def catalog(tmp_path: Path, empty_catalog: Catalog) -> Catalog:
    """An empty catalog of the test's own."""
    return copy_catalog(empty_catalog, tmp_path / "empty")


@pytest.fixture(scope="session")
def tiny_corpus(tmp_path_factory: pytest.TempPathFactory, empty_catalog: Catalog) -> Catalog:
    """The corpus of ``tiny_catalog``, not to be changed."""
    made = copy_catalog(empty_catalog, tmp_path_factory.mktemp("tiny") / "corpus")
    make_corpus(made)
    return made


@pytest.fixture
def corpus(tmp_path: Path, tiny_corpus: Catalog) -> Catalog:
    """A copy of the tiny corpus for the test to change."""
    return copy_catalog(tiny_corpus, tmp_path / "corpus")


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """A PostgreSQL server; tests that use it carry the marker and skip where there is none."""
    # Short, as a socket's path may have 107 characters; readable by the server's own user.
    folder = Path("/tmp") / f"lode-pg-{os.getpid()}"
    made = PostgresServer(folder)
    made.run("start")
    yield made
    made.run("stop")
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def make_url(postgres: PostgresServer, tmp_path: Path) -> MakeUrl:
    """Make a database, and the URL of a catalog in it whose data are here or where it is said."""

    def make(name: str, data: str | None = None) -> str:
        postgres.create_database(name)
        place = f"data={data or tmp_path / name / 'data'}&work={tmp_path / name / 'work'}"
        return f"postgres://lode@127.0.0.1:{postgres.port}/{name}?{place}"

    return make


@pytest.fixture(scope="session")
def s3_server() -> Iterator[S3Server]:
    """An S3 server; tests that use it carry the marker and skip where there is none."""
    made = S3Server()
    yield made
    made.stop()


@pytest.fixture
def s3(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> str:
    """An empty bucket on a server that answers, known to this process: ``s3://bucket``."""
    for name, value in s3_server.environment.items():
        monkeypatch.setenv(name, value)
    s3_server.answer()
    return s3_server.make_bucket()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put files with slow tests first: two workers that take files end at about one time then."""
    slow = Counter(item.path for item in items if item.get_closest_marker("slow"))
    items.sort(key=lambda item: not slow[item.path])
