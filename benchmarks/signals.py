"""How many characters a core-second get all signals, keys and band keys?

    python -m benchmarks.signals [DATA]      # writes benchmarks/signals.md, two minutes

Lode measures a systematic eighth of the real pairs (each eighth block of 2,048 rows of every file),
both sides of a pair, in one process of one thread: as shipped, and with all that a recipe can name
beside it (the word lists of the data folder, every shipped classifier, n-grams of the corpus for
fluency). The peer is a chain of stock datatrove blocks
that make the same checks on the passage alone, with FineWeb-2's settings for Chinese: language id,
Gopher repetition and quality, FineWeb quality, a regular expression, MinHash signature (14 x 8 of
word 5-grams). Each block sees each text, as each signal does. Both count CPU seconds of the work,
not of reading files.
"""

import json
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.machine import DATA, describe

if TYPE_CHECKING:
    from curation.signals import SignalSettings

BLOCK_ROWS, EVERY = 2_048, 8
BATCH_ROWS = 8_192  # as curation/measure.py has it
OURS_ROUNDS, STOCK_ROUNDS = 5, 3
STOCK_PAIRS = 600
LONG = (340, 420)  # characters of both sides: the pairs that the targets of 380 characters mean
PACKAGES = ("datatrove", "numba", "numpy", "pyarrow", "opencc", "xxhash")


def main() -> None:
    data = Path(sys.argv[1]) if len(sys.argv) > 1 else DATA
    if not (data / "pairs").is_dir():
        sys.exit(f"there is no folder {data / 'pairs'}: name the folder that holds pairs/*.parquet")
    ours, stock = (run_part(part, data) for part in ("ours", "stock"))
    text = report(ours, stock)
    Path(__file__).with_suffix(".md").write_text(text, encoding="utf-8")
    print(text)


def run_part(part: str, data: Path) -> dict:
    """Run a side in a process of its own, so that each has its own peak of memory."""
    command = [sys.executable, "-m", "benchmarks.signals", part, str(data)]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)


def sample(data: Path) -> pa.Table:
    """Take every eighth block of rows of every file."""
    blocks = []
    for path in sorted((data / "pairs").glob("*.parquet")):
        rows = pq.read_table(path, columns=["text1", "text2", "url"])
        starts = range(0, rows.num_rows, BLOCK_ROWS * EVERY)
        blocks += [rows.slice(start, BLOCK_ROWS) for start in starts]
    found = pa.concat_tables(blocks).rename_columns(["query", "positive", "url"]).combine_chunks()
    return found.add_column(0, "pair_id", pa.array(range(found.num_rows), pa.int64()))


def chars(rows: pa.Table, *columns: str) -> int:
    return sum(pa.compute.sum(pa.compute.utf8_length(rows[name])).as_py() for name in columns)


def cpu_seconds(work: Callable[[], object]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


def peak_gib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


# Lode ---------------------------------------------------------------------------------------------


def measure_ours(data: Path) -> dict:
    rows = sample(data)
    lengths = pa.compute.add(
        pa.compute.utf8_length(rows["query"]), pa.compute.utf8_length(rows["positive"])
    )
    is_long = pa.compute.and_(
        pa.compute.greater_equal(lengths, LONG[0]), pa.compute.less_equal(lengths, LONG[1])
    )
    with tempfile.TemporaryDirectory() as folder:
        shipped, whole = {}, whole_chain(data, rows, Path(folder))
        chains = (
            ("corpus", rows, shipped),
            ("long", rows.filter(is_long).combine_chunks(), shipped),
            ("whole", rows, whole),
        )
        found = {name: measure_rounds(some, chain) for name, some, chain in chains}
    return found | {"peak_gib": peak_gib()}


def whole_chain(data: Path, rows: pa.Table, folder: Path) -> dict:
    """Make settings with all that a recipe can name: word lists, classifiers, n-grams."""
    from benchmarks.words import read_words
    from curation.classifiers import shipped_classifiers
    from curation.ngrams.learn import learn_ngrams
    from curation.ngrams.model import save_ngrams
    from curation.texts import decode

    lists, ngrams = folder / "words.txt", folder / "corpus.ngrams"
    lists.write_text("\n".join(read_words(data)), encoding="utf-8")
    save_ngrams(learn_ngrams([decode(rows["positive"])]), ngrams, {})
    return {
        "word_lists": (lists,),
        "classifiers": {name.replace("-", "_"): name for name in shipped_classifiers()},
        "ngrams": {"bits": str(ngrams)},
    }


def measure_rounds(rows: pa.Table, chain: dict) -> dict:
    from curation.signals import SignalSettings

    settings = SignalSettings(**chain)
    measure(rows.slice(0, BATCH_ROWS), Counter(), settings)  # compiles, loads models, maps lists
    parts: Counter[str] = Counter()
    rounds = [cpu_seconds(lambda: measure(rows, parts, settings)) for _ in range(OURS_ROUNDS)]
    return {
        "pairs": rows.num_rows,
        "chars": chars(rows, "query", "positive"),
        "rounds": rounds,
        "parts": {part: seconds / OURS_ROUNDS for part, seconds in parts.most_common()},
    }


def measure(rows: pa.Table, parts: Counter[str], settings: "SignalSettings") -> None:
    """Make everything that curation makes of pairs, and add up what each part takes."""
    from curation.minhash import MinHashSettings, band_keys
    from curation.signals import PairBatch, compute, families_of
    from curation.signals.registry import registry_names
    from curation.texts import pair_keys, text_keys

    def took(part: str, work: Callable[[], object]) -> None:
        parts[part] += cpu_seconds(work)

    families = families_of(settings)
    for start in range(0, rows.num_rows, BATCH_ROWS):
        batch = PairBatch(rows.slice(start, BATCH_ROWS))
        took("decode", lambda: (batch.query, batch.passage))  # noqa: B023
        took("normalize", lambda: (batch.normalized_query, batch.normalized_passage))  # noqa: B023
        sides = (batch.normalized_query, batch.normalized_passage)
        took("keys", lambda: pair_keys(*map(text_keys, sides)))  # noqa: B023
        took("band keys", lambda: band_keys(sides[1], MinHashSettings()))  # noqa: B023
        for family in families:
            names = registry_names([family])
            took(family.name, lambda: compute(batch, names, settings, [family]))  # noqa: B023


# datatrove ----------------------------------------------------------------------------------------


def measure_stock(data: Path) -> dict:
    from datatrove.data import Document

    rows = sample(data)
    step = rows.num_rows // STOCK_PAIRS
    chosen = rows.take(list(range(0, STOCK_PAIRS * step, step)))
    texts = [text for text in chosen["positive"].to_pylist() if text.strip()]
    blocks = dict(stock_blocks())
    documents = [Document(text, str(number)) for number, text in enumerate(texts)]
    for block in blocks.values():  # loads models and dictionaries
        block(documents[0])
    rounds, parts = [], Counter()
    for _ in range(STOCK_ROUNDS):
        start = time.process_time()
        for name, block in blocks.items():
            parts[name] += cpu_seconds(lambda: list(map(block, documents)))  # noqa: B023
        rounds.append(time.process_time() - start)
    return {
        "pairs": len(texts),
        "chars": sum(map(len, texts)),
        "rounds": rounds,
        "parts": {part: seconds / STOCK_ROUNDS for part, seconds in parts.most_common()},
        "peak_gib": peak_gib(),
    }


def stock_blocks() -> Iterator[tuple[str, Callable[[object], object]]]:
    """Make the stock chain; FineWeb-2's thresholds for cmn_Hani where they are published."""
    from datatrove.pipeline.dedup.minhash import MinhashConfig, MinhashDedupSignature
    from datatrove.pipeline.filters import (
        FineWebQualityFilter,
        GopherQualityFilter,
        GopherRepetitionFilter,
        LambdaFilter,
        LanguageFilter,
    )
    from datatrove.utils.hashing import HashConfig
    from fasttext.FastText import _FastText

    from curation.signals.language_model import bundled_model

    language = LanguageFilter(["zh"], language_threshold=0.692)
    language.model._model = _FastText(str(bundled_model()))  # its own would be downloaded
    yield "LanguageFilter", language.filter
    repetition = GopherRepetitionFilter(
        dup_line_frac=0.287,
        top_n_grams=((2, 0.256), (3, 0.201), (4, 0.171)),
        dup_n_grams=((5, 0.198), (6, 0.182), (7, 0.167), (8, 0.154), (9, 0.14), (10, 0.127)),
        language="cmn_Hani",
    )
    yield "GopherRepetitionFilter", repetition.filter
    fineweb = FineWebQualityFilter(
        short_line_thr=999, char_duplicates_ratio=0.1, new_line_ratio=0.178, language="cmn_Hani"
    )
    yield "FineWebQualityFilter", fineweb.filter
    quality = GopherQualityFilter(
        min_avg_word_length=1, min_stop_words=0, stop_words=[], language="cmn_Hani"
    )
    yield "GopherQualityFilter", quality.filter
    marks = re.compile(
        r"https?://|www\.|[\w.]+@[\w.]+|1[3-9]\d{9}|QQ|微信|展开全文|<[a-z/][^>]*>|&\w+;"
    )
    yield "a regular expression", LambdaFilter(lambda d: not marks.search(d.text)).filter
    config = MinhashConfig(
        hash_config=HashConfig(precision=64), num_buckets=14, hashes_per_bucket=8
    )
    minhash = MinhashDedupSignature("memory://signatures", config, language="cmn_Hani")

    def signature(document: object) -> object:
        shingles = minhash.get_shingles(document.text)
        return minhash.get_signature(shingles) if len(shingles) else None

    yield "MinhashDedupSignature", signature


# Report -------------------------------------------------------------------------------------------


def report(ours: dict, stock: dict) -> str:
    corpus, long, whole = ours["corpus"], ours["long"], ours["whole"]
    ratio = rate(corpus, "pairs") / rate(stock, "pairs")
    by_chars = rate(corpus, "chars") / rate(stock, "chars")
    lines = [
        "# All signals, keys and band keys",
        "",
        "`python -m benchmarks.signals`; targets: 2.3M characters per core-second, which is 15,000",
        "pairs of the corpus or 6,000 of 380 characters, and 40 times a stock datatrove chain;",
        "1.5M with all that a recipe can name beside (the whole chain: 48,000 words, every shipped",
        "classifier, n-grams of the corpus).",
        "",
        describe(PACKAGES),
        "",
        "| | pairs | characters a pair | min s | median s | max s | pairs per core-s "
        "| characters per core-s | peak GiB |",
        "|---|---|---|---|---|---|---|---|---|",
        row("Lode, an eighth of the corpus", corpus, ours["peak_gib"]),
        row(f"Lode, pairs of {LONG[0]} to {LONG[1]} characters", long, ours["peak_gib"]),
        row("Lode's whole chain, an eighth of the corpus", whole, ours["peak_gib"]),
        row("datatrove, passages only", stock, stock["peak_gib"]),
        "",
        f"Per core-second Lode measures **{ratio:.0f} times** the pairs, both sides, of which",
        f"datatrove checks one side, and {by_chars:.0f} times the characters.",
        "",
        *part_lines("Lode", corpus),
        "",
        *part_lines("Lode's whole chain", whole),
        "",
        *part_lines("datatrove", stock),
        "",
    ]
    return "\n".join(lines)


def rate(found: dict, unit: str) -> float:
    return found[unit] / statistics.median(found["rounds"])


def row(name: str, found: dict, peak: float) -> str:
    rounds = sorted(found["rounds"])
    cells = [
        name,
        f"{found['pairs']:,}",
        f"{found['chars'] / found['pairs']:.0f}",
        *(f"{seconds:.2f}" for seconds in (rounds[0], statistics.median(rounds), rounds[-1])),
        f"{rate(found, 'pairs'):,.0f}",
        f"{rate(found, 'chars') / 1e6:.3g}M",
        f"{peak:.2f}",
    ]
    return f"| {' | '.join(cells)} |"


def part_lines(name: str, found: dict) -> list[str]:
    rows = [
        f"| {part} | {seconds / found['pairs'] * 1e6:,.2f} |"
        for part, seconds in found["parts"].items()
    ]
    return [f"| {name}: part | µs a pair |", "|---|---|", *rows]


if __name__ == "__main__":
    if sys.argv[1:2] == ["ours"]:
        print(json.dumps(measure_ours(Path(sys.argv[2]))))
    elif sys.argv[1:2] == ["stock"]:
        print(json.dumps(measure_stock(Path(sys.argv[2]))))
    else:
        main()
