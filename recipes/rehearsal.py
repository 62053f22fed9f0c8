"""Rehearsals: a whole recipe on the demo corpus, with a small new model, in minutes.

What it shows is that every stage runs and fits the next one; the numbers mean nothing.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from catalog.executors import ExecutorSettings
from catalog.lake import Catalog
from curation.demo.corpus import DEFAULT_SEED, generate, source_rows
from curation.demo.passages import SOURCES
from curation.ingest import find_sources, ingest_files
from curation.recipes import Recipe, load_sources
from recipes.plan import load_plan, rehearsal_rows
from recipes.run import run_recipe
from recipes.stages import Bench

# Rows of another seed than the corpus's: held out.
HELD_OUT_SEED: Final = DEFAULT_SEED + 1
HELD_OUT_ROWS: Final = 200
SENTENCES: Final = ("sentence1", "sentence2", "score")


@dataclass(frozen=True)
class Rehearsal:
    """A catalog with the demo corpus, its block list, and sets that were held out."""

    catalog: Catalog
    block_list: Path
    sts: Path
    retrieval: Path

    def curation(self, recipe: Recipe) -> Recipe:
        """Return a recipe with the corpus's block list, which drops nothing as contaminated.

        The held-out rows are of the same grammar: what resembles them is found, but dropping it
        would leave no graded pair to train on.
        """
        lists = (*recipe.signals.get("domain_lists", ()), self.block_list)
        kept = tuple(c for c in recipe.policy.conditions if c.stage != "decontaminate")
        return replace(
            recipe,
            signals={**recipe.signals, "domain_lists": lists},
            policy=replace(recipe.policy, conditions=kept),
        )


def prepare(folder: Path, rows: int, executor: ExecutorSettings) -> Rehearsal:
    """Generate, ingest and write the sets; what is there already is made again the same."""
    corpus = generate(folder / "raw", rows)
    catalog = Catalog.create(str(folder / "corpus"))
    ingest_files(catalog, find_sources(recipe=load_sources(corpus.recipe)), executor=executor)
    sts, retrieval = folder / "eval" / "sts" / "demo.parquet", folder / "eval" / "demo-retrieval"
    _write_sts(sts)
    _write_retrieval(retrieval)
    return Rehearsal(catalog, corpus.block_list, sts, retrieval)


def _write_sts(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = _clean_rows("sts")
    columns = zip(*((row["query"], row["positive"], row["label"]) for row in rows), strict=True)
    pq.write_table(pa.table(dict(zip(SENTENCES, map(list, columns), strict=True))), path)


def _write_retrieval(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    rows = _clean_rows("retrieval")
    ids = [row["id"] for row in rows]
    tables = {
        "corpus": {
            "_id": ids, "title": [""] * len(ids), "text": [row["positive"] for row in rows],
        },
        "queries": {"_id": ids, "text": [row["query"] for row in rows]},
        "qrels": {"query-id": ids, "corpus-id": ids, "score": [1] * len(ids)},
    }  # fmt: skip
    for name, columns in tables.items():
        pq.write_table(pa.table(columns), folder / f"{name}.parquet")


def _clean_rows(name: str) -> list[dict[str, Any]]:
    source = next(each for each in SOURCES if each.name == name)
    rows = source_rows(source, HELD_OUT_ROWS, HELD_OUT_SEED)
    return [row for row in rows if row["defect"] is None]


def rehearse(
    recipe: str,
    folder: Path,
    words: Iterable[str],
    executor: ExecutorSettings,
    say: Callable[[str], None],
    stages: Sequence[str] | None = None,
) -> Bench:
    """Run a recipe with its [rehearse] over it; the same again goes on where it was."""
    words = tuple(words)
    rows = rehearsal_rows(recipe)
    load_plan(recipe, words=words, rehearse=True)  # raises before a corpus is made
    say(f"rehearsal on {rows:,} rows of the demo corpus: its numbers mean nothing\n")
    made = prepare(folder / "rehearsal", rows, executor)
    sets = {"sts": [str(made.sts)], "retrieval": [str(made.retrieval)]}
    plan = load_plan(recipe, None, words, sets, rehearse=True)
    plan = replace(plan, curate=made.curation(plan.curate))
    return run_recipe(plan, made.catalog, folder, executor, say, stages)
