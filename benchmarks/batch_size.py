"""What does the size of an in-batch batch bring, at equal pairs seen and at equal updates?

    python -m benchmarks.batch_size WORK [DATA]     # writes benchmarks/batch_size.md; resumable

A new BERT (2 layers of 64) learns from the same real pairs with batches of 256, 2,048 and 19,200,
each by GradCache, each run in a process of its own with one thread: all sizes see the same pairs
once, and the smaller ones learn again with as few updates as a larger one. WORK keeps catalog,
runs and results: killed, the same command goes on. Texts are cut to 48 characters, so that a run
takes minutes. The learning rate grows with the square root of the batch, as is usual with Adam.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from benchmarks.encoding import ONE_THREAD
from benchmarks.machine import DATA, describe
from catalog.records import write_json
from mining.encoder import EncoderSettings
from trainer.engine import OptimizerSettings
from trainer.eval_paths import SetPaths
from trainer.evaluation import evaluate_model
from trainer.metrics import read_metrics
from trainer.model import ModelSettings
from trainer.new_model import NewModelSettings, make_model
from trainer.own_data import catalog_of
from trainer.run import RunPlace, train
from trainer.settings import ContrastiveTask, TrainSettings

SOURCES: Final = ("cctv_xwlb", "lifehacker_zh", "lctt", "alpaca_zh", "msgraph_zh", "laws")
SIZES: Final = (256, 2_048, 19_200)
PAIRS: Final = 76_800
LAYERS: Final = 2
WIDTH: Final = 64
MAX_CHARACTERS: Final = 48
MAX_TOKENS: Final = 16
EVAL: Final = ("cmrc2018", "csl_title_abstract")
LR: Final = 1e-3  # of the smallest batch
TEMPERATURE: Final = 0.05
BATCH_TOKENS: Final = 8_192


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("work", type=Path)
    parser.add_argument("data", type=Path, nargs="?", default=DATA)
    parser.add_argument("--pairs", type=int, default=PAIRS, help="seen by the run of every size")
    parser.add_argument("--only", type=int, nargs=2, help="batch and updates, in this process")
    chosen = parser.parse_args()
    if chosen.only is not None:
        run_one(chosen.work, chosen.data, *chosen.only, chosen.pairs)
        return
    chosen.work.mkdir(parents=True, exist_ok=True)
    found = {}
    for size, updates in ((0, 0), *runs_of(chosen.pairs)):  # 0: data and model alone
        path = result_path(chosen.work, size, updates)
        if not path.exists():
            command = [sys.executable, "-m", "benchmarks.batch_size", str(chosen.work)]
            command += [str(chosen.data), "--pairs", str(chosen.pairs)]
            command += ["--only", str(size), str(updates)]
            environment = {**os.environ, **ONE_THREAD, "OMP_NUM_THREADS": "1"}
            subprocess.run(command, env=environment, check=True, stdout=sys.stderr)
        found[size, updates] = json.loads(path.read_text(encoding="utf-8"))
        text = report(found, chosen.pairs)
        Path(__file__).with_suffix(".md").write_text(text, encoding="utf-8")
    print(text)


def runs_of(pairs: int) -> list[tuple[int, int]]:
    """Return batch and updates of each run: the same pairs first, then the same updates."""
    equal_pairs = [(size, pairs // size) for size in SIZES]
    equal_updates = [
        (smaller, updates)
        for place, (_, updates) in enumerate(equal_pairs)
        for smaller in SIZES[:place]
    ]
    return equal_pairs + equal_updates


def result_path(work: Path, size: int, updates: int) -> Path:
    return work / f"{size}-{updates}.json"


def run_one(work: Path, data: Path, size: int, updates: int, pairs: int) -> None:
    """Train with one batch size (0: make data and model), evaluate, and write what was measured."""
    catalog, snapshot = catalog_of(write_files(work, data, pairs), work / "data")
    base = work / "new-model"
    if size == 0:
        settings = NewModelSettings(LAYERS, WIDTH, vocabulary=6000, max_tokens=MAX_TOKENS)
        make_model(catalog, snapshot, base, settings)
        write_json(result_path(work, 0, 0), evaluated(base, data))
        return
    settings = TrainSettings(
        ModelSettings(str(base)), steps=updates, cached=True, log_every=1,
        checkpoint_every=updates, batch_tokens=BATCH_TOKENS,
        optimizer=OptimizerSettings(lr=LR * (size / SIZES[0]) ** 0.5),
        retrieval=ContrastiveTask(size, temperature=TEMPERATURE, hard_negatives=False),
    )  # fmt: skip
    pack = work / "pack"
    if not pack.exists():  # built before the clock runs
        place = RunPlace(work / "runs" / "pack", catalog, snapshot, pack_folder=pack)
        train(place, TrainSettings(
            ModelSettings(str(base)), steps=1, retrieval=ContrastiveTask(8, hard_negatives=False)
        ))  # fmt: skip
    place = RunPlace(work / "runs" / f"batch-{size}-{updates}", catalog, snapshot, pack_folder=pack)
    before_s = time.process_time()
    model = train(place, settings, print)
    cpu_s = time.process_time() - before_s
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    lines = read_metrics(place.folder / "metrics.jsonl")
    measured = {
        "cpu_s": cpu_s, "peak_gib": peak, "loss": lines[-1]["loss/retrieval"],
        "pairs_per_cpu_s": updates * size / cpu_s,
    }  # fmt: skip
    write_json(result_path(work, size, updates), measured | evaluated(model, data))


def write_files(work: Path, data: Path, pairs: int) -> list[Path]:
    """Write a file of pairs a source, cut to their first characters; what is there stays."""
    folder = work / "files"
    folder.mkdir(parents=True, exist_ok=True)
    each = pairs // len(SOURCES)
    paths = []
    for name in SOURCES:
        path = folder / f"{name}.parquet"
        paths.append(path)
        if path.exists():
            continue
        table = pq.read_table(data / "pairs" / f"{name}.parquet", columns=["text1", "text2"])
        table = table.take([i * len(table) // each for i in range(min(each, len(table)))])
        columns = {
            new: pc.utf8_slice_codeunits(table[old].cast(pa.string()), 0, MAX_CHARACTERS)
            for new, old in (("query", "text1"), ("positive", "text2"))
        }
        pq.write_table(pa.table(columns), path)
    return paths


def evaluated(model: Path, data: Path) -> dict[str, float]:
    sets = SetPaths(retrieval=[data / "eval" / "retrieval" / name for name in EVAL])
    results = evaluate_model(EncoderSettings(str(model)), sets)
    own = {result.set_name: result.main_score for result in results}
    return {"mean": statistics.mean(own.values()), **own}


def report(found: dict[tuple[int, int], dict[str, float]], pairs: int) -> str:
    lines = [
        "# Batch size, at equal pairs seen and at equal updates",
        "",
        "`python -m benchmarks.batch_size WORK`"
        + (f" `--pairs {pairs}`" if pairs != PAIRS else ""),
        "",
        describe(["torch", "transformers", "mteb"]) + "; one thread, machine with other work.",
        "",
        f"{pairs:,} pairs of {len(SOURCES)} sources, cut to {MAX_CHARACTERS} characters; BERT, "
        f"{LAYERS} layers of {WIDTH}, {MAX_TOKENS} tokens, from scratch; in-batch InfoNCE",
        f"(temperature {TEMPERATURE:g}) by GradCache, {BATCH_TOKENS:,} tokens at a time; lr "
        f"{LR:g} × √(batch / {SIZES[0]}). nDCG@10 on sets that were not trained on. One seed.",
        "",
        "| batch | updates | pairs seen | "
        + " | ".join(EVAL)
        + " | mean | pairs per CPU second | peak GiB |",
        "|---|---|---|" + "---|" * len(EVAL) + "---|---|---|",
    ]
    for (size, updates), values in found.items():
        scores = " | ".join(f"{values[name]:.4f}" for name in (*EVAL, "mean"))
        if size == 0:
            lines.append(f"| untrained | | | {scores} | | |")
            continue
        lines.append(
            f"| {size:,} | {updates:,} | {size * updates:,} | {scores} | "
            f"{values['pairs_per_cpu_s']:,.0f} | {values['peak_gib']:.2f} |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
