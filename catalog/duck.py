"""The one door to DuckDB: extensions, connections, and which errors are worth a retry."""

import importlib.util
import logging
import os
import random
import time
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import TypeVar

import duckdb

log = logging.getLogger(__name__)

Connection = duckdb.DuckDBPyConnection
Error = duckdb.Error
T = TypeVar("T")

# Eight processes committing 50 times each needed at most 14 tries on SQLite without the file lock.
MAX_TRIES = 60
MAX_WAIT_S = 2.0
RETRIABLE = (
    "database is locked",
    "database table is locked",
    "Transaction conflict",
    "Failed to commit DuckLake transaction",
    "could not serialize access",
    "deadlock detected",
)
# What fails again in a moment; DuckLake wraps both kinds in one text.
HOPELESS = (
    "No space left",
    "Read-only file system",
    "readonly database",
    "Permission denied",
    "disk is full",
    "disk I/O error",
)
# A file that is not there is no server that is not there.
MISSING = ("No files found that match", "No such file or directory")


# Extension files whose signature this process has checked already: a check hashes 36 MB, 0.16 s.
_checked: set[Path] = set()


def connect(
    memory_limit: str | None = None, threads: int | None = None, extensions: Sequence[str] = ()
) -> Connection:
    """Open an in-memory DuckDB with these extensions; it loads nothing by itself."""
    files = {_wheel_file(name) for name in extensions}
    connection = duckdb.connect(
        config={
            # A missing extension must fail at once and by name, not try the network for minutes.
            "autoinstall_known_extensions": False,
            "autoload_known_extensions": False,
            "allow_unsigned_extensions": bool(files) and files <= _checked,
        }
    )
    connection.execute("set enable_progress_bar = false")
    connection.execute("set preserve_insertion_order = false")
    limit = memory_limit or os.environ.get("LODE_MEMORY_LIMIT", "2500MB")
    connection.execute(f"set memory_limit = '{limit}'")
    if threads or os.environ.get("LODE_THREADS"):
        connection.execute(f"set threads = {threads or int(os.environ['LODE_THREADS'])}")
    for name in extensions:
        load_extension(connection, name)
    _checked.update(path for path in files if path is not None)
    connection.execute("set allow_unsigned_extensions = false")
    return connection


def load_extension(connection: Connection, name: str) -> None:
    """Load an extension from its wheel, or from DuckDB's own store where there is one."""
    path = _wheel_file(name)
    if path is not None:
        connection.execute(f"load {quote(str(path))}")
        return
    try:
        connection.execute(f"load {name}")
    except duckdb.Error:
        log.info("DuckDB extension %s is not installed; trying the network", name)
        try:
            connection.execute(f"install {name}")
            connection.execute(f"load {name}")
        except duckdb.Error as error:
            wheel = "duckdb-extension-" + name.replace("_", "-")
            raise RuntimeError(
                f"DuckDB's extension {name!r} is missing and could not be fetched; "
                f"run: pip install {wheel}=={duckdb.__version__}"
            ) from error


@cache
def _wheel_file(name: str) -> Path | None:
    spec = importlib.util.find_spec(f"duckdb_extension_{name}")
    if spec is None or spec.submodule_search_locations is None:
        return None
    folder = Path(next(iter(spec.submodule_search_locations)))
    path = folder / "extensions" / f"v{duckdb.__version__}" / f"{name}.duckdb_extension"
    if not path.exists():
        found = sorted(p.name for p in (folder / "extensions").glob("v*"))
        raise RuntimeError(
            f"the wheel of DuckDB's extension {name!r} is for {', '.join(found) or 'no version'}, "
            f"but duckdb {duckdb.__version__} is installed; install the same version of both"
        )
    return path


def quote(value: str) -> str:
    """Write a string as an SQL literal, for places where DuckDB takes no bound value."""
    return "'" + value.replace("'", "''") + "'"


def identifier(name: str) -> str:
    """Write a name as an SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


def is_retriable(error: Exception) -> bool:
    """Say whether the same transaction may succeed when it is tried again."""
    return not is_hopeless(error) and any(sign in str(error) for sign in RETRIABLE)


def is_hopeless(error: Exception) -> bool:
    """Say whether the disk is full or read-only."""
    return any(sign in str(error) for sign in HOPELESS)


def is_unreachable(error: Exception) -> bool:
    """Say whether a server of the metadata or the data did not answer, or refused us."""
    kinds = duckdb.IOException | duckdb.HTTPException | duckdb.ConnectionException
    return isinstance(error, kinds) and not any(sign in str(error) for sign in MISSING)


def retry(attempt: Callable[[], T]) -> T:
    """Call ``attempt`` until it succeeds, waiting a little longer after each conflict."""
    for tries in range(1, MAX_TRIES + 1):
        try:
            return attempt()
        except duckdb.Error as error:
            if tries == MAX_TRIES or not is_retriable(error):
                raise
            # Jitter keeps processes that collided from colliding again; it changes no result.
            wait_s = min(MAX_WAIT_S, 0.01 * 1.5**tries) * (0.5 + random.random())
            log.debug("retry %d after %.2f s: %s", tries, wait_s, error)
            time.sleep(wait_s)
    raise AssertionError("unreachable")
