"""What do dynamic negatives and cross-task batch balance bring? A small model, three seeds.

    python -m benchmarks.ablation WORK [DATA]       # writes benchmarks/ablation.md; resumable

WORK keeps catalog, runs and results: killed, the same command goes on. All variants begin with one
model (2 layers of 128, trained in-batch from scratch), take the same candidates, mined by it, and
the same numbers of rows of each task; seeds change order and dropout. One pair in eight is trained
on, several times, so that the rules can fire; the passages of the others are candidates. Sources
whose sentences stand in the evaluation sets are not trained on.
"""

import argparse
import json
import statistics
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Final

import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.machine import DATA, describe
from catalog.executors import ExecutorSettings
from catalog.lake import Catalog, scalar
from catalog.policies import Policy
from catalog.policy_commit import commit_policy
from catalog.records import write_json
from catalog.snapshots import Snapshot, create_snapshot, load_snapshot
from curation.deduplicate import deduplicate
from curation.duplicates import DuplicateSettings
from curation.ingest import find_sources, ingest_files
from curation.measure import MeasureSettings, measure
from curation.signals import SignalSettings
from mining.embed import embed
from mining.encoder import SIDES, EncoderSettings
from mining.mine import mine
from mining.mine_settings import MineSettings
from trainer.engine import OptimizerSettings
from trainer.eval_paths import SetPaths
from trainer.evaluation import evaluate_model
from trainer.model import ModelSettings
from trainer.negative_rules import NegativeSettings
from trainer.new_model import NewModelSettings, make_model
from trainer.own_data import catalog_of
from trainer.run import RunPlace, train
from trainer.settings import ContrastiveTask, CosentTask, TrainSettings

ALONE: Final = ExecutorSettings(workers=1)
RETRIEVAL: Final = ("cctv_xwlb", "lifehacker_zh", "lctt", "alpaca_zh", "msgraph_zh")
PAIRS_OF_EACH: Final = 1200
PAIR_EVERY: Final = 8
# Of misc_pairs: sources with labels that are in no evaluation set below.
STS: Final = ("oppo_xiaobu", "snli_zh", "mnli_zh", "ocnli")
MAX_STS: Final = 2400
EVAL_RETRIEVAL: Final = ("cmrc2018", "csl_title_abstract")
EVAL_STS: Final = ("STSB_zh.test", "STSB_zh.dev", "PAWSX_zh.test")
SEEDS: Final = (1, 2, 3)
STEPS: Final = 150
CHECK: Final = 10
VARIANTS: Final = ("static", "v1", "v2", "rescored", "static, one task an update")
MAX_TOKENS: Final = 48
NUM_NEGATIVES: Final = 4


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("work", type=Path)
    parser.add_argument("data", type=Path, nargs="?", default=DATA)
    parser.add_argument("--steps", type=int, default=STEPS)
    chosen = parser.parse_args()
    chosen.work.mkdir(parents=True, exist_ok=True)
    catalog, snapshot = prepare(chosen.work, chosen.data)
    base = train_base(chosen.work, chosen.data)
    mined = mine_with(catalog, snapshot, base)
    found: dict[str, list[dict[str, float]]] = {name: [] for name in VARIANTS}
    base_result = evaluated(chosen.work / "base.json", base, chosen.data)
    for seed in SEEDS:
        for name in VARIANTS:
            run = f"{name.replace(', ', '-').replace(' ', '-')}-{seed}"
            place = RunPlace(chosen.work / "runs" / run, catalog, snapshot, mined)
            model = train(place, settings_of(name, base, seed, chosen.steps), print)
            path = chosen.work / f"{run}.json"
            found[name].append(evaluated(path, model, chosen.data) | events(catalog, run))
            print(run, found[name][-1], flush=True)
    text = report(base_result, found, snapshot, chosen.steps)
    Path(__file__).with_suffix(".md").write_text(text, encoding="utf-8")
    print(text)


def prepare(work: Path, data: Path) -> tuple[Catalog, Snapshot]:
    """Write the files, ingest them and find duplicates; what is there stays."""
    catalog = Catalog.create(str(work / "corpus"))
    with catalog.reader() as connection:
        if scalar(connection, "select count(*) from snapshots"):
            return catalog, load_snapshot(catalog, "v1")
    for path in write_files(work, data):
        table = pq.read_table(path)
        if "score" not in table.column_names:
            is_pair = pa.array([i % PAIR_EVERY == 0 for i in range(len(table))])
            query = pa.compute.if_else(is_pair, table["query"], pa.scalar(None, pa.string()))
            table = table.set_column(0, "query", query)
        few = work / "few" / path.name
        few.parent.mkdir(exist_ok=True)
        pq.write_table(table, few)
        task = "sts" if "score" in table.column_names else "retrieval"
        ingest_files(catalog, find_sources([str(few)], sets=[f"task={task}"]), executor=ALONE)
    duplicates = DuplicateSettings()
    measuring = MeasureSettings(SignalSettings(), duplicates.minhash, duplicates.text)
    measure(catalog, measuring, ALONE)
    deduplicate(catalog, duplicates, ALONE)
    commit_policy(catalog, Policy("all", ()))
    return catalog, create_snapshot(catalog, "v1")


def write_files(work: Path, data: Path) -> list[Path]:
    """Write a file of pairs a source, and one of graded pairs."""
    paths = []
    for name in RETRIEVAL:
        table = pq.read_table(data / "pairs" / f"{name}.parquet", columns=["text1", "text2"])
        table = table.take([i * len(table) // PAIRS_OF_EACH for i in range(PAIRS_OF_EACH)])
        paths.append(work / f"{name}.parquet")
        pq.write_table(table.rename_columns(["query", "positive"]), paths[-1])
    paths.append(work / "graded.parquet")
    pq.write_table(graded(data), paths[-1])
    return paths


def graded(data: Path, max_rows: int = MAX_STS) -> pa.Table:
    """Return labelled pairs of the sources that leak into no evaluation set."""
    table = pq.read_table(data / "pairs" / "misc_pairs.parquet")
    rows = [
        (one, two, float(label))
        for one, two, source, meta in zip(
            *(table[name].to_pylist() for name in ("text1", "text2", "source", "meta")), strict=True
        )
        if source in STS
        for label in _grade(json.loads(meta or "{}").get("label"))
    ]
    step = max(1, len(rows) // max_rows)
    columns = zip(*rows[::step], strict=True)
    names = ("sentence1", "sentence2", "score")
    return pa.table(dict(zip(names, map(list, columns), strict=True)))


def _grade(label: object) -> Iterator[float]:
    """Yield a grade of similarity: paraphrase or entailment is 1, neutral 0.5, the opposite 0."""
    names = {"entailment": 1.0, "neutral": 0.5, "contradiction": 0.0}
    if isinstance(label, str) and label in names:
        yield names[label]
    elif str(label) in ("0", "1"):
        yield float(str(label))


def train_base(work: Path, data: Path) -> Path:
    """Make a model and train it in-batch on all the pairs: what all variants begin with."""
    out = work / "runs" / "base"
    catalog, snapshot = catalog_of(write_files(work, data), out)
    folder = work / "new-model"
    if not folder.exists():
        settings = NewModelSettings(2, 128, vocabulary=6000, max_tokens=MAX_TOKENS)
        make_model(catalog, snapshot, folder, settings)
    settings = TrainSettings(
        ModelSettings(str(folder)), steps=300, log_every=50, checkpoint_every=100,
        optimizer=OptimizerSettings(lr=1e-3),
        retrieval=ContrastiveTask(64, temperature=0.05, hard_negatives=False),
        sts=CosentTask(32),
    )  # fmt: skip
    return train(RunPlace(out, catalog, snapshot), settings, print)


def mine_with(catalog: Catalog, snapshot: Snapshot, model: Path) -> str:
    encoder = EncoderSettings(str(model), name="ablation-base")
    for side in SIDES:
        embed(catalog, snapshot, encoder, side, ALONE)
    mined = mine(catalog, snapshot, MineSettings(depth=100), encoder, ALONE)
    print(mined.summary())
    return mined.run


def settings_of(name: str, base: Path, seed: int, steps: int) -> TrainSettings:
    """Return a variant's settings: 16 queries with hard negatives, and 16 graded pairs."""
    rule = name.partition(",")[0]
    negatives = NegativeSettings.published(rule, NUM_NEGATIVES)  # type: ignore[arg-type]
    if rule != "v2":
        negatives = replace(negatives, check_every_steps=CHECK)
    is_single = name.endswith("update")
    return TrainSettings(
        ModelSettings(str(base)), seed=seed, steps=steps * (2 if is_single else 1),
        tasks_per_update="one" if is_single else "all", log_every=100, checkpoint_every=steps * 2,
        optimizer=OptimizerSettings(lr=2e-4), negatives=negatives,
        retrieval=ContrastiveTask(16, temperature=0.05), sts=CosentTask(16),
    )  # fmt: skip


def evaluated(path: Path, model: Path, data: Path) -> dict[str, float]:
    """Return the mean nDCG@10 and the mean Spearman correlation of a model; measured once."""
    if not path.exists():
        sets = data / "eval"
        results = evaluate_model(
            EncoderSettings(str(model)),
            SetPaths(
                [sets / "sts" / f"{name}.parquet" for name in EVAL_STS],
                [sets / "retrieval" / name for name in EVAL_RETRIEVAL],
            ),
        )
        means = {
            kind: statistics.mean(r.main_score for r in results if r.kind == kind)
            for kind in {result.kind for result in results}
        }
        own = {result.set_name: result.main_score for result in results}
        write_json(path, {"retrieval": means["Retrieval"], "sts": means["STS"]} | own)
    values: dict[str, float] = json.loads(path.read_text(encoding="utf-8"))
    return values


def events(catalog: Catalog, run: str) -> dict[str, float]:
    with catalog.reader() as connection:
        rows = connection.execute(
            "select reason, count(distinct query_id) from train_events where run = ? group by 1",
            [run],
        ).fetchall()
    return {f"queries {reason}": float(count) for reason, count in rows}


def report(
    base: dict[str, float], found: dict[str, list[dict[str, float]]], snapshot: Snapshot, steps: int
) -> str:
    lines = [
        "# Ablation: dynamic negatives and cross-task batch balance",
        "",
        "`python -m benchmarks.ablation WORK`",
        "",
        describe(["torch", "transformers", "mteb"]),
        "",
        f"{snapshot.kept:,} pairs; BERT, 2 layers of 128, {MAX_TOKENS} tokens, from scratch; "
        f"{steps} updates of 16 queries with {NUM_NEGATIVES} hard",
        f"negatives and 16 graded pairs (one task an update: twice as many updates, as many rows); "
        f"seeds {', '.join(map(str, SEEDS))};",
        f"checks every {CHECK} steps (v2: every step). nDCG@10 is the mean of "
        f"{', '.join(EVAL_RETRIEVAL)}; Spearman that of",
        f"{', '.join(EVAL_STS)}. Mean over the seeds ± standard deviation, and the seeds.",
        "",
        "| variant | nDCG@10 | | Spearman | | queries replaced | exhausted |",
        "|---|---|---|---|---|---|---|",
        f"| before fine-tuning | {base['retrieval']:.4f} | | {base['sts']:.4f} | | | |",
    ]
    for name, results in found.items():
        cells = []
        for key in ("retrieval", "sts"):
            values = [result[key] for result in results]
            spread = statistics.stdev(values) if len(values) > 1 else 0.0
            cells.append(f"{statistics.mean(values):.4f} ± {spread:.4f}")
            cells.append(" ".join(f"{value:.4f}" for value in values))
        for reason in ("replaced", "exhausted"):
            counts = [result.get(f"queries {reason}", 0.0) for result in results]
            cells.append(f"{statistics.mean(counts):,.0f}")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
