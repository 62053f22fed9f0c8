"""Catalogs that many tests begin with; each test that writes gets a copy of its own."""

from pathlib import Path

import pytest

from catalog.lake import Catalog
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
