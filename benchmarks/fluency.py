"""Do bits per character tell corrupted texts from clean ones, and how fast are they measured?

    python -m benchmarks.fluency [DATA]      # writes benchmarks/fluency.md, a minute of one core

The model learns from every other passage of five sources; the others are held out, clean and
corrupted in seven ways, and FCGEC's sentences with and without a grammatical error. The baseline is
the same model without its bigrams and trigrams: how rare the characters are by themselves.
"""

import statistics
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from sklearn.metrics import roc_auc_score

from benchmarks.machine import DATA, describe
from curation.ngrams.learn import learn_ngrams
from curation.ngrams.model import NgramModel
from curation.ngrams.settings import NgramSettings
from curation.texts import Texts, decode, from_strings
from tests.corrupted_texts import CORRUPTIONS

SOURCES = ("cctv_xwlb", "lctt", "lifehacker_zh", "alpaca_zh", "msgraph_zh")
ROWS = 12_000  # of each source
CHARS = (40, 400)
HELD_OUT = 2_000
ROUNDS = 5
PACKAGES = ("numba", "numpy", "scikit-learn")


def main() -> None:
    data = Path(sys.argv[1]) if len(sys.argv) > 1 else DATA
    learned, held_out = passages(data)
    began = time.process_time()
    model = learn_ngrams([learned], NgramSettings(max_chars=1 << 40))
    learning_s = time.process_time() - began
    alone = replace(
        model, keys=model.keys[:0], values=model.values[:0], backoffs=model.backoffs[:0],
        unigram_backoffs=np.zeros_like(model.unigram_backoffs),
    )  # fmt: skip
    rng = np.random.default_rng(0)
    clean = [held_out[i] for i in rng.permutation(len(held_out))[:HELD_OUT]]
    lines = [
        "# Fluency without labels", "",
        "`python -m benchmarks.fluency`; target: 1.5M characters per core-second.", "",
        describe(PACKAGES), "",
        f"Learned from {len(learned.codepoints):,} characters in {len(learned):,} passages of "
        f"{len(SOURCES)} sources: {len(model.keys):,} n-grams in {learning_s:.1f} CPU s. Scored "
        f"are {len(clean):,} others, of {CHARS[0]} to {CHARS[1]} characters; clean ones have few "
        "bits because some sources are templated.", "",
        "| held-out passages | mean bits | AUC against clean | AUC of single characters |",
        "|---|---|---|---|",
        f"| clean | {bits(model, clean).mean():.2f} | | |",
    ]  # fmt: skip
    for name, corrupt in CORRUPTIONS.items():
        worse = [corrupt(text, rng) for text in clean]
        lines.append(row(f"{name}: {corrupt.__doc__}", model, alone, clean, worse))
    good, bad = fcgec(data)
    lines.append(row("FCGEC: a grammatical error", model, alone, good, bad))
    lines += ["", *speed(model, from_strings(held_out)), ""]
    Path(__file__).with_suffix(".md").write_text("\n".join(lines), encoding="utf-8")
    print("\n".join(lines))


def passages(data: Path) -> tuple[Texts, list[str]]:
    """Return what is learned, and what is held out."""
    learned, held_out = [], []
    for name in SOURCES:
        column = pq.read_table(data / "pairs" / f"{name}.parquet", columns=["text2"])["text2"]
        texts = list(dict.fromkeys(column.slice(0, ROWS).to_pylist()))
        learned += texts[::2]
        held_out += [text for text in texts[1::2] if CHARS[0] <= len(text) <= CHARS[1]]
    return decode(pa.array(learned)), held_out


def fcgec(data: Path) -> tuple[list[str], list[str]]:
    table = pq.read_table(data / "labels" / "fluency_fcgec_valid.parquet")
    rows = list(zip(table["text"].to_pylist(), table["error_flag"].to_pylist(), strict=True))
    return [text for text, flag in rows if not flag], [text for text, flag in rows if flag]


def bits(model: NgramModel, texts: list[str]) -> np.ndarray:
    return model.bits(from_strings(texts))


def row(name: str, model: NgramModel, alone: NgramModel, clean: list[str], worse: list[str]) -> str:
    labels = [0] * len(clean) + [1] * len(worse)
    areas = [roc_auc_score(labels, bits(one, clean + worse)) for one in (model, alone)]
    mean = bits(model, worse).mean()
    return f"| {name} | {mean:.2f} | {areas[0]:.3f} | {areas[1]:.3f} |"


def speed(model: NgramModel, texts: Texts) -> list[str]:
    model.bits(texts)
    taken = []
    for _ in range(ROUNDS):
        began = time.process_time()
        model.bits(texts)
        taken.append(time.process_time() - began)
    chars = len(texts.codepoints)
    return [
        f"Speed: {chars:,} characters in {statistics.median(taken):.3f} CPU s, median of {ROUNDS}: "
        f"{chars / statistics.median(taken) / 1e6:.1f}M characters per core-second."
    ]


if __name__ == "__main__":
    main()
