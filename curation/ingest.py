"""Ingest: source files become rows of pairs and quarantine, all of them in one commit."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import pyarrow.compute as pc
from datatrove.pipeline.base import PipelineStep

from catalog.executors import ExecutorSettings, ProgressCallback, run_tasks
from catalog.files import reserve_file_ids
from catalog.jobs import Job, JobOutput, open_job
from catalog.lake import Catalog
from curation.fresh_files import KIND, FreshFile, run_settings, select_fresh
from curation.ingest_commit import SOURCE_NOTE, commit_files
from curation.reading import ReadBatch, SourceFileError, SourceSettings, read_layout
from curation.reading.objects import ObjectPath
from curation.reading.source_path import locate
from curation.sources import Source, describe_sources, find_sources

__all__ = ["IngestResult", "IngestedFile", "describe_sources", "find_sources", "ingest_files"]

STAGE: Final = "read"
# A column with more names than this does not name sources; it would swamp the table of them.
MAX_SOURCES: Final = 10_000


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
    fresh, skipped = select_fresh(catalog, sources, replace, executor.workers)
    if not fresh:
        return IngestResult(None, [], [], skipped)
    inputs = {"files": [[file.path, file.sha256, file.replaced] for file in fresh]}
    with open_job(catalog, KIND, run_settings(fresh), inputs, recipe) as job:
        tasks: list[dict[str, Any]] = job.plan(lambda: _make_plan(catalog, job, fresh))["tasks"]  # type: ignore[assignment]
        steps = [ReadFiles(tasks), WritePairs(job.output, tasks)]
        run_tasks(job, STAGE, steps, len(tasks), executor, progress)
        manifests = commit_files(job, tasks, fresh)
    done = [
        IngestedFile(tasks[one.task]["path"], one.notes["rows"], one.notes["quarantined"])
        for one in manifests
    ]
    replaced = [file.path for file in fresh if file.replaced]
    return IngestResult(job.job_id, sorted(done, key=lambda file: file.path), replaced, skipped)


def _make_plan(catalog: Catalog, job: Job, fresh: Sequence[FreshFile]) -> dict[str, object]:
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
        source = Source(locate(task["path"]), settings)
        before = source.stamps()
        is_planned = source.bytes == task["bytes"]
        if isinstance(source.path, ObjectPath):
            is_planned = source.path.identity == task["sha256"]
        if is_planned:
            yield from read_layout(source.layout, task["file_id"])
        if not is_planned or Source(locate(task["path"]), settings).stamps() != before:
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
                out.note(SOURCE_NOTE + name, count)
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
