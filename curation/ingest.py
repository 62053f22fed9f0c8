"""Ingest: source files become rows of pairs and quarantine, all of them in one commit."""

import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pyarrow.compute as pc
from datatrove.pipeline.base import PipelineStep

from catalog import duck
from catalog.errors import CatalogError
from catalog.executors import ExecutorSettings, ProgressCallback, run_tasks
from catalog.files import delete_file_rows, known_files, reserve_file_ids
from catalog.jobs import Job, JobOutput, Manifest, open_job
from catalog.lake import Catalog
from catalog.records import to_json
from curation.reading import (
    Layout,
    ReadBatch,
    SourceFileError,
    SourceSettings,
    plan_layout,
    read_layout,
)
from curation.sources import Source, describe_sources, find_sources

__all__ = ["IngestResult", "IngestedFile", "describe_sources", "find_sources", "ingest_files"]

KIND: Final = "ingest"
STAGE: Final = "read"
HASH_BLOCK_BYTES: Final = 1 << 20
# A column with more names than this does not name sources; it would swamp the table of them.
MAX_SOURCES: Final = 10_000
_SOURCE_NOTE: Final = "source:"


@dataclass(frozen=True)
class IngestedFile:
    """What was read of a file."""

    path: str
    rows: int
    quarantined: int


@dataclass(frozen=True)
class IngestResult:
    """What an ingest did; ``skipped`` are files whose content the catalog holds already."""

    job_id: str | None  # None: there was nothing to do
    files: list[IngestedFile]
    replaced: list[str]
    skipped: list[str]

    @property
    def rows(self) -> int:
        """Count the rows that were added to ``pairs``."""
        return sum(file.rows for file in self.files)

    @property
    def quarantined(self) -> int:
        """Count the rows that were added to ``quarantine``."""
        return sum(file.quarantined for file in self.files)

    def summary(self) -> str:
        """Say what was done in one line."""
        parts = []
        if self.files:
            parts.append(
                f"{self.rows:,} pairs and passages from {len(self.files):,} files, "
                f"{self.quarantined:,} rows in quarantine"
            )
        if self.replaced:
            parts.append(f"{len(self.replaced):,} files replaced")
        if self.skipped:
            parts.append(f"{len(self.skipped):,} files skipped: the catalog holds their content")
        return "; ".join(parts)


@dataclass(frozen=True)
class _Fresh:
    """A file that will be read: ``replaced`` are the numbers of what it takes the place of."""

    layout: Layout
    bytes: int
    sha256: str
    replaced: tuple[int, ...] = ()

    @property
    def path(self) -> str:
        return str(self.layout.path)

    @property
    def document(self) -> dict[str, Any]:
        return self.layout.settings.as_document()


def ingest_files(
    catalog: Catalog,
    sources: Sequence[Source],
    *,
    replace: bool = False,
    executor: ExecutorSettings | None = None,
    progress: ProgressCallback | None = None,
    recipe: str | None = None,
) -> IngestResult:
    """Read files into the catalog: all of them become visible at once, or none.

    The same content twice adds nothing. A file that changed, or that would be read with other
    settings than before, is refused unless ``replace``. Progress counts bytes of stage ``read``.
    """
    executor = executor or ExecutorSettings()
    fresh, skipped = _select(catalog, sources, replace, executor.workers)
    if not fresh:
        return IngestResult(None, [], [], skipped)
    inputs = {"files": [[file.path, file.sha256, file.replaced] for file in fresh]}
    with open_job(catalog, KIND, _settings(fresh), inputs, recipe) as job:
        tasks: list[dict[str, Any]] = job.plan(lambda: _make_plan(catalog, job, fresh))["tasks"]  # type: ignore[assignment]
        steps = [ReadFiles(tasks), WritePairs(job.output, tasks)]
        run_tasks(job, STAGE, steps, len(tasks), executor, progress)
        manifests = _commit(job, tasks, fresh)
    done = [
        IngestedFile(tasks[one.task]["path"], one.notes["rows"], one.notes["quarantined"])
        for one in manifests
    ]
    replaced = [file.path for file in fresh if file.replaced]
    return IngestResult(job.job_id, sorted(done, key=lambda file: file.path), replaced, skipped)


# What is to be read -----------------------------------------------------------------------------


def _select(
    catalog: Catalog, sources: Sequence[Source], replace: bool, workers: int
) -> tuple[list[_Fresh], list[str]]:
    """Decide which files are read, and how; every file is looked at before the first is read."""
    layouts = [plan_layout(source.path, source.settings) for source in sources]
    with ThreadPoolExecutor(workers) as pool:
        hashes = list(pool.map(hash_source, sources))
    with catalog.reader() as connection:
        known = _known(connection)
    by_path = {file["path"]: file for file in known}
    content = {file["sha256"] for file in known}
    fresh: list[_Fresh] = []
    skipped = []
    for source, layout, sha256 in zip(sources, layouts, hashes, strict=True):
        path = str(source.path)
        before = by_path.get(path)
        change = _change(before, sha256, layout.settings) if before else None
        if before and change:
            if not replace:
                raise CatalogError(
                    f"{path} {change}; run again with --replace to put it in the place of the old "
                    "rows (snapshots keep seeing those)"
                )
            fresh.append(_Fresh(layout, source.bytes, sha256, (before["file_id"],)))
        elif before or sha256 in content:
            skipped.append(path)
        else:
            content.add(sha256)
            fresh.append(_Fresh(layout, source.bytes, sha256))
    return fresh, skipped


def _change(before: Mapping[str, Any], sha256: str, settings: SourceSettings) -> str | None:
    if before["sha256"] != sha256:
        return "has changed since it was ingested"
    if before["settings"] != to_json(settings.as_document()):
        return "was ingested with other settings"
    return None


def _known(connection: duck.Connection) -> list[dict[str, Any]]:
    """List the files in the catalog with the settings they were read with, as JSON."""
    runs = {
        run: json.loads(settings)
        for run, settings in connection.execute(
            "select run_id, settings from runs where kind = ?", [KIND]
        ).fetchall()
    }
    jobs = dict(connection.execute("select file_id, job from file_numbers").fetchall())
    return [
        {
            "file_id": file.file_id,
            "path": file.path,
            "sha256": file.sha256,
            "settings": to_json(_settings_of(runs[jobs[file.file_id]], file.path)),
        }
        for file in known_files(connection)
    ]


def _settings(fresh: Sequence[_Fresh]) -> dict[str, object]:
    """Write the settings of all files as plain data, equal ones once."""
    documents = [file.document for file in fresh]
    distinct = {to_json(document): document for document in documents}
    places = {text: place for place, text in enumerate(distinct)}
    return {
        "settings": list(distinct.values()),
        "files": {file.path: places[to_json(file.document)] for file in fresh},
    }


def _settings_of(run: Mapping[str, Any], path: str) -> Mapping[str, Any]:
    document: Mapping[str, Any] = run["settings"][run["files"][path]]
    return document


def hash_source(source: Source) -> str:
    """Return the SHA-256 of a source's bytes; of a folder: of the sums of its files."""
    parts = source.parts()
    sums = [_sha256(part) for part in parts]
    if len(sums) == 1 and parts[0] == source.path:
        return sums[0]
    names = [
        f"{name} {part.relative_to(source.path)}\n" for name, part in zip(sums, parts, strict=True)
    ]
    return hashlib.sha256("".join(names).encode()).hexdigest()


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb", buffering=0) as stream:
        while block := stream.read(HASH_BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()


def _make_plan(catalog: Catalog, job: Job, fresh: Sequence[_Fresh]) -> dict[str, object]:
    file_ids = reserve_file_ids(catalog, job.job_id, [(file.path, file.sha256) for file in fresh])
    tasks = [
        {
            "path": file.path,
            "sha256": file.sha256,
            "bytes": file.bytes,
            "file_id": file_id,
            "settings": file.document,
        }
        for file, file_id in zip(fresh, file_ids, strict=True)
    ]
    # The largest first: the last worker to finish then has little left to do.
    return {"tasks": sorted(tasks, key=lambda task: (-task["bytes"], task["file_id"]))}  # type: ignore[operator]


# The pipeline -----------------------------------------------------------------------------------


class ReadFiles(PipelineStep):  # type: ignore[misc]
    """Yields the pairs and rejected rows of a task's file, batch by batch."""

    type = "READER"
    name = "source file"

    def __init__(self, tasks: Sequence[Mapping[str, Any]]) -> None:
        super().__init__()
        self.tasks = tasks

    def run(self, data: Any = None, rank: int = 0, world_size: int = 1) -> Iterator[ReadBatch]:
        """Read the file; SourceFileError where it is not whole, or changes meanwhile."""
        task = self.tasks[rank]
        settings = SourceSettings.from_document(task["settings"])
        source = Source(Path(task["path"]), settings)
        before = _stamps(source)
        yield from read_layout(plan_layout(source.path, settings), task["file_id"])
        if _stamps(source) != before or source.bytes != task["bytes"]:
            raise SourceFileError(
                source.path, "changed while it was read", "ingest it when nothing writes to it"
            )


class WritePairs(PipelineStep):  # type: ignore[misc]
    """Writes the batches of a task into the tables pairs and quarantine."""

    type = "WRITER"
    name = "pairs"

    def __init__(self, output: JobOutput, tasks: Sequence[Mapping[str, Any]]) -> None:
        super().__init__()
        self.output = output
        self.tasks = tasks

    def run(self, data: Iterator[ReadBatch], rank: int = 0, world_size: int = 1) -> Iterator[None]:
        """Write everything; nothing flows on."""
        sources: Counter[str] = Counter()
        with self.output.task(STAGE, rank) as out:
            out.note("rows", 0)
            out.note("quarantined", 0)
            for batch in data:
                if batch.pairs.num_rows:
                    out.write("pairs", batch.pairs)
                if batch.quarantine.num_rows:
                    out.write("quarantine", batch.quarantine)
                out.note("rows", batch.pairs.num_rows)
                out.note("quarantined", batch.quarantine.num_rows)
                self._count(rank, sources, batch)
                self.output.report_progress(STAGE, rank, batch.bytes_read)
            for name, count in sources.items():
                out.note(_SOURCE_NOTE + name, count)
            self.output.report_progress(STAGE, rank, self.tasks[rank]["bytes"])
        yield from ()

    def _count(self, rank: int, sources: Counter[str], batch: ReadBatch) -> None:
        for entry in pc.value_counts(batch.pairs["source"]).to_pylist():
            sources[entry["values"]] += entry["counts"]
        if len(sources) > MAX_SOURCES:
            raise SourceFileError(
                self.tasks[rank]["path"],
                f"its source column has more than {MAX_SOURCES:,} values",
                "map a column that names sources, or give one name: --set source=NAME",
            )


def _stamps(source: Source) -> list[tuple[int, int]]:
    return [(part.stat().st_size, part.stat().st_mtime_ns) for part in source.parts()]


# The commit -------------------------------------------------------------------------------------


def _commit(
    job: Job, tasks: Sequence[Mapping[str, Any]], fresh: Sequence[_Fresh]
) -> list[Manifest]:
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


def _refuse_rivals(connection: duck.Connection, fresh: Sequence[_Fresh]) -> None:
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
    fresh: Sequence[_Fresh],
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
    fresh: Sequence[_Fresh],
) -> dict[str, list[_Fresh]]:
    """Name the sources that rows were found of, each with the files that hold them."""
    by_path = {file.path: file for file in fresh}
    found: dict[str, list[_Fresh]] = {}
    for task, noted in sorted(notes.items()):
        for name in noted:
            if name.startswith(_SOURCE_NOTE):
                file = by_path[tasks[task]["path"]]
                found.setdefault(name.removeprefix(_SOURCE_NOTE), []).append(file)
    return found


def _put_source(connection: duck.Connection, name: str, files: Sequence[_Fresh]) -> None:
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
            os.path.commonpath([file.path for file in files]),
            to_json(layout.fields.as_document()),
        ],
    )
