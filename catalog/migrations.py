"""Numbered changes of the catalog's own tables, and the refusal of a catalog from the future."""

from collections.abc import Callable
from typing import Final

from catalog import duck
from catalog.errors import CatalogTooNewError
from catalog.schema import SCHEMA_VERSION, TABLES, create_table_sql
from catalog.views import refresh_views


def _add_tables(*names: str) -> Callable[[duck.Connection], None]:
    def add(connection: duck.Connection) -> None:
        for name in names:
            connection.execute(create_table_sql(name, TABLES[name]))

    return add


def _add_judgments(connection: duck.Connection) -> None:
    """Add what tells of synthetic pairs: the table of judgments and the view round_trips."""
    _add_tables("judgments")(connection)
    refresh_views(connection)


def _add_instructions(connection: duck.Connection) -> None:
    """Add the rows' own instructions; views name their columns, so they are made again."""
    connection.execute("alter table pairs add column if not exists instruction varchar")
    refresh_views(connection)


# MIGRATIONS[n] brings a catalog from version n to version n + 1.
MIGRATIONS: Final[dict[int, Callable[[duck.Connection], None]]] = {
    1: _add_tables("candidates"),
    2: _add_tables("train_events", "metrics", "evaluations"),
    3: _add_tables("contamination", "contamination_files"),
    4: _add_tables("synthesis_requests"),
    5: _add_judgments,
    6: _add_instructions,
}


def version_of(connection: duck.Connection) -> int:
    """Return the schema version that a catalog was last brought to."""
    row = connection.execute(
        "select value from counters where counter = 'schema_version'"
    ).fetchone()
    assert row is not None
    return int(row[0])


def is_outdated(found: int) -> bool:
    """Say whether a catalog needs migrating; raise where it is newer than this Lode."""
    if found > SCHEMA_VERSION:
        raise CatalogTooNewError(
            f"this catalog has schema version {found}; this Lode knows versions up to "
            f"{SCHEMA_VERSION}. Install a newer Lode: nothing was changed"
        )
    return found < SCHEMA_VERSION


def migrate(connection: duck.Connection) -> None:
    """Apply every missing migration in order."""
    for version in range(version_of(connection), SCHEMA_VERSION):
        MIGRATIONS[version](connection)
    record_current(connection)


def record_current(connection: duck.Connection) -> None:
    """Record that the catalog has this Lode's schema."""
    connection.execute(
        "update counters set value = ? where counter = 'schema_version'", [SCHEMA_VERSION]
    )
