"""How many tokens a core-second does training take, beside sentence-transformers' trainer?

    python -m benchmarks.training [DATA] [STEPS]    # writes benchmarks/training.md, minutes

Both train the same folder (BERT, 6 layers of 384, random weights) on the same real pairs, in-batch
InfoNCE over equal batches, AdamW, hidden states dropped as the folder says. Lode does not drop
attention probabilities; the peer runs once without that dropout, too, and once with it, as the
folder says. Every run has a process and one thread of its own, and the engines take turns. The
first step does not count; tokens are those of the texts, not of the padding.
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
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.encoding import ONE_THREAD, make_model
from benchmarks.machine import DATA, describe
from mining.bfloat16 import cpu_computes_bfloat16

BATCH = 8
STEPS = 4
SKIPPED = 1
ROUNDS = 3
MAX_TOKENS = 256
TEMPERATURE = 0.05
PRECISIONS: Final = ("bfloat16", "float32")
ENGINES: Final = {
    "lode": "Lode",
    "peer": "sentence-transformers, attention dropout 0 as Lode",
    "peer-drops": "sentence-transformers, attention dropout 0.1 as the folder",
}
PACKAGES = ("torch", "transformers", "sentence-transformers", "accelerate")


def main() -> None:
    data = Path(sys.argv[1]) if len(sys.argv) > 1 else DATA
    steps = int(sys.argv[2]) if len(sys.argv) > 2 else STEPS
    found: dict[tuple[str, str], list[dict[str, float]]] = {
        (precision, engine): [] for precision in precisions() for engine in ENGINES
    }
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        pairs = sample(data, BATCH * steps)
        pq.write_table(pairs, work / "pairs.parquet")
        make_model(
            work / "model",
            [text for name in pairs.column_names for text in pairs[name].to_pylist()],
        )
        for _ in range(ROUNDS):
            for precision, engine in found:
                command = [sys.executable, "-m", "benchmarks.training", "--engine", engine]
                done = subprocess.run(
                    [*command, precision, str(steps), str(work)],
                    env={**os.environ, **ONE_THREAD, "OMP_NUM_THREADS": "1"},
                    check=True, stdout=subprocess.PIPE, text=True,
                )  # fmt: skip
                found[precision, engine].append(json.loads(done.stdout.splitlines()[-1]))
            # After every round: what was measured stands, should a later one be interrupted.
            text = report(found, steps)
            Path(__file__).with_suffix(".md").write_text(text, encoding="utf-8")
            print(text)


def precisions() -> tuple[str, ...]:
    """Name what this processor computes: without instructions bfloat16 takes a minute a step."""
    return PRECISIONS if cpu_computes_bfloat16() else ("float32",)


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


def run_peer(precision: str, steps: int, work: Path, *, drops: bool) -> dict[str, float]:
    import datasets
    import torch
    from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer
    from sentence_transformers import SentenceTransformerTrainingArguments as Arguments
    from sentence_transformers.losses import MultipleNegativesRankingLoss
    from transformers import TrainerCallback

    torch.set_num_threads(1)
    changed = {} if drops else {"attention_probs_dropout_prob": 0.0}
    model = SentenceTransformer(str(work / "model"), device="cpu", config_kwargs=changed)
    assert (model[0].auto_model.config.attention_probs_dropout_prob > 0) == drops
    model.max_seq_length = MAX_TOKENS
    pairs = pq.read_table(work / "pairs.parquet")
    clock = Clock()
    tokens: list[int] = []

    def count(_: object, arguments: tuple[dict[str, torch.Tensor], ...]) -> None:
        tokens[-1] += int(arguments[0]["attention_mask"].sum())

    model.register_forward_pre_hook(count)

    class Tick(TrainerCallback):
        def on_step_begin(self, *_: object, **__: object) -> None:
            tokens.append(0)
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
    return clock.result(tokens)


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
            "cpu_s": cpu_end - cpu,
            "peak_gib": peak,
        }


def report(found: dict[tuple[str, str], list[dict[str, float]]], steps: int) -> str:
    rounds = min(len(runs) for runs in found.values())
    lines = [
        "# Training, beside sentence-transformers' trainer",
        "",
        f"`python -m benchmarks.training`: BERT of 6 layers of 384 with random weights, {steps} "
        f"steps of {BATCH} real pairs (at most {MAX_TOKENS} tokens a text) of which the first "
        f"{SKIPPED} does not count, in-batch InfoNCE, AdamW, one thread. Medians of {rounds} "
        "rounds, and (least to most); the engines take turns. The machine was shared, so core-"
        f"seconds count; its load was {os.getloadavg()[0]:.1f}.",
        "",
        describe(PACKAGES),
        "",
        "| precision | engine | tokens per core-second | CPU s | tokens | peak GiB | Lode: times "
        "faster |",
        "|---|---|---|---|---|---|---|",
    ]
    for (precision, engine), runs in found.items():
        own = [run["tokens_per_cpu_s"] for run in found[precision, "lode"]]
        rates = [run["tokens_per_cpu_s"] for run in runs]
        ratios = [lode / rate for lode, rate in zip(own, rates, strict=True)]
        cpu_s, tokens, peak = (
            statistics.median(run[key] for run in runs) for key in ("cpu_s", "tokens", "peak_gib")
        )
        faster = "" if engine == "lode" else spread(ratios, ".2f")
        lines.append(
            f"| {precision} | {ENGINES[engine]} | {spread(rates, ',.0f')} | {cpu_s:.1f} | "
            f"{tokens:,.0f} | {peak:.2f} | {faster} |"
        )
    lines += [
        "",
        "Lode encodes a text that several rows share once, and counts it once; the peer counts "
        "every text. Lode's time includes plan, text lookups, tokenization and metrics. Hidden "
        "states are dropped by both as the folder says (0.1).",
    ]
    if len(precisions()) < len(PRECISIONS):
        lines += [
            "",
            "This processor has no instructions for bfloat16, so float32 alone is measured.",
        ]
    return "\n".join(lines) + "\n"


def spread(values: list[float], form: str) -> str:
    """Write the median, and the least and the most."""
    return f"{statistics.median(values):{form}} ({min(values):{form}} to {max(values):{form}})"


if __name__ == "__main__":
    if sys.argv[1:2] == ["--engine"]:
        engine, precision, steps, work = sys.argv[2:6]
        if engine == "lode":
            result = run_lode(precision, int(steps), Path(work))
        else:
            result = run_peer(precision, int(steps), Path(work), drops=engine == "peer-drops")
        print(json.dumps(result))
    else:
        main()
