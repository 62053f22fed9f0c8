"""Pairs out of plain passages: a sentence, and its passage without it (inverse cloze task).

    python -m benchmarks.inverse_cloze cctv_xwlb.parquet lctt.parquet --out cloze.parquet

A sentence stays in its passage once in ten, so that equal words are learned, too (ORQA, arXiv
1906.00300). Which sentences are drawn depends on (seed, file, row) alone.
"""

import argparse
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from catalog.draws import draw

SENTENCE = re.compile(r"[^。！？!?\n]{8,80}[。！？!?]")
SHORTEST_REST = 40
KEPT_IN_PLACE = 0.1


def cloze_pairs(texts: list[str], file: int, each: int, seed: int) -> Iterator[tuple[str, str]]:
    """Yield up to ``each`` pairs of a passage."""
    for row, text in enumerate(texts):
        sentences = SENTENCE.findall(text or "")
        if len(sentences) < 3:
            continue
        drawn = draw(seed, "inverse cloze", np.array([file]), np.arange(2 * each) + 64 * row)
        for take in range(each):
            sentence = sentences[int(drawn[take] % np.uint64(len(sentences)))]
            is_kept = drawn[each + take] < np.uint64(KEPT_IN_PLACE * 2**64)
            rest = text if is_kept else text.replace(sentence, "", 1)
            if len(rest) >= SHORTEST_REST:
                start = max(0, text.index(sentence) - 60)
                yield sentence.strip(), (rest[start : start + 200]).strip()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--column", default="text2")
    parser.add_argument("--each", type=int, default=3, help="pairs a passage")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, required=True)
    chosen = parser.parse_args()
    rows = [
        pair
        for number, path in enumerate(chosen.files)
        for pair in cloze_pairs(
            [re.sub(r"<[^>]+>", "", text or "")
             for text in pq.read_table(path, columns=[chosen.column]).column(0).to_pylist()],
            number, chosen.each, chosen.seed,
        )
    ]  # fmt: skip
    queries, passages = zip(*rows, strict=True)
    pq.write_table(pa.table({"query": queries, "positive": passages}), chosen.out)
    print(f"{len(rows):,} pairs in {chosen.out}")


if __name__ == "__main__":
    main()
