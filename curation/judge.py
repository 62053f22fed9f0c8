"""Judge: a language model grades pairs or labels passages; every judgment is a row.

Grades become scores, ``score('answers-zh') >= 0.6`` in a policy; labels teach classifiers. Nothing
is dropped by it. What was judged before by the same prompt and model is not asked about again.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datatrove.pipeline.base import PipelineStep

from catalog import duck
from catalog.draws import draw
from catalog.errors import CatalogError, PolicyError
from catalog.executors import ExecutorSettings, ProgressCallback, run_tasks
from catalog.jobs import JobOutput, open_job
from catalog.lake import Catalog, scalar
from catalog.schema import JUDGMENTS, SCORES
from catalog.score_rows import commit_scores, look_up_scores
from catalog.snapshots import Snapshot, snapshot_reader
from curation.synthesis.asking import STAGE, ask_task
from curation.synthesis.choices import JudgeSettings
from curation.synthesis.endpoint import Endpoint, check_installed
from curation.synthesis.journal import Finished
from curation.synthesis.seeds import Seed, keep_seeds, read_seeds

KIND: Final = "judge"
TASK_PAIRS: Final = 50_000
_SQL: Final = Path(__file__).parent / "synthesis" / "unjudged.sql"


@dataclass(frozen=True)
class Selection:
    """Which rows of a snapshot are judged: of those with ``where``, ``sample`` drawn, or all (0).

    ``name`` is what the judgments are called, and grades in ``scores``; None: the prompt's name.
    """

    where: str = "true"
    sample: int = 0
    seed: int = 0
    name: str | None = None

    def __post_init__(self) -> None:
        """Check the settings; ValueError says what is allowed."""
        if self.sample < 0:
            raise ValueError(f"sample is {self.sample}; it is 0 for all rows, or a number of them")


@dataclass(frozen=True)
class Judged:
    """What a run did."""

    name: str
    asked: int
    choices: dict[str, int]
    unusable: int  # rows without a judgment

    def summary(self) -> str:
        """Say what came of it in one line."""
        if not self.asked:
            return f"{self.name}: nothing to ask; all rows have a judgment"
        counts = ", ".join(f"{choice} {count:,}" for choice, count in self.choices.items())
        return f"{self.name}: {self.asked:,} asked: {counts or 'none'}; {self.unusable:,} unusable"


def judge(
    catalog: Catalog,
    snapshot: Snapshot,
    settings: JudgeSettings,
    endpoint: Endpoint,
    selection: Selection | None = None,
    executor: ExecutorSettings | None = None,
    progress: ProgressCallback | None = None,
) -> Judged:
    """Ask about every chosen row that has no judgment; the same run again asks what is missing.

    CatalogError where the name has scores of another prompt or model.
    """
    check_installed()
    selection = selection or Selection()
    name = selection.name or settings.prompt.name
    before = _look_up(catalog, name, settings)
    table = unjudged(catalog, snapshot, settings, selection)
    if not table.num_rows:
        return Judged(name, 0, {}, 0)
    with catalog.reader() as connection:
        said = scalar(connection, "select count(*) from judgments where name = ?", [name])
    record = settings.as_document() | {
        "name": name, "where": selection.where, "sample": selection.sample, "seed": selection.seed,
    }  # fmt: skip
    # What is left to ask is decided by these alone: other commits leave a killed run its journal.
    inputs = {"snapshot": snapshot.digest, "judgments": said}
    with open_job(catalog, KIND, record, inputs) as job:
        folder = job.folder / "scratch"
        count = keep_seeds(folder, lambda: table)
        tasks = -(-count // TASK_PAIRS)
        step = AskJudge(job.output, folder, settings, endpoint, name)
        run_tasks(job, STAGE, [step], tasks, executor, progress)
        if settings.prompt.is_graded:
            commit_scores(job, name, settings.revision, before, replace=False)
        else:
            job.commit()
        return _result(catalog, name, job.job_id)


def unjudged(
    catalog: Catalog, snapshot: Snapshot, settings: JudgeSettings, selection: Selection
) -> pa.Table:
    """Return the chosen rows without a judgment: (pair_id, query, passage), in a drawn order.

    A prompt without a query judges passages: one row stands for all pairs of a passage.
    """
    with catalog.reader() as latest:
        done = latest.execute(
            "select distinct pair_id from judgments where name = ? and model = ? "
            "and prompt_digest = ? and choice is not null",
            [selection.name or settings.prompt.name, settings.model, settings.prompt.digest],
        ).to_arrow_table()
    sql = _SQL.read_text().replace("{where}", f"({selection.where})")
    with snapshot_reader(catalog, snapshot) as connection:
        connection.register("judged", done)
        needs_query = settings.prompt.needs_query
        try:
            rows = connection.execute(sql, [needs_query] * 3).to_arrow_table()
        except duck.Error as error:
            raise PolicyError(
                f"--where {selection.where!r} is no condition over the columns of pairs: {error}"
            ) from None
    ids = rows["pair_id"].to_numpy()
    order = np.lexsort((ids, draw(selection.seed, "judged rows", ids)))
    chosen = rows.take(order[: selection.sample] if selection.sample else order)
    return chosen.filter(pc.invert(chosen["is_judged"])).drop_columns(["is_judged"])


def first_judgment(
    catalog: Catalog, snapshot: Snapshot, settings: JudgeSettings, selection: Selection
) -> dict[str, Any]:
    """Write the first request of a run, without sending it; CatalogError where there is none."""
    rows = unjudged(catalog, snapshot, settings, selection).slice(0, 1).to_pylist()
    if not rows:
        raise CatalogError(f"snapshot {snapshot.name!r} has no such row without a judgment")
    return settings.body(Seed(rows[0]["pair_id"], rows[0]["passage"], rows[0]["query"]), 1)


class AskJudge(PipelineStep):  # type: ignore[misc]
    """Asks about the rows of a task and writes what the model said."""

    type = "MODEL"
    name = "judge"

    def __init__(
        self,
        output: JobOutput,
        folder: Path,
        settings: JudgeSettings,
        endpoint: Endpoint,
        name: str,
    ) -> None:
        super().__init__()
        self.output, self.folder, self.settings = output, folder, settings
        self.endpoint, self.called = endpoint, name

    def run(self, data: Any = None, rank: int = 0, world_size: int = 1) -> Iterator[None]:
        """Ask what the task's journal does not hold, then write all of its rows."""
        first = rank * TASK_PAIRS
        seeds = read_seeds(self.folder, first, TASK_PAIRS)
        finished = ask_task(self.settings, self.endpoint, self.output, rank, seeds, first)
        rows = {seed: self._row(seed, finished[number]) for number, seed in enumerate(seeds, first)}
        with self.output.task(STAGE, rank) as out:
            out.write("judgments", pa.Table.from_pylist(list(rows.values()), JUDGMENTS))
            scores = self._scores(rows)
            if scores.num_rows:
                out.write("scores", scores)
        yield from ()

    def _row(self, seed: Seed, done: Finished) -> dict[str, Any]:
        prompt = self.settings.prompt
        choice, why = None, None
        if done.reason is None:
            assert done.content is not None
            choice, why = prompt.read(done.content)
        return {
            "run": self.output.job_id, "pair_id": seed.pair_id, "name": self.called,
            "model": self.settings.model, "prompt": prompt.name, "prompt_digest": prompt.digest,
            "choice": choice, "why": why, "reason": done.reason, "requests": done.requests,
            "prompt_tokens": done.prompt_tokens, "completion_tokens": done.completion_tokens,
        }  # fmt: skip

    def _scores(self, rows: Mapping[Seed, dict[str, Any]]) -> pa.Table:
        """Return the grades as scores, of all pairs with the passage where it was judged alone."""
        prompt = self.settings.prompt
        found = [
            {
                "pair_id": pair_id, "model": self.called,
                "revision": self.settings.revision, "score": prompt.score(row["choice"]),
            }
            for seed, row in rows.items()
            if prompt.is_graded and row["choice"] is not None
            for pair_id in seed.pair_ids
        ]  # fmt: skip
        return pa.Table.from_pylist(found, SCORES)


def _look_up(catalog: Catalog, name: str, settings: JudgeSettings) -> int:
    """Count the scores of this name; refuse a name that another prompt or model has."""
    if not settings.prompt.is_graded:
        return 0
    return look_up_scores(catalog, name, settings.revision, replace=False)[0]


def _result(catalog: Catalog, name: str, run: str) -> Judged:
    with catalog.reader() as connection:
        rows = connection.execute(
            "select choice, count(*) from judgments where run = ? group by 1 order by 1", [run]
        ).fetchall()
    if not rows:
        raise CatalogError(f"run {run} left no judgment")
    counts = dict(rows)
    unusable = counts.pop(None, 0)
    return Judged(name, unusable + sum(counts.values()), counts, unusable)
