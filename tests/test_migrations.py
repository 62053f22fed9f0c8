import pytest

from catalog import duck, migrations
from catalog.errors import CatalogTooNewError
from catalog.lake import Catalog
from catalog.schema import SCHEMA_VERSION
from tests.tiny_catalog import fetch

VERSION_SQL = "select value from counters where counter = 'schema_version'"


def set_version(catalog: Catalog, version: int) -> None:
    catalog.transact(
        lambda c: c.execute(
            f"update counters set value = {version} where counter = 'schema_version'"
        )
    )


def test_a_new_catalog_has_this_versions_schema(empty_catalog: Catalog) -> None:
    assert fetch(empty_catalog, VERSION_SQL) == [(SCHEMA_VERSION,)]


def test_every_older_version_can_be_migrated() -> None:
    assert all(version in migrations.MIGRATIONS for version in range(1, SCHEMA_VERSION))


def test_a_newer_catalog_is_refused_and_not_touched(catalog: Catalog) -> None:
    set_version(catalog, SCHEMA_VERSION + 1)
    version = catalog.version()
    for attempt in (Catalog.open, Catalog.create):
        with pytest.raises(CatalogTooNewError, match="Install a newer Lode: nothing was changed"):
            attempt(catalog.location.url)
    assert catalog.version() == version
    assert fetch(catalog, VERSION_SQL) == [(SCHEMA_VERSION + 1,)]


def test_a_catalog_of_version_1_gets_the_tables_that_came_later(catalog: Catalog) -> None:
    later = (
        "candidates", "train_events", "metrics", "evaluations", "contamination",
        "contamination_files", "synthesis_requests", "judgments",
    )  # fmt: skip
    for table in later:
        catalog.transact(lambda c, table=table: c.execute(f"drop table {table}"))
    set_version(catalog, 1)
    Catalog.open(catalog.location.url)
    for table in later:
        assert fetch(catalog, f"select count(*) from {table}") == [(0,)]
    assert fetch(catalog, VERSION_SQL) == [(SCHEMA_VERSION,)]


def test_an_older_catalog_is_brought_up_to_date_once(
    catalog: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[int] = []

    def migration(number: int) -> None:
        def apply(connection: duck.Connection) -> None:
            steps.append(number)
            connection.execute(
                f"alter table sources add column new_{SCHEMA_VERSION - number} integer"
            )

        monkeypatch.setitem(migrations.MIGRATIONS, number, apply)

    for number in (SCHEMA_VERSION - 2, SCHEMA_VERSION - 1):
        migration(number)
    set_version(catalog, SCHEMA_VERSION - 2)
    for _ in range(2):
        Catalog.open(catalog.location.url)
    assert steps == [SCHEMA_VERSION - 2, SCHEMA_VERSION - 1]
    assert fetch(catalog, VERSION_SQL) == [(SCHEMA_VERSION,)]
    columns = [name for (name, *_) in fetch(catalog, "describe sources")]
    assert columns[-2:] == ["new_2", "new_1"]


def test_a_migration_that_fails_changes_nothing(
    catalog: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(connection: duck.Connection) -> None:
        connection.execute("alter table sources add column half integer")
        raise RuntimeError("in the middle")

    monkeypatch.setitem(migrations.MIGRATIONS, SCHEMA_VERSION - 1, fail)
    set_version(catalog, SCHEMA_VERSION - 1)
    with pytest.raises(RuntimeError, match="in the middle"):
        Catalog.open(catalog.location.url)
    assert fetch(catalog, VERSION_SQL) == [(SCHEMA_VERSION - 1,)]
    assert "half" not in [name for (name, *_) in fetch(catalog, "describe sources")]
