"""Published recipes side by side on real pairs, each by ``lode run``, and bge-zh without two parts.

    OMP_NUM_THREADS=1 python -m benchmarks.recipes WORK [DATA]     # writes benchmarks/recipes.md

WORK keeps catalog, runs and times: killed, the same command goes on. Every stage is a ``lode run``
of its own, so that its CPU time is known. All begin with one small new BERT and see as many pairs
for retrieval (text2vec has graded pairs only). recipe_rows.py says what is smaller than there.
``--divide 16`` is the same with a sixteenth of the rows and updates, to see that it runs.
"""

import argparse
import json
import os
import resource
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

import lode
from benchmarks.ablation import graded
from benchmarks.machine import DATA
from benchmarks.recipe_rows import (
    BASE,
    EVAL_RETRIEVAL,
    EVAL_STS,
    GRADED,
    PAIRS_OF_EACH,
    ROWS,
    SOURCES,
    Row,
    changes_of,
    words_of,
)
from benchmarks.recipe_table import CORPUS, TIMES, report
from catalog.records import write_json
from recipes.journal import FILE
from recipes.plan import load_plan


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("work", type=Path)
    parser.add_argument("data", type=Path, nargs="?", default=DATA)
    parser.add_argument("--divide", type=int, default=1, help="rows and updates by this number")
    parser.add_argument("--only", nargs="+", choices=[row.run for row in ROWS], help="these rows")
    chosen = parser.parse_args()
    if os.environ.get("OMP_NUM_THREADS") != "1":
        parser.error("set OMP_NUM_THREADS=1: times are CPU seconds of one thread")
    bench = Bench(chosen.work, chosen.data, chosen.divide)
    bench.ingest()
    bench.run("base", "m3e", BASE, stages=("curate", "new_model"))
    for model in ("lexical", str(bench.base)):
        bench.evaluate(model)
    for row in ROWS:
        if row.run not in (chosen.only or [each.run for each in ROWS]):
            continue
        if row.shared is not None:
            bench.begin_as(row, *row.shared)
        changes = changes_of(row, chosen.divide)
        bench.run(row.run, row.recipe, changes, base=str(bench.base))
        text = report(bench.work, chosen.divide)
        Path(__file__).with_suffix(".md").write_text(text, encoding="utf-8")
    print(text)


@dataclass(frozen=True)
class Bench:
    """Where everything is, and what is done with it."""

    work: Path
    data: Path
    divide: int

    @property
    def corpus(self) -> str:
        return str(self.work / CORPUS)

    @property
    def base(self) -> Path:
        return self.work / "runs" / "base" / "new-model"

    def ingest(self) -> None:
        """Write the files and read them into a catalog; what is there stays."""
        call("init", self.corpus)
        for task, paths in self.files().items():
            maps = ["--map", "query=text1", "--map", "positive=text2"] if task != "sts" else []
            call("ingest", *paths, "--set", f"task={task}", *maps, "-c", self.corpus, "-w", "1")

    def files(self) -> dict[str, list[str]]:
        """Write a systematic sample of every source, and of graded pairs."""
        folder = self.work / "files"
        folder.mkdir(parents=True, exist_ok=True)
        paths = [folder / f"{name}.parquet" for name in SOURCES]
        for path in paths:
            if not path.exists():
                table = pq.read_table(self.data / "pairs" / path.name, columns=["text1", "text2"])
                each = PAIRS_OF_EACH // self.divide
                pq.write_table(table.take([i * len(table) // each for i in range(each)]), path)
        pairs = folder / "graded.parquet"
        if not pairs.exists():
            pq.write_table(graded(self.data, GRADED // self.divide), pairs)
        return {"retrieval": list(map(str, paths)), "sts": [str(pairs)]}

    def run(
        self,
        name: str,
        recipe: str,
        changes: Mapping[str, Any],
        base: str | None = None,
        stages: tuple[str, ...] | None = None,
    ) -> None:
        """Run the stages of a recipe that are not done, one by one, and note what each took."""
        folder = self.work / "runs" / name
        words = words_of(changes)
        arguments = [recipe, "--out", str(folder), "-c", self.corpus, "-w", "1"]
        arguments += [] if base is None else ["--model", base]
        for word in words:
            arguments += ["--set", word]
        arguments += self.evaluation()
        times = folder / TIMES
        found = json.loads(times.read_text(encoding="utf-8")) if times.exists() else {}
        for stage in stages or load_plan(recipe, base, words).stages:
            if stage not in found:
                before = cpu_seconds()
                call("run", *arguments, "--stages", stage)
                write_json(times, found := {**found, stage: cpu_seconds() - before})

    def begin_as(self, row: Row, other: str, stages: int) -> None:
        """Let a run begin with the first stages of another, and with what they took."""
        folder, there = self.work / "runs" / row.run, self.work / "runs" / other
        for name in (TIMES, FILE):
            if not (folder / name).exists():
                done = json.loads((there / name).read_text(encoding="utf-8"))
                write_json(folder / name, dict(list(done.items())[:stages]))

    def evaluate(self, model: str) -> None:
        """Evaluate what no run of this benchmark has trained."""
        done = self.work / f"{Path(model).name}.evaluated"
        if not done.exists():
            call("evaluate", model, *self.evaluation(), "--record", "-c", self.corpus)
            done.touch()

    def evaluation(self) -> list[str]:
        """Return the options that name the evaluation sets."""
        folder = self.data / "eval"
        options = []
        for name in EVAL_STS:
            options += ["--sts", str(folder / "sts" / f"{name}.parquet")]
        for name in EVAL_RETRIEVAL:
            options += ["--retrieval", str(folder / "retrieval" / name)]
        return options


def call(*words: str) -> None:
    """Run a command of ``lode`` in this process."""
    print("$ lode", *words, flush=True)
    lode.app(list(words), standalone_mode=False)


def cpu_seconds() -> float:
    """Return the CPU seconds of this process and of those that it has waited for."""
    return sum(
        used.ru_utime + used.ru_stime
        for used in map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    )


if __name__ == "__main__":
    main()
