"""The catalog: opening it, reading it, and the one way to change it."""

import contextlib
import fcntl
import os
import shutil
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from catalog import duck, migrations, s3, views
from catalog.errors import CatalogError, CatalogMissingError
from catalog.location import Location, resolve
from catalog.records import writing
from catalog.schema import TABLES, create_table_sql

T = TypeVar("T")
LAKE = "lake"


@dataclass(frozen=True)
class Catalog:
    """A DuckLake with Lode's tables. Cheap to make, safe to hand to another process."""

    location: Location

    @classmethod
    def create(cls, url: str | None = None) -> "Catalog":
        """Make an empty catalog; an existing one is left as it is and opened."""
        catalog = cls(resolve(url))
        with writing(catalog.location.url):
            catalog.location.work.mkdir(parents=True, exist_ok=True)
            if not catalog.location.is_on_s3:
                Path(catalog.location.data).mkdir(parents=True, exist_ok=True)
        if catalog.location.is_on_s3:
            s3.Bucket.of(catalog.location.data).require()
        catalog._transact(_create_tables, is_new=True)
        return cls.open(url)

    @classmethod
    def open(cls, url: str | None = None) -> "Catalog":
        """Open an existing catalog, bringing an older one up to date."""
        catalog = cls(resolve(url))
        location = catalog.location
        if location.is_local and not location.sqlite_path.exists():
            raise CatalogMissingError(
                f"there is no catalog at {location.url}; make one with: lode init {location.url}"
            )
        with catalog.reader() as connection:
            if not _has_table(connection, "counters"):
                raise CatalogMissingError(
                    f"{location.url} holds a lake without Lode's tables; "
                    f"run: lode init {location.url}"
                )
            _check_data(connection, location)
            found = migrations.version_of(connection)
            outdated = migrations.is_outdated(found)
        if outdated:
            catalog.transact(migrations.migrate)
        return catalog

    @property
    def jobs_folder(self) -> Path:
        """Plans, logs and manifests of jobs; deleted by ``lode gc`` when they are done."""
        return self.location.work / "jobs"

    @property
    def spill_folder(self) -> Path:
        """What does not fit into memory, a folder for each connection that is open."""
        return self.location.work / "tmp"

    def attach_sql(
        self, name: str = LAKE, *, read_only: bool = True, version: int | None = None
    ) -> str:
        """Write the ATTACH statement that opens this catalog in any DuckDB."""
        options = [f"data_path {duck.quote(self.location.data)}", "override_data_path true"]
        if read_only:
            options.append("read_only")
        if version is not None:
            options.append(f"snapshot_version {int(version)}")
        if self.location.is_local:
            options += ["meta_journal_mode 'WAL'", "meta_busy_timeout 30000"]
        target = duck.quote("ducklake:" + self.location.metadata)
        return f"attach {target} as {duck.identifier(name)} ({', '.join(options)})"

    @property
    def extensions(self) -> list[str]:
        """The extensions of DuckDB that this catalog's URL needs."""
        metadata = "sqlite_scanner" if self.location.is_local else "postgres_scanner"
        remote = ["httpfs"] if self.location.is_on_s3 else []
        return ["ducklake", metadata, *remote]

    @contextlib.contextmanager
    def reader(self, version: int | None = None) -> Iterator[duck.Connection]:
        """Open the lake read-only, now or as it was at a version; plain names are the lake's."""
        with self._attached(read_only=True, version=version) as connection:
            yield connection

    def transact(self, change: Callable[[duck.Connection], T]) -> T:
        """Run ``change`` in one transaction, again after a conflict; what it returns is returned.

        ``change`` may run several times, so it must have no effect outside its connection.
        """
        return self._transact(change)

    def _transact(self, change: Callable[[duck.Connection], T], *, is_new: bool = False) -> T:
        def attempt() -> T:
            if is_new:  # attaching makes the lake: not two processes at once
                with self._commit_lock(), self._attached() as connection:
                    return _transaction(connection, change)
            with self._attached() as connection, self._commit_lock():
                return _transaction(connection, change)

        try:
            return duck.retry(attempt)
        except duck.Error as error:
            if not duck.is_hopeless(error):
                if not duck.is_unreachable(error):
                    raise
                raise CatalogError(
                    f"cannot write to {self.location.url}: {_last_line(error)}; nothing is half "
                    "done: run the same command again when the server answers"
                ) from error
            raise CatalogError(
                f"cannot write to {self.location.url}: {_last_line(error)}; nothing was changed"
            ) from error

    def version(self) -> int:
        """Return the newest version of the lake."""
        with self.reader() as connection:
            return current_version(connection)

    @contextlib.contextmanager
    def _attached(
        self, *, read_only: bool = False, version: int | None = None
    ) -> Iterator[duck.Connection]:
        connection = duck.connect(extensions=self.extensions)
        # Two processes, or two connections, that spill into one folder crash each other.
        spill = self.spill_folder / f"{os.getpid()}-{uuid.uuid4().hex[:12]}"
        with contextlib.suppress(OSError):  # a reader of a read-only folder may never spill
            self.spill_folder.mkdir(parents=True, exist_ok=True)  # DuckDB makes the last one only
        try:
            if self.location.is_on_s3:
                s3.sign_in(connection)
            connection.execute(f"set temp_directory = {duck.quote(str(spill))}")
            attach = self.attach_sql(read_only=read_only, version=version)
            try:
                duck.retry(lambda: connection.execute(attach))
            except duck.Error as error:
                raise CatalogError(
                    f"cannot open the catalog at {self.location.url}: {_last_line(error)}"
                ) from error
            connection.execute(f"use {LAKE}")
            if not self.location.is_local and not read_only:
                connection.execute("set ducklake_max_retry_count = 100")
            yield connection
        finally:
            connection.close()
            shutil.rmtree(spill, ignore_errors=True)

    @contextlib.contextmanager
    def _commit_lock(self) -> Iterator[None]:
        """Serialise commits of a local catalog: SQLite has one writer, and waiting is cheaper."""
        if not self.location.is_local:
            yield
            return
        with writing(self.location.url):
            descriptor = os.open(self.location.work / "catalog.lock", os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)


def current_version(connection: duck.Connection) -> int:
    """Return the lake version that a connection sees."""
    row = connection.execute(f"select id from ducklake_current_snapshot('{LAKE}')").fetchone()
    assert row is not None
    return int(row[0])


def scalar(connection: duck.Connection, sql: str, values: list[object] | None = None) -> object:
    """Return the first column of the first row, or None where there is no row."""
    row = connection.execute(sql, values or []).fetchone()
    return row[0] if row else None


def table_names(connection: duck.Connection) -> set[str]:
    """Name the lake's tables."""
    rows = connection.execute(
        "select table_name from duckdb_tables() where database_name = ?", [LAKE]
    ).fetchall()
    return {name for (name,) in rows}


def _transaction(connection: duck.Connection, change: Callable[[duck.Connection], T]) -> T:
    connection.execute("begin")
    try:
        result = change(connection)
        connection.execute("commit")
    except BaseException:
        with contextlib.suppress(duck.Error):
            connection.execute("rollback")
        raise
    return result


def _check_data(connection: duck.Connection, location: Location) -> None:
    """Refuse to look for files where they are not: a moved folder is seen by all, a bucket not."""
    row = connection.execute(
        f"select value from __ducklake_metadata_{LAKE}.ducklake_metadata where key = 'data_path'"
    ).fetchone()
    made = row[0].rstrip("/") if row else location.data
    if made != location.data and (made.startswith("s3://") or location.is_on_s3):
        raise CatalogError(
            f"the data of {location.url} is at {made}, not at {location.data}; "
            f"name the catalog with data={made}"
        )


def _has_table(connection: duck.Connection, name: str) -> bool:
    return name in table_names(connection)


def _last_line(error: duck.Error) -> str:
    # DuckDB wraps what happened into what it was doing, the cause last; the statement follows.
    return str(error).split("\n\nLINE ")[0].strip().splitlines()[-1]


def _create_tables(connection: duck.Connection) -> None:
    if _has_table(connection, "counters"):
        return
    for name, schema in TABLES.items():
        connection.execute(create_table_sql(name, schema))
    connection.execute("insert into counters values ('schema_version', 0), ('file_id', 0)")
    migrations.record_current(connection)
    views.refresh_views(connection)
