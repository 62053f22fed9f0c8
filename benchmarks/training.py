"""How many tokens a core-second does training take, beside sentence-transformers' trainer?

    python -m benchmarks.training [DATA] [STEPS]    # writes benchmarks/training.md, seven minutes

Both train the same folder (BERT, 6 layers of 384, random weights) on the same real pairs, in-batch
InfoNCE over batches of 32, AdamW, dropout as the folder says. Every engine has a process and one
thread of its own. The first steps (imports, compilation) do not count; tokens are those of the
texts, not of the padding.
"""

import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.encoding import ENGINES, ONE_THREAD, make_model
from benchmarks.machine import DATA, describe

BATCH = 32
STEPS = 8
SKIPPED = 3
ROUNDS = 1
MAX_TOKENS = 256
TEMPERATURE = 0.05
PACKAGES = ("torch", "transformers", "sentence-transformers", "accelerate")


def main() -> None:
    data = Path(sys.argv[1]) if len(sys.argv) > 1 else DATA
    steps = int(sys.argv[2]) if len(sys.argv) > 2 else STEPS
    found: dict[str, list[dict[str, float]]] = {name: [] for name in ENGINES}
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        pairs = sample(data, BATCH * steps)
        pq.write_table(pairs, work / "pairs.parquet")
        make_model(
            work / "model",
            [text for name in pairs.column_names for text in pairs[name].to_pylist()],
        )
        for _ in range(ROUNDS):
            for name, (engine, precision) in ENGINES.items():
                command = [sys.executable, "-m", "benchmarks.training", "--engine", engine]
                done = subprocess.run(
                    [*command, precision, str(steps), str(work)],
                    env={**os.environ, **ONE_THREAD, "OMP_NUM_THREADS": "1"},
                    check=True, capture_output=True, text=True,
                )  # fmt: skip
                found[name].append(json.loads(done.stdout.splitlines()[-1]))
    text = report(found, steps)
    Path(__file__).with_suffix(".md").write_text(text, encoding="utf-8")
    print(text)


def sample(data: Path, count: int) -> pa.Table:
    """Take pairs of titles and passages at equal steps through some sources of real lengths."""
    names = ("cctv_xwlb", "lifehacker_zh", "lctt", "msgraph_zh", "laws", "alpaca_zh")
    files = [data / "pairs" / f"{name}.parquet" for name in names]
    tables = [pq.read_table(file, columns=["text1", "text2"]) for file in files if file.exists()]
    if not tables:
        sys.exit(
            f"there are no pairs in {data / 'pairs'}: name the folder that holds pairs/*.parquet"
        )
    pairs = pa.concat_tables(tables)
    filled = [
        pa.compute.greater(pa.compute.utf8_length(pairs[name]), 1) for name in ("text1", "text2")
    ]
    pairs = pairs.filter(pa.compute.and_(*filled))
    pairs = pairs.take([i * len(pairs) // count for i in range(count)])
    return pairs.rename_columns(["query", "positive"])


def run_lode(precision: str, steps: int, work: Path) -> dict[str, float]:
    from catalog.executors import ExecutorSettings
    from catalog.lake import Catalog
    from catalog.policies import Policy
    from catalog.policy_commit import commit_policy
    from catalog.snapshots import create_snapshot, load_snapshot
    from curation.ingest import find_sources, ingest_files
    from trainer.model import ModelSettings
    from trainer.run import RunPlace, Session
    from trainer.settings import ContrastiveTask, TrainSettings

    with tempfile.TemporaryDirectory(dir=work) as folder:
        catalog = Catalog.create(f"{folder}/corpus")
        sources = find_sources([str(work / "pairs.parquet")])
        ingest_files(catalog, sources, executor=ExecutorSettings(1))
        commit_policy(catalog, Policy("all", ()))
        create_snapshot(catalog, "v1")
        settings = TrainSettings(
            ModelSettings(str(work / "model"), max_tokens=MAX_TOKENS),
            steps=steps, precision=precision, log_every=1, checkpoint_every=steps,
            retrieval=ContrastiveTask(BATCH, temperature=TEMPERATURE, hard_negatives=False),
        )  # fmt: skip
        place = RunPlace(Path(folder) / "run", catalog, load_snapshot(catalog, "v1"))
        clock = Clock()
        session = Session.open(
            place, settings, lambda line: clock.tick() if "step" in line else None
        )
        counted = count_tokens(session.maker.make, steps)
        clock.tick()
        session.run()
        return clock.result(counted)


def count_tokens(make: Any, steps: int) -> list[int]:
    """Count the tokens of each step's texts, every text once."""
    return [len(make(step).texts.tokens) for step in range(steps)]


def run_peer(precision: str, steps: int, work: Path) -> dict[str, float]:
    import datasets
    import torch
    from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer
    from sentence_transformers import SentenceTransformerTrainingArguments as Arguments
    from sentence_transformers.losses import MultipleNegativesRankingLoss
    from transformers import TrainerCallback

    torch.set_num_threads(1)
    model = SentenceTransformer(str(work / "model"), device="cpu")
    model.max_seq_length = MAX_TOKENS
    pairs = pq.read_table(work / "pairs.parquet")
    clock = Clock()

    class Tick(TrainerCallback):
        def on_step_begin(self, *_: object, **__: object) -> None:
            if not clock.times:
                clock.tick()

        def on_step_end(self, *_: object, **__: object) -> None:
            clock.tick()

    trainer = SentenceTransformerTrainer(
        model=model,
        args=Arguments(
            output_dir=str(work / "peer"), max_steps=steps, per_device_train_batch_size=BATCH,
            bf16=precision == "bfloat16", use_cpu=True, learning_rate=1e-5, save_strategy="no",
            report_to=[], disable_tqdm=True, logging_strategy="no", dataloader_num_workers=0,
        ),
        train_dataset=datasets.Dataset(pairs),
        loss=MultipleNegativesRankingLoss(model, scale=1 / TEMPERATURE),
        callbacks=[Tick()],
    )  # fmt: skip
    trainer.train()
    texts = [pairs[name].to_pylist() for name in ("query", "positive")]
    tokens = sum(
        len(ids)
        for column in texts
        for ids in model.tokenizer(column, truncation=True, max_length=MAX_TOKENS)["input_ids"]
    )
    return clock.result([tokens // steps] * steps)


class Clock:
    """CPU and wall seconds at every step."""

    def __init__(self) -> None:
        self.times: list[tuple[float, float]] = []

    def tick(self) -> None:
        self.times.append((time.process_time(), time.perf_counter()))

    def result(self, tokens: list[int]) -> dict[str, float]:
        (cpu, wall), (cpu_end, wall_end) = self.times[SKIPPED], self.times[-1]
        counted = sum(tokens[SKIPPED : len(self.times) - 1])
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        return {
            "tokens_per_cpu_s": counted / (cpu_end - cpu),
            "tokens_per_s": counted / (wall_end - wall),
            "tokens": counted,
            "peak_gib": peak,
        }


def report(found: dict[str, list[dict[str, float]]], steps: int) -> str:
    lines = [
        "# Training, beside sentence-transformers' trainer",
        "",
        f"`python -m benchmarks.training`: {steps} steps of {BATCH} real pairs, at most "
        f"{MAX_TOKENS} tokens a text, one thread; "
        f"medians of {ROUNDS} rounds, steps {SKIPPED} and later.",
        "",
        describe(PACKAGES),
        "",
        "| engine | tokens per core-second | per wall second | peak GiB | against its peer |",
        "|---|---|---|---|---|",
    ]
    medians = {
        name: {key: statistics.median(one[key] for one in runs) for key in runs[0]}
        for name, runs in found.items()
    }
    for name, values in medians.items():
        peer = medians[name.replace("Lode", "sentence-transformers")]
        ratio = values["tokens_per_cpu_s"] / peer["tokens_per_cpu_s"]
        lines.append(
            f"| {name} | {values['tokens_per_cpu_s']:,.0f} | {values['tokens_per_s']:,.0f} | "
            f"{values['peak_gib']:.2f} | {ratio:.2f}× |"
        )
    lines += [
        "",
        "Lode encodes a text that several rows share once, and counts it once; the peer counts "
        "every text. Lode's time includes plan, text lookups, tokenization and metrics.",
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    if sys.argv[1:2] == ["--engine"]:
        engine, precision, steps, work = sys.argv[2:6]
        run = run_lode if engine == "lode" else run_peer
        print(json.dumps(run(precision, int(steps), Path(work))))
    else:
        main()
