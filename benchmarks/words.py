"""How fast are the words of large lists found, and how long does their trie take to build?

    python -m benchmarks.words [DATA]      # writes benchmarks/words.md, a minute of one core

The lists are those of the data folder, up to 50,000 words of two characters and more; the texts are
passages of real pairs, normalised before, as the signals share it. Beside it: a loop of Python's
own substring search over a thousand of the words, and the automaton of ahocorasick-rs on strings,
one call a text, whose matches must be the same.
"""

import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy as np
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
Made = TypeVar("Made")
PACKAGES = ("ahocorasick-rs", "numba", "numpy")


def main() -> None:
    data = Path(sys.argv[1]) if len(sys.argv) > 1 else DATA
    raw = passages(data)
    texts = normalize(raw)
    bytes_ = len(utf8(texts)[0])
    strings = encode(texts).to_pylist()
    words = read_words(data)
    lines = [
        "# Word lists", "",
        "`python -m benchmarks.words`; target: 50 MB/s with 50,000 words.", "",
        describe(PACKAGES), "",
        f"{len(texts):,} normalised passages, {bytes_ / 1e6:.1f} MB in UTF-8; CPU seconds, "
        f"median of {ROUNDS}.", "",
        "| words | | built in s | hits | MB per core-second |",
        "|---|---|---|---|---|",
    ]  # fmt: skip
    for size in SIZES:
        chosen = words[:: max(1, len(words) // size)][:size]
        name = f"{len(chosen):,}"
        built, lists = seconds(lambda: WordLists(dict.fromkeys(chosen, 0), {w: w for w in chosen}))  # noqa: B023
        for what, work in (
            ("Lode, words anywhere", lambda: lists.find(texts)),  # noqa: B023
            ("Lode, Latin words alone only", lambda: lists.find(texts, raw)),  # noqa: B023
        ):
            lines.append(row(name, what, built, len(work()), bytes_ / measure(work)))
        built, automaton = seconds(
            lambda: AhoCorasick(chosen, matchkind=MatchKind.LeftmostLongest)  # noqa: B023
        )
        peer = lambda: [automaton.find_matches_as_indexes(text) for text in strings]  # noqa: B023, E731
        same = [(word, at) for at, found in enumerate(peer()) for word, _, _ in found]
        assert np.array_equal(lists.find(texts), np.array(same)), "the peer finds other words"
        lines.append(row(name, "ahocorasick-rs", built, len(same), bytes_ / measure(peer)))
    lines += ["", substring_search(words[:1_000], strings[:2_000]), ""]
    Path(__file__).with_suffix(".md").write_text("\n".join(lines), encoding="utf-8")
    print("\n".join(lines))


def row(words: str, name: str, built: float, hits: int, speed: float) -> str:
    return f"| {words} | {name} | {built:.2f} | {hits:,} | {speed / 1e6:.0f} |"


def substring_search(words: list[str], strings: list[str]) -> str:
    bytes_ = sum(len(text.encode()) for text in strings)
    loop = measure(lambda: [sum(word in text for word in words) for text in strings])
    return f"Python's `word in text` over 1,000 words: {bytes_ / loop / 1e6:.1f} MB/s."


def seconds(work: Callable[[], Made]) -> tuple[float, Made]:
    began = time.process_time()
    made = work()
    return time.process_time() - began, made


def passages(data: Path) -> Texts:
    found = []
    for name in SOURCES:
        column = pq.read_table(data / "pairs" / f"{name}.parquet", columns=["text2"])["text2"]
        found += column.slice(0, ROWS).to_pylist()
    return decode(pa.array(found))


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
