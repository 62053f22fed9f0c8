"""Snapshots outlive compaction and expiry; a catalog from the future is refused."""

from pathlib import Path

import pytest

from catalog.errors import CatalogTooNewError
from catalog.files import delete_file_rows
from catalog.lake import Catalog
from catalog.maintenance import check_catalog, expire_versions
from catalog.schema import SCHEMA_VERSION
from catalog.snapshots import load_snapshot, snapshot_reader

ROWS = "select pair_id, positive from curated order by pair_id"


def rows_at(catalog: Catalog, name: str) -> list[tuple[int, str]]:
    with snapshot_reader(catalog, load_snapshot(catalog, name)) as connection:
        return connection.execute(ROWS).fetchall()


def test_a_snapshot_outlives_deletion_compaction_and_expiry(corpus: Catalog) -> None:
    before = rows_at(corpus, "v1")
    corpus.transact(lambda connection: delete_file_rows(connection, 1))
    for _ in range(3):
        corpus.transact(lambda c: c.execute("update counters set value = value + 1"))
    corpus.transact(
        lambda c: c.execute(
            "update counters set value = value - 3 where counter = 'schema_version'"
        )
    )
    forgotten = expire_versions(corpus, older_than_s=0)
    assert forgotten
    assert load_snapshot(corpus, "v1").lake_version not in forgotten
    assert rows_at(corpus, "v1") == before
    with corpus.reader() as connection:
        assert connection.execute(
            "select count(*) from pairs where pair_id >> 32 = 1"
        ).fetchall() == [(0,)]
    assert check_catalog(corpus) == []


def test_a_catalog_that_was_moved_is_as_it_was(corpus: Catalog, tmp_path: Path) -> None:
    before = rows_at(corpus, "v1")
    moved = tmp_path / "elsewhere" / "name with ' quote"
    moved.parent.mkdir()
    corpus.location.work.rename(moved)
    assert rows_at(Catalog.open(str(moved)), "v1") == before


def test_a_newer_catalog_is_refused_and_left_alone(corpus: Catalog) -> None:
    newer = SCHEMA_VERSION + 1
    corpus.transact(
        lambda c: c.execute(
            "update counters set value = ? where counter = 'schema_version'", [newer]
        )
    )
    before = corpus.version()
    with pytest.raises(CatalogTooNewError, match=f"schema version {newer}"):
        Catalog.open(corpus.location.url)
    assert corpus.version() == before
