"""How fast are the words of large lists found, and how long does their automaton take to build?

    python -m benchmarks.words [DATA]      # writes benchmarks/words.md, a minute of one core

The lists are those of the data folder, up to 50,000 words of two characters and more; the texts are
passages of real pairs, normalised before, as the signals share it. Beside it: a loop of Python's
own substring search over a thousand of the words, and ahocorasick-rs on strings, one call a text.
"""

import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from ahocorasick_rs import AhoCorasick, MatchKind

from benchmarks.machine import DATA, describe
from curation.signals.words import WordLists
from curation.texts import Texts, decode, encode, from_strings, normalize, utf8

SOURCES = ("lifehacker_zh", "alpaca_zh", "weibo_ced", "cctv_xwlb")
ROWS = 3_000
SIZES = (1_000, 10_000, 50_000)
ROUNDS = 5
PACKAGES = ("ahocorasick-rs", "numba", "numpy")


def main() -> None:
    data = Path(sys.argv[1]) if len(sys.argv) > 1 else DATA
    texts = passages(data)
    bytes_ = len(utf8(texts)[0])
    words = read_words(data)
    lines = [
        "# Word lists", "",
        "`python -m benchmarks.words`; target: 50 MB/s with 50,000 words.", "",
        describe(PACKAGES), "",
        f"{len(texts):,} normalised passages, {bytes_ / 1e6:.1f} MB in UTF-8; CPU seconds, "
        f"median of {ROUNDS}.", "",
        "| words | built in s | hits | MB per core-second |",
        "|---|---|---|---|",
    ]  # fmt: skip
    for size in SIZES:
        chosen = words[:: max(1, len(words) // size)][:size]
        began = time.process_time()
        lists = WordLists(dict.fromkeys(chosen, 0), {word: word for word in chosen})
        built = time.process_time() - began
        hits = len(lists.find(texts))
        seconds = measure(lambda lists=lists: lists.find(texts))
        lines.append(f"| {len(chosen):,} | {built:.2f} | {hits:,} | {bytes_ / seconds / 1e6:.0f} |")
    lines += ["", *peers(words, texts, bytes_), ""]
    Path(__file__).with_suffix(".md").write_text("\n".join(lines), encoding="utf-8")
    print("\n".join(lines))


def peers(words: list[str], texts: Texts, bytes_: int) -> list[str]:
    strings = encode(texts).to_pylist()
    automaton = AhoCorasick(words[:50_000], matchkind=MatchKind.LeftmostLongest)
    each = measure(lambda: [automaton.find_matches_as_indexes(text) for text in strings])
    few, some = words[:1_000], strings[:2_000]
    share = sum(len(text.encode()) for text in some)
    loop = measure(lambda: [sum(word in text for word in few) for text in some])
    return [
        f"ahocorasick-rs on strings, a call a text, 50,000 words: {bytes_ / each / 1e6:.0f} MB/s. "
        f"Python's `word in text` over 1,000 words: {share / loop / 1e6:.1f} MB/s."
    ]


def passages(data: Path) -> Texts:
    found = []
    for name in SOURCES:
        column = pq.read_table(data / "pairs" / f"{name}.parquet", columns=["text2"])["text2"]
        found += column.slice(0, ROWS).to_pylist()
    return normalize(decode(pa.array(found)))


def read_words(data: Path) -> list[str]:
    with tempfile.TemporaryDirectory() as folder:
        archive = data / "lexicons.tar.zst"
        subprocess.run(["tar", "--zstd", "-xf", archive, "-C", folder], check=True)
        files = sorted(Path(folder).rglob("*.txt"))
        lines = [
            line.strip().rstrip(",")
            for file in files
            for line in file.read_text(encoding="utf-8", errors="ignore").splitlines()
        ]
    keys = encode(normalize(from_strings(lines))).to_pylist()
    return list(dict.fromkeys(key for key in keys if len(key) >= 2))


def measure(work: Callable[[], object]) -> float:
    work()
    taken = []
    for _ in range(ROUNDS):
        began = time.process_time()
        work()
        taken.append(time.process_time() - began)
    return statistics.median(taken)


if __name__ == "__main__":
    main()
