"""Keeping a catalog clean: orphans of killed jobs, old versions, and a check of every promise."""

import posixpath
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from catalog import duck
from catalog.jobs import is_registered, is_running
from catalog.lake import LAKE, Catalog, table_names
from catalog.storage import Storage, StoredFile, open_storage

# An unfinished job may be resumed: its files are left alone for this long.
KEEP_UNFINISHED_S = 7 * 24 * 3600
# No query runs for longer: what it spilled was left by a process that was killed.
DAY_S = 24 * 3600


@dataclass
class Cleaned:
    """What a clean-up removed, or would remove."""

    files: list[StoredFile] = field(default_factory=list)
    jobs: list[Path] = field(default_factory=list)
    bytes: int = 0


def collect_garbage(
    catalog: Catalog, *, older_than_s: float = KEEP_UNFINISHED_S, dry_run: bool = False
) -> Cleaned:
    """Remove data files that no version of the lake names, and folders of jobs that are over.

    Files of a running job, and of an unfinished one younger than ``older_than_s``, stay.
    """
    cleaned = Cleaned()
    limit = time.time() - older_than_s
    # In this order no commit slips through: a file that is registered after the files were listed
    # belongs to a job that was alive then, or is found registered at last.
    storage = open_storage(catalog.location.data)
    stored = storage.files()
    with catalog.reader() as connection:
        alive = set()
        for folder in _folders(catalog.jobs_folder):
            committed = is_registered(connection, folder.name)
            if is_running(folder) or (not committed and _newest_change(folder) > limit):
                alive.add(folder.name)
            else:
                cleaned.jobs.append(folder)
        registered = _registered_paths(catalog, connection)
    for file in stored:
        is_needed = file.upload is None and file.path in registered
        if is_needed or _job_of(file.path) in alive:
            continue
        if file.modified > limit and not _is_known_job(file.path, cleaned.jobs):
            continue
        cleaned.files.append(file)
        cleaned.bytes += file.bytes
    spilled = [f for f in _folders(catalog.spill_folder) if _newest_change(f) < time.time() - DAY_S]
    if not dry_run:
        for file in cleaned.files:
            storage.delete(file)
        for folder in [*cleaned.jobs, *spilled]:
            shutil.rmtree(folder, ignore_errors=True)
    return cleaned


def expire_versions(catalog: Catalog, *, older_than_s: float, compact: bool = True) -> list[int]:
    """Merge small files and forget lake versions that no snapshot names; return those forgotten."""

    def change(connection: duck.Connection) -> list[int]:
        named = connection.execute("select lake_version from snapshots").fetchall()
        rows = connection.execute(
            f"select snapshot_id from ducklake_snapshots('{LAKE}') "
            f"where snapshot_time < now() - to_seconds({int(older_than_s)}) "
            f"and snapshot_id < (select max(snapshot_id) from ducklake_snapshots('{LAKE}'))"
        ).fetchall()
        # By explicit versions only: an age would also take those that snapshots name.
        expired = sorted({v for (v,) in rows} - {v for (v,) in named})
        if expired:
            versions = ", ".join(str(version) for version in expired)
            connection.execute(
                f"call ducklake_expire_snapshots('{LAKE}', versions => [{versions}])"
            )
        return expired

    if compact:
        catalog.transact(
            lambda connection: connection.execute(
                f"call ducklake_merge_adjacent_files('{LAKE}')"
            ).fetchall()
        )
    expired = catalog.transact(change)
    catalog.transact(
        lambda connection: connection.execute(
            f"call ducklake_cleanup_old_files('{LAKE}', cleanup_all => true)"
        ).fetchall()
    )
    return expired


def check_catalog(
    catalog: Catalog, *, checksums: bool = True, progress: Callable[[str, int], None] | None = None
) -> list[str]:
    """Verify what DuckLake does not: unique ids, files present and whole, side tables in step."""
    # One version for all queries: a job that commits meanwhile is no problem.
    with catalog.reader(version=catalog.version()) as connection:
        problems = _damaged_files(catalog, connection, checksums, progress)
        if problems:  # a query over a damaged file ends in DuckDB's error, not in a finding
            return problems
        for table in sorted(table_names(connection)):
            problems += _duplicate_ids(connection, table)
        problems += _row_counts(connection)
        problems += _strangers(connection)
    return problems


def _damaged_files(
    catalog: Catalog,
    connection: duck.Connection,
    checksums: bool,
    progress: Callable[[str, int], None] | None,
) -> list[str]:
    """Compare every file that a version of the lake uses with what was registered."""
    rows = connection.execute("select path, bytes, xxh3 from task_files order by path").fetchall()
    live = _registered_paths(catalog, connection)
    storage = open_storage(catalog.location.data)
    problems: list[str] = []
    for done, (path, size, digest) in enumerate(rows, start=1):
        if path in live:
            problems += _file_problems(storage, path, size, digest if checksums else None)
        if progress is not None:
            progress("check", done)
    return problems


def _duplicate_ids(connection: duck.Connection, table: str) -> Iterator[str]:
    keys = {
        "pairs": "pair_id", "text_ids": "pair_id", "band_keys": "pair_id",
        "files": "file_id", "runs": "run_id", "snapshots": "snapshot",
        "duplicates": "pair_id, kind", "scores": "pair_id, model, revision",
        "duplicate_edges": "kind, a_id, b_id", "file_numbers": "file_id",
    }  # fmt: skip
    key = keys.get(table, "pair_id" if table.startswith("signals_") else None)
    if key is None:
        return
    row = connection.execute(
        f"select count(*) - count(distinct ({key})) from {duck.identifier(table)}"
    ).fetchone()
    if row and row[0]:
        yield f"table {table}: {row[0]:,} rows repeat their key ({key})"


def _row_counts(connection: duck.Connection) -> Iterator[str]:
    rows = connection.execute(
        "select f.file_id, f.path, f.rows, count(p.pair_id) from files f "
        "left join pairs p on p.pair_id >> 32 = f.file_id group by all "
        "having f.rows <> count(p.pair_id) order by f.file_id"
    ).fetchall()
    for file_id, path, expected, found in rows:
        yield f"file {file_id} ({path}): {expected:,} pairs were read, the lake holds {found:,}"


def _strangers(connection: duck.Connection) -> Iterator[str]:
    side_tables = sorted(
        name
        for name in table_names(connection)
        if name.startswith("signals_") or name in ("band_keys", "text_ids", "duplicates")
    )
    for table in side_tables:
        row = connection.execute(
            f"select count(*) from {duck.identifier(table)} anti join pairs using (pair_id)"
        ).fetchone()
        if row and row[0]:
            yield f"table {table}: {row[0]:,} rows belong to no pair"


def _file_problems(storage: Storage, path: str, size: int, digest: str | None) -> Iterator[str]:
    found, place = storage.find(path), storage.place(path)
    if found is None:
        yield f"{place} is missing"
    elif found.bytes != size:
        yield f"{place} has {found.bytes:,} bytes; {size:,} were registered"
    elif digest is not None and storage.checksum(path) != digest:
        yield f"{place} has changed since it was registered (checksum differs)"


def _registered_paths(catalog: Catalog, connection: duck.Connection) -> set[str]:
    """Name every file of the data that any version of the lake still uses."""
    data = catalog.location.data.rstrip("/") + "/"
    rows = connection.execute(
        f"""
        select f.path, f.path_is_relative, t.path, t.path_is_relative, s.path
        from __ducklake_metadata_{LAKE}.ducklake_data_file f
        join __ducklake_metadata_{LAKE}.ducklake_table t using (table_id)
        join __ducklake_metadata_{LAKE}.ducklake_schema s using (schema_id)
        union all
        select f.path, f.path_is_relative, t.path, t.path_is_relative, s.path
        from __ducklake_metadata_{LAKE}.ducklake_delete_file f
        join __ducklake_metadata_{LAKE}.ducklake_table t using (table_id)
        join __ducklake_metadata_{LAKE}.ducklake_schema s using (schema_id)
        """
    ).fetchall()
    return {
        posixpath.join(schema, table, path) if relative else path.removeprefix(data)
        for path, relative, table, _table_relative, schema in rows
    }


def _folders(parent: Path) -> list[Path]:
    if not parent.exists():
        return []
    return sorted(path for path in parent.iterdir() if path.is_dir())


def _job_of(path: str) -> str:
    """Read the job's name out of ``…/signals-0123456789ab-stage-00000-000.parquet``."""
    name = posixpath.basename(path)
    parts = name.lstrip(".").split("-")
    for position, part in enumerate(parts):
        if len(part) == 12 and all(c in "0123456789abcdef" for c in part):
            return "-".join(parts[: position + 1])
    return name


def _is_known_job(path: str, jobs: list[Path]) -> bool:
    return any(_job_of(path) == job.name for job in jobs)


def _newest_change(folder: Path) -> float:
    return max((p.stat().st_mtime for p in folder.rglob("*") if p.is_file()), default=0.0)
