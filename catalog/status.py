"""What is in a catalog, and which jobs are running or can be resumed: from metadata, not scans."""

import json
from dataclasses import dataclass
from pathlib import Path

from catalog import duck
from catalog.jobs import is_registered, is_running
from catalog.lake import LAKE, Catalog, current_version
from catalog.policy_store import active_policy
from catalog.snapshots import Snapshot, list_snapshots


@dataclass(frozen=True)
class TableSize:
    """A table of the lake as its metadata describe it."""

    name: str
    rows: int
    files: int
    bytes: int


@dataclass(frozen=True)
class JobState:
    """A job that has a folder: running, unfinished (the same command resumes it) or committed."""

    job_id: str
    kind: str
    state: str
    tasks_done: int
    tasks: int | None


@dataclass(frozen=True)
class Status:
    """A catalog at a glance."""

    url: str
    lake_version: int
    files: int
    quarantined: int
    tables: list[TableSize]
    policy: str | None
    snapshots: list[Snapshot]
    jobs: list[JobState]


def read_status(catalog: Catalog) -> Status:
    """Look a catalog over."""
    with catalog.reader() as connection:
        active = active_policy(connection)
        row = connection.execute(
            "select count(*), coalesce(sum(quarantined), 0)::bigint from files"
        ).fetchone()
        assert row is not None
        return Status(
            url=catalog.location.url,
            lake_version=current_version(connection),
            files=row[0],
            quarantined=row[1],
            tables=_tables(connection),
            policy=f"{active[0].name} version {active[1]}" if active else None,
            snapshots=list_snapshots(connection),
            jobs=_jobs(catalog, connection),
        )


def render_status(status: Status) -> str:
    """Write a status as text."""
    lines = [
        f"catalog {status.url}, lake version {status.lake_version}",
        f"{status.files:,} source files, {status.quarantined:,} rows in quarantine, "
        f"policy {status.policy or 'none yet'}",
        "",
        f"{'table':<18}{'rows':>14}{'files':>8}{'MB':>10}",
    ]
    for table in status.tables:
        size = f"{table.bytes / 1e6:,.1f}"
        lines.append(f"{table.name:<18}{table.rows:>14,}{table.files:>8,}{size:>10}")
    lines += ["", "snapshots" if status.snapshots else "no snapshot yet"]
    lines += [
        f"  {one.name:<16}{one.kept:>14,} of {one.pairs:,} pairs  {one.digest}"
        for one in status.snapshots
    ]
    lines += ["", "jobs" if status.jobs else "no job has left a folder"]
    for job in status.jobs:
        tasks = f"{job.tasks_done} of {job.tasks if job.tasks is not None else '?'} tasks done"
        hint = "; run the same command again to go on" if job.state == "unfinished" else ""
        lines.append(
            f"  {job.job_id:<32}{job.state:<12}{tasks if job.state != 'committed' else ''}{hint}"
        )
    return "\n".join(lines)


def _tables(connection: duck.Connection) -> list[TableSize]:
    rows = connection.execute(
        f"""
        select t.table_name, coalesce(sum(f.record_count), 0)::bigint, count(f.data_file_id),
          coalesce(sum(f.file_size_bytes), 0)::bigint
        from __ducklake_metadata_{LAKE}.ducklake_table t
        left join __ducklake_metadata_{LAKE}.ducklake_data_file f
          on f.table_id = t.table_id and f.end_snapshot is null
        where t.end_snapshot is null
        group by t.table_name having count(f.data_file_id) > 0 order by 4 desc, 1
        """
    ).fetchall()
    return [TableSize(*row) for row in rows]


def _jobs(catalog: Catalog, connection: duck.Connection) -> list[JobState]:
    if not catalog.jobs_folder.exists():
        return []
    folders = sorted(path for path in catalog.jobs_folder.iterdir() if (path / "job.json").exists())
    return [_job(folder, connection) for folder in folders]


def _job(folder: Path, connection: duck.Connection) -> JobState:
    kind = json.loads((folder / "job.json").read_text())["kind"]
    if is_running(folder):
        state = "running"
    else:
        state = "committed" if is_registered(connection, folder.name) else "unfinished"
    plan = folder / "plan.json"
    tasks = json.loads(plan.read_text()).get("tasks") if plan.exists() else None
    return JobState(
        job_id=folder.name,
        kind=kind,
        state=state,
        tasks_done=len(list((folder / "manifests").glob("*.json"))),
        tasks=len(tasks) if isinstance(tasks, list) else None,
    )
