"""How many passages a second does RetroMAE's collator mask, beside the published program's way?

    python -m benchmarks.retromae [DATA] [ROWS]     # writes benchmarks/retromae.md, minutes

The peer is written after the authors' example (github.com/staoxiao/RetroMAE and FlagEmbedding, MIT;
their class does not run with transformers 5): for every passage up to 256 masks of whole words are
drawn by shuffling a Python list of words, and every position takes a deep copy of one of them.
Lode draws a context for every position. Both begin with the same texts and end with padded
tensors: the encoder's input, and an L x L matrix a passage. Each way runs in a process of its own
with one thread, and they take turns.
"""

import json
import os
import random
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow.parquet as pq
import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from benchmarks.encoding import ONE_THREAD
from benchmarks.machine import DATA, describe
from trainer.masked_texts import Masker, MaskSettings

SOURCES: Final = ("cctv_xwlb", "lctt")
LENGTHS: Final = (128, 512)
ROWS: Final = 8
ROUNDS: Final = 3
CHARACTERS_MORE: Final = 64  # a text is cut here before it is tokenized
MASKS: Final = 256  # of the authors' example
SHARES: Final = (0.3, 0.5)
WAYS: Final = ("Lode", "the authors' way")
SPECIAL: Final = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


def main() -> None:
    data = Path(sys.argv[1]) if len(sys.argv) > 1 else DATA
    rows = int(sys.argv[2]) if len(sys.argv) > 2 else ROWS
    found: dict[str, list[dict[str, dict[str, float]]]] = {way: [] for way in WAYS}
    for _ in range(ROUNDS):
        for way in WAYS:
            command = [sys.executable, "-m", "benchmarks.retromae", "--way", way]
            done = subprocess.run(
                [*command, str(rows), str(data)],
                env={**os.environ, **ONE_THREAD, "OMP_NUM_THREADS": "1"},
                check=True, stdout=subprocess.PIPE, text=True,
            )  # fmt: skip
            found[way].append(json.loads(done.stdout.splitlines()[-1]))
    text = report(found, rows)
    Path(__file__).with_suffix(".md").write_text(text, encoding="utf-8")
    print(text)


def run_one(way: str, rows: int, data: Path) -> dict[int, dict[str, float]]:
    """Collate until a second of CPU has passed; return passages a CPU second and memory."""
    texts = sample(data, rows)
    tokenizer = make_tokenizer(texts)
    found = {}
    for length in LENGTHS:
        collate = {WAYS[0]: lode, WAYS[1]: authors}[way](tokenizer, length)
        cut = [text[: length + CHARACTERS_MORE] for text in texts]
        collate(cut[:1])  # compiles
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        began, done = time.process_time(), 0
        while time.process_time() - began < 1:
            tokens = collate(cut)
            done += rows
        cpu_s = time.process_time() - began
        rise = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
        found[length] = {"rate": done / cpu_s, "mib": rise / 1024, "tokens": tokens / rows}
    return found


def sample(data: Path, rows: int) -> list[str]:
    """Take long passages at equal steps through some sources."""
    texts: list[str] = []
    for name in SOURCES:
        column = pq.read_table(data / "pairs" / f"{name}.parquet", columns=["text2"])["text2"]
        long = [text for text in column.to_pylist() if text and len(text) > 600]
        half = rows // len(SOURCES)
        texts += [long[i * len(long) // half] for i in range(half)]
    return texts


def make_tokenizer(texts: list[str]) -> Any:
    """Make a Chinese BERT's tokenizer for the characters of the texts."""
    characters = sorted({sign for text in texts for sign in text.lower() if not sign.isspace()})
    pieces = [*SPECIAL, *characters, *(f"##{sign}" for sign in characters if sign.isascii())]
    tokenizer = Tokenizer(
        models.WordPiece({piece: i for i, piece in enumerate(pieces)}, unk_token="[UNK]")
    )
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    names = dict(zip(("pad", "unk", "cls", "sep", "mask"), SPECIAL, strict=True))
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, **{f"{name}_token": token for name, token in names.items()}
    )


def lode(tokenizer: Any, length: int) -> Callable[[list[str]], int]:
    masker = Masker(tokenizer, length, MaskSettings(*SHARES, "continuations"), seed=1)

    def collate(texts: list[str]) -> int:
        masked = masker.mask(texts, np.arange(len(texts)), step=0)
        torch.from_numpy(masked.texts.padded(0)[0]), torch.from_numpy(masked.visibility())
        return len(masked.seen)

    return collate


def whole_word_mask(pieces: list[str], share: float) -> list[int]:
    words: list[list[int]] = []
    for place, piece in enumerate(pieces):
        if piece in ("[CLS]", "[SEP]"):
            continue
        if words and piece.startswith("##"):
            words[-1].append(place)
        else:
            words.append([place])
    random.shuffle(words)
    wanted = min(512, max(1, round(len(pieces) * share)))
    chosen: set[int] = set()
    for word in words:
        if len(chosen) >= wanted:
            break
        if len(chosen) + len(word) <= wanted:
            chosen.update(word)
    return [int(place in chosen) for place in range(len(pieces))]


def mask_tokens(tokenizer: Any, inputs: torch.Tensor, hidden: torch.Tensor) -> None:
    masked = torch.bernoulli(torch.full(inputs.shape, 0.8)).bool() & hidden
    inputs[masked] = tokenizer.mask_token_id
    others = torch.bernoulli(torch.full(inputs.shape, 0.5)).bool() & hidden & ~masked
    inputs[others] = torch.randint(len(tokenizer), inputs.shape)[others]


def authors(tokenizer: Any, length: int) -> Callable[[list[str]], int]:
    """Return the peer: what is drawn and copied, and how often, is the authors'."""

    def collate(texts: list[str]) -> int:
        inputs, encoder_masks, matrices = [], [], []
        for text in texts:
            ids = tokenizer.encode(text, max_length=length, truncation=True)
            pieces = tokenizer.convert_ids_to_tokens(ids)
            encoder_masks.append(torch.tensor(whole_word_mask(pieces, SHARES[0])))
            count = min(len(pieces), MASKS)
            masks = [whole_word_mask(pieces, SHARES[1]) for _ in range(count)]
            rows = []
            for place in range(len(pieces)):
                row = deepcopy(masks[random.randint(0, count - 1)])
                row[place] = 1
                rows.append(row)
            matrices.append(1 - torch.tensor(rows))
            inputs.append(torch.tensor(ids))
        longest = max(map(len, inputs))
        padded = torch.zeros(len(texts), longest, dtype=torch.int64)
        hidden = torch.zeros(len(texts), longest, dtype=torch.bool)
        visible = torch.zeros(len(texts), longest, longest, dtype=torch.int64)
        for n, (ids_L, mask_L, matrix_LL) in enumerate(
            zip(inputs, encoder_masks, matrices, strict=True)
        ):
            padded[n, : len(ids_L)], hidden[n, : len(ids_L)] = ids_L, mask_L.bool()
            visible[n, : len(ids_L), : len(ids_L)] = matrix_LL
        mask_tokens(tokenizer, padded, hidden)
        return sum(map(len, inputs))

    return collate


def report(found: dict[str, list[dict[str, dict[str, float]]]], rows: int) -> str:
    lines = [
        "# RetroMAE's collator",
        "",
        "`python -m benchmarks.retromae`",
        "",
        describe(["torch", "transformers", "tokenizers"]) + "; machine with other work.",
        "",
        f"From texts to padded tensors, {rows} Chinese passages at a time, tokenizing included, "
        "one thread, passages per CPU",
        f"second; median [least, greatest] of {ROUNDS} runs. Memory: what the peak rose by after "
        "the first passage. The peer is",
        "the authors' algorithm, written for this benchmark: their class does not run with "
        "transformers 5.",
        "",
        "| greatest tokens | mean | way | passages/s | ratio | MiB |",
        "|---|---|---|---|---|---|",
    ]
    for length in LENGTHS:
        rates = {way: [run[str(length)]["rate"] for run in runs] for way, runs in found.items()}
        for way, runs in found.items():
            middle = statistics.median(rates[way])
            tokens = runs[0][str(length)]["tokens"]
            memory = statistics.median(run[str(length)]["mib"] for run in runs)
            lines.append(
                f"| {length} | {tokens:,.0f} | {way} | {middle:,.1f} [{min(rates[way]):,.1f}, "
                f"{max(rates[way]):,.1f}] | {middle / statistics.median(rates[WAYS[1]]):,.1f} | "
                f"{memory:,.1f} |"
            )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    if sys.argv[1:2] == ["--way"]:
        print(json.dumps(run_one(sys.argv[2], int(sys.argv[3]), Path(sys.argv[4]))))
    else:
        main()
