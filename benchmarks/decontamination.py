"""What of all evaluation sets stands in the whole corpus of real pairs, and what does finding cost?

    python -m benchmarks.decontamination FOLDER [DATA]    # writes benchmarks/decontamination.md

Ingests every pair into FOLDER, which must not exist yet, and runs `lode decontaminate` with every
evaluation set on one worker. The peer is the plainest check there is: a Python set of all texts of
the pairs, each evaluation text looked up as it is written. Whatever that finds must be found.
"""

import resource
import sys
import time
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

import pyarrow.parquet as pq

from benchmarks.machine import DATA, describe
from benchmarks.whole_corpus import MAPPING, run
from catalog.evaluation_sets import EvaluationSet, read_evaluation_sets
from catalog.lake import Catalog

NEAR = 0.8  # as the policy that the command proposes has it


def main() -> None:
    folder = Path(sys.argv[1])
    data = Path(sys.argv[2]) if len(sys.argv) > 2 else DATA
    if folder.exists():
        sys.exit(f"{folder} exists; name a folder that does not")
    lode, at = [sys.executable, "-m", "lode"], ["--catalog", str(folder), "--workers", "1"]
    run([*lode, "init", str(folder)])
    run([*lode, "ingest", str(data / "pairs" / "*.parquet"), *MAPPING, *at])
    before = children_cpu_s()
    wall_s, peak = run([*lode, "decontaminate", str(data / "eval"), *at])
    cpu_s = children_cpu_s() - before
    began = time.process_time()
    texts = corpus_texts(data)
    plain_s = time.process_time() - began
    text = report(folder, read_evaluation_sets([data / "eval"]), texts, (cpu_s, wall_s, peak))
    text += (
        f"\nThe plain look-up: {plain_s:.0f} CPU seconds to make its set, all of it in memory.\n"
    )
    Path(__file__).with_suffix(".md").write_text(text, encoding="utf-8")
    print(text)


def children_cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def corpus_texts(data: Path) -> set[str]:
    texts: set[str] = set()
    for path in sorted((data / "pairs").glob("*.parquet")):
        for column in pq.read_table(path, columns=["text1", "text2"]).columns:
            texts.update(text for text in column.to_pylist() if text)
    return texts


def report(
    folder: Path, sets: list[EvaluationSet], texts: set[str], cost: tuple[float, float, float]
) -> str:
    pairs, exact, near = found_places(folder)
    size = sum(len(one.texts) for one in sets)
    lines = [
        "# Decontamination of the whole corpus",
        "",
        "`python -m benchmarks.decontamination FOLDER`; target: every text of an evaluation set",
        "that stands in a pair is found.",
        "",
        describe(("duckdb", "numba", "numpy", "pyarrow")),
        "",
        f"`lode decontaminate` of {pairs:,} pairs against {len(sets)} sets with {size:,} texts, "
        f"one worker: {cost[0]:.0f} CPU seconds ({pairs / cost[0]:,.0f} pairs a second), "
        f"{cost[1]:.0f} s by the clock of a busy machine, {cost[2]:.2f} GiB at most.",
        "",
        "Rows are pairs of sentences, queries or documents of a set, of which any text was found.",
        f"Near: n-gram Jaccard of {NEAR} or more, where nothing is equal.",
        "",
        "| set | rows | texts | as written, plain look-up: rows | texts | of these missed "
        "| Lode, equal: rows | texts | Lode, near too: rows | texts |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for one in sets:
        plain = {place for place, text in zip(one.places, one.texts, strict=True) if text in texts}
        equal, close = exact[one.name], exact[one.name] | near[one.name]
        cells = [one.name, count_rows(one.places), len(one.texts), count_rows(plain), len(plain)]
        cells += [len(plain - equal), count_rows(equal), len(equal), count_rows(close), len(close)]
        lines.append("| " + " | ".join(c if isinstance(c, str) else f"{c:,}" for c in cells) + " |")
    return "\n".join(lines) + "\n"


def found_places(folder: Path) -> tuple[int, dict[str, set[str]], dict[str, set[str]]]:
    """Return how many pairs there are, and the places of each set that are equal, and near."""
    found: dict[str, dict[str, set[str]]] = {"exact": defaultdict(set), "near": defaultdict(set)}
    with Catalog.open(str(folder)).reader() as connection:
        row = connection.execute("select count(*) from pairs").fetchone()
        rows = connection.execute(
            'select distinct kind, "set", place from contamination where jaccard >= ?', [NEAR]
        ).fetchall()
    for kind, name, place in rows:
        found[kind][name].add(place)
    assert row is not None
    return row[0], found["exact"], found["near"]


def count_rows(places: Iterable[str]) -> int:
    """Count rows: sentence1:3 and sentence2:3 are one, queries:3 and corpus:3 are two."""
    return len(
        {
            place.removeprefix("sentence1:")
            .removeprefix("sentence2:")
            .replace("corpus.title", "corpus")
            for place in places
        }
    )


if __name__ == "__main__":
    main()
