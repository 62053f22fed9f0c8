"""The table of ``benchmarks.recipes``: scores, pairs and CPU seconds of the runs that are done."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from benchmarks.ablation import STS
from benchmarks.machine import describe
from benchmarks.recipe_rows import (
    EVAL_RETRIEVAL,
    GRADED,
    MAX_TOKENS,
    PAIRS_OF_EACH,
    ROWS,
    SOURCES,
    Row,
    changes_of,
    words_of,
)
from catalog.lake import Catalog, scalar
from catalog.recipe_files import find_recipe, read_recipe
from catalog.snapshots import load_snapshot, snapshot_reader
from recipes.journal import Journal
from recipes.plan import STAGES, TRAINING, load_plan
from recipes.stages import RUN, SNAPSHOT
from trainer.eval_records import TRAINED_ON
from trainer.metrics import read_metrics
from trainer.settings import TrainSettings

CORPUS: Final = "corpus"
TIMES: Final = "times.json"


def report(work: Path, divide: int) -> str:
    scores = read_scores(work)
    done = [row for row in ROWS if f"{row.run}-train" in scores]
    tasks = sorted(scores["lexical"], key=lambda task: scores["lexical"][task][0], reverse=True)
    lines = [
        "# Published recipes side by side",
        "",
        "`OMP_NUM_THREADS=1 python -m benchmarks.recipes WORK`"
        + (f" `--divide {divide}`" if divide > 1 else ""),
        "",
        describe(["torch", "transformers", "mteb"]) + "; one thread, machine with other work.",
        "",
        *setting_lines(divide),
        "",
        "| recipe | pairs kept | " + " | ".join(tasks) + " | texts trained on | CPU s |",
        "|---|---|" + "---|" * len(tasks) + "---|---|",
    ]
    for name in ("lexical", "new-model"):
        lines.append(f"| {name} | | {score_cells(scores[name], tasks)} | | |")
    for row in done:
        own = scores[f"{row.run}-train"]
        held = sum(texts for _, _, texts in own.values())
        kept = " → ".join(f"{count:,}" for count in kept_pairs(work, row))
        seconds = sum(read_times(work, row).values())
        lines.append(
            f"| {row.name} | {kept} | {score_cells(own, tasks)} | {held:,.0f} | {seconds:,.0f} |"
        )
    stages = [stage for stage in STAGES if any(stage in read_times(work, row) for row in done)]
    lines += [
        "",
        "CPU seconds of every stage, and what it has seen of each task:",
        "",
        "| recipe | " + " | ".join(stages) + " |",
        "|---|" + "---|" * len(stages),
    ]
    for row in done:
        cells = [
            stage_cell(stage, read_times(work, row), pairs_seen(work, divide, row))
            for stage in stages
        ]
        lines.append(f"| {row.name} | {' | '.join(cells)} |")
    lines += ["", *scaled_lines(divide)]
    return "\n".join(lines) + "\n"


def setting_lines(divide: int) -> Iterator[str]:
    each, pairs = PAIRS_OF_EACH // divide, GRADED // divide
    yield f"{each:,} pairs of each of {', '.join(SOURCES)}, and about {pairs:,} graded pairs of"
    yield f"{', '.join(STS)}; curated by conan-v1 without what is in the evaluation sets. All"
    yield f"begin with one new BERT (2 layers of 64, {MAX_TOKENS} tokens, random: new-model)"
    yield "and see as many pairs for retrieval; text2vec has graded pairs only."
    yield "The teacher of the score filter is `lexical`, an encoder of hashed n-grams. nDCG@10 of"
    yield f"{', '.join(EVAL_RETRIEVAL)}, Spearman of the others. One seed. Texts trained"
    yield "on: of all sets together. CPU seconds: of all stages, evaluation included."


def scaled_lines(divide: int) -> Iterator[str]:
    """Say what is smaller than in the recipes, value by value."""
    yield "What is other than in the recipes (`--set`); what a recipe does not say stands as –:"
    yield ""
    for row in ROWS:
        if row.changes:
            continue
        recipe = read_recipe(find_recipe(row.recipe))
        changes = [
            f"`{key}` {value_at(recipe, key)} → {str(value).strip(chr(34))}"
            for key, value in changes_of(row, divide).items()
        ]
        yield f"- {row.recipe}: {', '.join(changes)}"


def value_at(recipe: Mapping[str, Any], key: str) -> Any:
    value: Any = recipe
    for part in key.split("."):
        value = value.get(part, {}) if isinstance(value, Mapping) else {}
    return "–" if value == {} else value


def score_cells(found: Mapping[str, tuple[str, float, float]], tasks: Sequence[str]) -> str:
    return " | ".join(f"{found[task][1]:.4f}" for task in tasks)


def stage_cell(stage: str, times: Mapping[str, float], seen: Mapping[tuple[str, str], int]) -> str:
    if stage not in times:
        return ""
    own = [f"{n:,} {task}".strip() for (where, task), n in seen.items() if where == stage]
    return f"{times[stage]:,.0f}" + (f" ({', '.join(own)})" if own else "")


def read_scores(work: Path) -> dict[str, dict[str, tuple[str, float, float]]]:
    """Return metric, score and texts trained on by run (or model) and task."""
    with open_corpus(work).reader() as connection:
        rows = connection.execute(
            "select coalesce(run, model), task, any_value(metric) filter (is_main), "
            "any_value(value) filter (is_main), "
            "coalesce(any_value(value) filter (metric = ?), 0) "
            "from evaluations group by 1, 2 order by 1, 2",
            [TRAINED_ON],
        ).fetchall()
    found: dict[str, dict[str, tuple[str, float, float]]] = {}
    for run, task, metric, value, held in rows:
        found.setdefault(run, {})[task] = (metric, value, held)
    return found


def kept_pairs(work: Path, row: Row) -> list[int]:
    """Return how many pairs for retrieval the snapshots of a run hold, one after the other."""
    catalog, found = open_corpus(work), []
    for entry in Journal(work / "runs" / row.run).done.values():
        if SNAPSHOT in entry["made"]:
            snapshot = load_snapshot(catalog, entry["made"][SNAPSHOT])
            with snapshot_reader(catalog, snapshot) as connection:
                query = "select count(*) from curated where task = 'retrieval'"
                found.append(int(str(scalar(connection, query))))
    return found


def pairs_seen(work: Path, divide: int, row: Row) -> dict[tuple[str, str], int]:
    """Return how many pairs, or passages, each stage of a run has seen of each task."""
    plan = load_plan(row.recipe, str(work), words_of(changes_of(row, divide)))
    found: dict[tuple[str, str], int] = {}
    for stage in TRAINING:
        settings = getattr(plan, stage)
        if settings is None:
            continue
        run = Journal(work / "runs" / row.run).done[stage]["made"][RUN]
        (log,) = work.glob(f"runs/*/{run}/metrics.jsonl")
        steps = read_metrics(log)[-1]["step"]
        if isinstance(settings, TrainSettings):
            for task, each in settings.tasks.items():
                found[stage, task] = int(steps) * each.batch
        else:
            found[stage, "passages"] = int(steps) * settings.batch
    return found


def open_corpus(work: Path) -> Catalog:
    return Catalog.open(str(work / CORPUS))


def read_times(work: Path, row: Row) -> dict[str, float]:
    """Return the CPU seconds of the stages that are done."""
    found: dict[str, float] = {}
    path = work / "runs" / row.run / TIMES
    if path.exists():
        found = json.loads(path.read_text(encoding="utf-8"))
    return found
