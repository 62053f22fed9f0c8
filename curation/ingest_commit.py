"""The commit of an ingest: pairs, quarantine, files and sources become visible together."""

import os
from collections.abc import Mapping, Sequence
from typing import Any, Final

from catalog import duck
from catalog.errors import CatalogError
from catalog.files import delete_file_rows
from catalog.jobs import Job, Manifest
from catalog.location import S3
from catalog.records import to_json
from curation.fresh_files import FreshFile

# A task notes under this prefix how many rows of each source it wrote.
SOURCE_NOTE: Final = "source:"


def commit_files(
    job: Job, tasks: Sequence[Mapping[str, Any]], fresh: Sequence[FreshFile]
) -> list[Manifest]:
    """Commit what a job's tasks read, in the place of the files that are replaced."""
    replaced = [file_id for file in fresh for file_id in file.replaced]
    manifests = job.manifests()

    def change(connection: duck.Connection) -> None:
        for file_id in replaced:
            delete_file_rows(connection, file_id)
        _refuse_rivals(connection, fresh)
        of_task = {manifest.task: manifest.notes for manifest in manifests}
        for task, notes in sorted(of_task.items()):
            _insert_file(connection, tasks[task], notes, fresh)
        for name, files in _files_of_sources(tasks, of_task, fresh).items():
            _put_source(connection, name, files)

    return job.commit(change)


def _refuse_rivals(connection: duck.Connection, fresh: Sequence[FreshFile]) -> None:
    """Refuse files that another job has committed while this one was reading them."""
    rivals = connection.execute(
        "select path from files where list_contains(?, path) or list_contains(?, sha256) "
        "order by path",
        [[file.path for file in fresh], [file.sha256 for file in fresh]],
    ).fetchall()
    if rivals:
        raise CatalogError(
            f"{rivals[0][0]} was ingested by another run in the meantime; run the same command "
            "again: it reads what is still missing"
        )


def _insert_file(
    connection: duck.Connection,
    task: Mapping[str, Any],
    notes: Mapping[str, int],
    fresh: Sequence[FreshFile],
) -> None:
    layout = next(file.layout for file in fresh if file.path == task["path"])
    connection.execute(
        "insert into files (file_id, source, path, size, sha256, rows, quarantined) "
        "values (?, ?, ?, ?, ?, ?, ?)",
        [
            task["file_id"], layout.source, task["path"], task["bytes"], task["sha256"],
            notes["rows"], notes["quarantined"],
        ],
    )  # fmt: skip


def _files_of_sources(
    tasks: Sequence[Mapping[str, Any]],
    notes: Mapping[int, Mapping[str, int]],
    fresh: Sequence[FreshFile],
) -> dict[str, list[FreshFile]]:
    """Name the sources that rows were found of, each with the files that hold them."""
    by_path = {file.path: file for file in fresh}
    found: dict[str, list[FreshFile]] = {}
    for task, noted in sorted(notes.items()):
        for name in noted:
            if name.startswith(SOURCE_NOTE):
                file = by_path[tasks[task]["path"]]
                found.setdefault(name.removeprefix(SOURCE_NOTE), []).append(file)
    return found


def _common_place(paths: Sequence[str]) -> str | None:
    """Return the folder that files share; None where some are on S3 and some are not."""
    keys = [path.removeprefix(S3) for path in paths if path.startswith(S3)]
    if not keys:
        return os.path.commonpath(paths)
    return S3 + os.path.commonpath(keys) if len(keys) == len(paths) else None


def _put_source(connection: duck.Connection, name: str, files: Sequence[FreshFile]) -> None:
    """Record how a source is read now; what its files were read with before is in ``runs``."""
    layout = files[0].layout
    settings = layout.settings
    connection.execute("delete from sources where source = ?", [name])
    connection.execute(
        "insert into sources (source, form, task, language, license, path, fields) "
        "values (?, ?, ?, ?, ?, ?, ?)",
        [
            name,
            None if layout.fields.of("form") else layout.form,
            None if layout.fields.of("task") else layout.task,
            settings.language or None,
            settings.license or None,
            _common_place([file.path for file in files]),
            to_json(layout.fields.as_document()),
        ],
    )
