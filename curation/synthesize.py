"""Synthesize: a language model writes pairs about a snapshot's passages; they become a source.

Finished requests are in a journal beside the job, and one commit makes all pairs visible. The pairs
are measured, compared and judged by policies as those of any other source.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
from datatrove.pipeline.base import PipelineStep

from catalog import duck
from catalog.executors import ExecutorSettings, ProgressCallback, run_tasks
from catalog.files import reserve_file_ids
from catalog.jobs import Job, JobOutput, Manifest, open_job
from catalog.lake import Catalog
from catalog.records import to_json
from catalog.snapshots import Snapshot
from curation.synthesis.asking import STAGE, ask_task
from curation.synthesis.endpoint import Endpoint, check_installed
from curation.synthesis.prompts import LANGUAGE_SLOT
from curation.synthesis.rows import SOURCE_PREFIX, Rows
from curation.synthesis.seeds import Seed, choose_seeds, keep_seeds, read_seeds
from curation.synthesis.settings import SynthesisSettings

KIND: Final = "synthesize"
# A task's answers are in memory when it writes its rows: some hundred MB.
TASK_SEEDS: Final = 50_000


@dataclass(frozen=True)
class Synthesized:
    """What a run made: requests and tokens are counted by the table ``synthesis_requests``."""

    run: str
    seeds: int
    pairs: int
    unusable: int  # seeds without a pair
    quarantined: int  # faults: an answer can have several, beside pairs
    requests: int

    @property
    def source(self) -> str:
        """Name the source of its pairs."""
        return SOURCE_PREFIX + self.run

    def summary(self) -> str:
        """Say what was made in one line."""
        return (
            f"{self.pairs:,} pairs about {self.seeds:,} seeds in {self.requests:,} requests; "
            f"{self.unusable:,} seeds without a pair, {self.quarantined:,} rows in quarantine"
        )


def synthesize(
    catalog: Catalog,
    snapshot: Snapshot,
    settings: SynthesisSettings,
    endpoint: Endpoint,
    executor: ExecutorSettings | None = None,
    progress: ProgressCallback | None = None,
) -> Synthesized:
    """Let a model write about seeds of a snapshot; the same run again asks only what is missing."""
    check_installed()
    inputs = {"snapshot": snapshot.name, "digest": snapshot.digest}
    with open_job(catalog, KIND, settings.as_document(), inputs) as job:
        if not job.is_committed():
            folder = job.folder / "scratch"
            seeds = keep_seeds(folder, lambda: _draw_seeds(catalog, snapshot, settings))
            plan: Any = job.plan(lambda: _make_plan(catalog, job, seeds))
            file_ids: list[int] = plan["file_ids"]
            step = AskModel(job.output, folder, settings, endpoint, file_ids)
            run_tasks(job, STAGE, [step], len(file_ids), executor, progress)
            _commit(job, settings, file_ids)
        return _result(catalog, job.job_id)


class AskModel(PipelineStep):  # type: ignore[misc]
    """Asks about the seeds of a task and writes what came of it."""

    type = "MODEL"
    name = "language model"

    def __init__(
        self,
        output: JobOutput,
        folder: Path,
        settings: SynthesisSettings,
        endpoint: Endpoint,
        file_ids: Sequence[int],
    ) -> None:
        super().__init__()
        self.output = output
        self.folder = folder
        self.settings = settings
        self.endpoint = endpoint
        self.file_ids = list(file_ids)

    def run(self, data: Any = None, rank: int = 0, world_size: int = 1) -> Iterator[None]:
        """Ask what the task's journal does not hold, then write all of its rows."""
        first = rank * TASK_SEEDS
        seeds = read_seeds(self.folder, first, TASK_SEEDS)
        finished = ask_task(self.settings, self.endpoint, self.output, rank, seeds, first)
        rows = Rows(self.settings, self.output.job_id, self.file_ids[rank])
        for number, seed in enumerate(seeds, first):
            rows.add(seed, finished[number])
        with self.output.task(STAGE, rank) as out:
            for table, content in rows.tables().items():
                if content.num_rows:
                    out.write(table, content)
            out.note("rows", len(rows.drafts))
            out.note("quarantined", len(rows.quarantine))
        yield from ()


def first_request(
    catalog: Catalog, snapshot: Snapshot, settings: SynthesisSettings
) -> dict[str, Any]:
    """Write the first request of a run, without sending it."""
    row = _draw_seeds(catalog, snapshot, settings).slice(0, 1)
    seed = Seed(row["pair_id"][0].as_py(), row["passage"][0].as_py(), row["query"][0].as_py())
    return settings.body(seed, 1)


def _draw_seeds(catalog: Catalog, snapshot: Snapshot, settings: SynthesisSettings) -> pa.Table:
    needs_query = "query" in settings.kind.fields
    return choose_seeds(catalog, snapshot, settings.seeds, with_query=needs_query)


def _make_plan(catalog: Catalog, job: Job, seeds: int) -> dict[str, object]:
    tasks = -(-seeds // TASK_SEEDS)
    names = [_file_name(job.job_id, task) for task in range(tasks)]
    return {"file_ids": reserve_file_ids(catalog, job.job_id, [(name, name) for name in names])}


def _file_name(run: str, task: int) -> str:
    return f"{SOURCE_PREFIX}{run}/{task:05d}"


def _commit(job: Job, settings: SynthesisSettings, file_ids: Sequence[int]) -> None:
    source = SOURCE_PREFIX + job.job_id
    kind = settings.kind
    languages = sorted(settings.prompt.slots[LANGUAGE_SLOT])
    manifests = job.manifests()

    def describe(connection: duck.Connection) -> None:
        for one in manifests:
            connection.execute(
                "insert into files (file_id, source, path, size, sha256, rows, quarantined) "
                "values (?, ?, ?, ?, ?, ?, ?)",
                [
                    file_ids[one.task], source, _file_name(job.job_id, one.task),
                    sum(file.bytes for file in one.files), _digest(one), one.notes["rows"],
                    one.notes["quarantined"],
                ],
            )  # fmt: skip
        connection.execute(
            "insert into sources (source, form, task, language) values (?, ?, ?, ?)",
            [source, kind.form, kind.task, languages[0] if len(languages) == 1 else None],
        )

    job.commit(describe)


def _digest(manifest: Manifest) -> str:
    content = to_json([[file.table, file.rows, file.xxh3] for file in manifest.files])
    return hashlib.sha256(content.encode()).hexdigest()


def _result(catalog: Catalog, run: str) -> Synthesized:
    with catalog.reader() as connection:
        row = connection.execute(
            "select count(*), coalesce(sum(pairs), 0)::bigint, count(reason), "
            "coalesce(sum(requests), 0)::bigint from synthesis_requests where run = ?",
            [run],
        ).fetchall()[0]
        quarantined = connection.execute(
            "select coalesce(sum(quarantined), 0)::bigint from files where source = ?",
            [SOURCE_PREFIX + run],
        ).fetchall()[0][0]
    return Synthesized(run, int(row[0]), int(row[1]), int(row[2]), int(quarantined), int(row[3]))
