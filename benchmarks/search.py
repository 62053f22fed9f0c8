"""Search and selection of negatives beside the peers, the same vectors fed to all.

    python -m benchmarks.search --queries 20000 --passages 20000
    FLAGEMBEDDING_HN_MINE=…/scripts/hn_mine.py python -m benchmarks.search \\
        --flagembedding-python ENV/bin/python --queries 200000 --passages 200000

Writes benchmarks/search.md. Pairs come from Parquet or JSONL files with columns text1 and text2:
each chosen pair has a query and a passage of its own, so that each query has one positive. Vectors
are lexical-384, rounded to float16. Every miner is a process of its own with the same threads.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import duckdb
import numpy as np
import numpy.typing as npt
import orjson
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import xxhash

from benchmarks.machine import DATA, describe
from benchmarks.mining_peers import (
    DEPTH,
    NEGATIVES,
    NEGATIVES_FILE,
    PEERS,
    RELATIVE_MARGIN,
    measure,
    read_lines,
)
from catalog.draws import draw
from mining.candidates import FilterSettings, Known, candidate_rows, judge
from mining.encoder import Encoder, EncoderSettings
from mining.search import NO_PASSAGE, Ids, score_listed, search_blocks
from mining.search_plan import SearchSettings
from mining.text_file import BATCH_TEXTS, TextFile

ENCODER = "lexical-384"
LODE = "lode"
CANDIDATES = "candidates.parquet"
CHECKED_QUERIES = 200
ROWS_AT_ONCE = 2048
SEED = 1
# One pair of each passage, then one of each query; the order is that of a hash of the texts.
PAIRS_SQL = """
    create table pairs as
    with
      rows as (
        select distinct text1 as query, text2 as passage, md5(text1 || chr(1) || text2) as drawn
        from {relation}
        where length(trim(text1)) > 1 and length(trim(text2)) > 1
      ),
      own_passage as (
        select * from rows qualify row_number() over (partition by passage order by drawn) = 1
      )
    select * from own_passage
    qualify row_number() over (partition by query order by drawn) = 1
    order by drawn
    limit {queries}
"""
POOL_SQL = """
    with others as (
      select distinct text2 as passage
      from {relation}
      where length(trim(text2)) > 1 and text2 not in (select passage from pairs)
      order by md5(text2)
      limit {more}
    )
    select passage from (select passage from pairs union all select passage from others)
    order by md5(passage)
"""


@dataclass(frozen=True)
class Result:
    """What one miner took; ``failure`` says why there are no numbers."""

    name: str
    wall_s: float = 0.0
    cpu_s: float = 0.0
    peak_gib: float = 0.0
    loaded_gib: float = 0.0
    process_wall_s: float = 0.0  # with imports and loading
    process_cpu_s: float = 0.0
    failure: str = ""

    @property
    def growth_gib(self) -> float:
        """Return what the run added to the process."""
        return self.peak_gib - self.loaded_gib


def write_pairs(folder: Path, sources: Sequence[str], queries: int, passages: int) -> None:
    """Write the chosen pairs and the pool of passages for all miners."""
    read = "read_json" if sources[0].rstrip(".gzst").endswith("jsonl") else "read_parquet"
    relation = f"{read}([{', '.join(repr(source) for source in sources)}])"
    with duckdb.connect() as connection:
        connection.execute(PAIRS_SQL.format(relation=relation, queries=queries))
        pairs = connection.execute("select query, passage from pairs order by drawn").fetchall()
        pool = connection.execute(
            POOL_SQL.format(relation=relation, more=max(0, passages - len(pairs)))
        ).fetchall()
    if len(pairs) < queries or len(pool) < passages:
        print(f"the sources hold {len(pairs):,} such queries and {len(pool):,} passages")
    write_jsonl(folder / "pairs.jsonl", ({"query": q, "pos": [p]} for q, p in pairs))
    write_jsonl(folder / "pool.jsonl", ({"text": text} for (text,) in pool))


def write_jsonl(path: Path, rows: Iterator[dict[str, object]]) -> None:
    with path.open("wb") as out:
        out.writelines(orjson.dumps(row) + b"\n" for row in rows)


def write_vectors(folder: Path) -> None:
    """Write what Lode reads: vectors of both sides, and the texts as Arrow."""
    encoder = Encoder.load(EncoderSettings(ENCODER, threads=1))
    for side, name, field in (
        ("query", "pairs.jsonl", "query"),
        ("passage", "pool.jsonl", "text"),
    ):
        texts = list(read_lines(folder / name, field))
        vectors = np.concatenate(
            [
                encoder.encode(texts[start : start + 20_000], side).astype(np.float16)  # type: ignore[arg-type]
                for start in range(0, len(texts), 20_000)
            ]
        )
        np.save(folder / f"{side}_vectors.npy", vectors)
        schema = pa.schema([("text", pa.large_string())])
        with pa.ipc.new_file(folder / f"{side}_texts.arrow", schema) as writer:
            for start in range(0, len(texts), BATCH_TEXTS):
                part = pa.array(texts[start : start + BATCH_TEXTS], pa.large_string())
                writer.write_batch(pa.record_batch([part], schema=schema))
    positives = pa.array([p for (p,) in read_lines(folder / "pairs.jsonl", "pos")])
    pool = pa.array(list(read_lines(folder / "pool.jsonl", "text")))
    np.save(folder / "positives.npy", pc.index_in(positives, pool).to_numpy().astype(np.int64))


def mine_lode(folder: Path, memory_mb: int, threads: int) -> None:
    """Search, judge, and write the table of candidates and, like the peers, texts of negatives."""
    settings = SearchSettings(memory_mb=memory_mb, threads=threads, device="cpu")
    queries = np.load(folder / "query_vectors.npy", mmap_mode="r")
    passages = np.load(folder / "passage_vectors.npy", mmap_mode="r")
    positives = np.load(folder / "positives.npy")
    texts = {side: TextFile(folder / f"{side}_texts.arrow") for side in ("query", "passage")}
    same_text = find_same_texts(texts["query"], texts["passage"])
    positive_scores = score_listed(
        queries, passages, np.arange(len(queries) + 1), positives, settings
    )
    filters = FilterSettings(relative_margin=RELATIVE_MARGIN)
    nothing = np.empty(0, np.int64)
    writer: pq.ParquetWriter | None = None
    with (folder / NEGATIVES_FILE.format(LODE)).open("wb") as out:
        for found in search_blocks(queries, passages, DEPTH, settings):
            # Blocks of queries are as large as the memory allows: their rows are made in pieces.
            for start in range(0, len(found.rows), ROWS_AT_ONCE):
                piece = slice(start, min(start + ROWS_AT_ONCE, len(found.rows)))
                here = slice(found.first + piece.start, found.first + piece.stop)
                rows, scores = found.rows[piece], found.scores[piece]
                known = Known(
                    np.arange(len(rows) + 1), positives[here], same_text[here], nothing, nothing
                )
                flags = judge(rows, scores, known, positive_scores[here], filters)
                ids = np.arange(here.start, here.stop)
                table = candidate_rows("run", ids, rows, scores, flags, positive_scores[here])
                writer = writer or pq.ParquetWriter(folder / CANDIDATES, table.schema)
                writer.write_table(table)
                write_negatives(out, ids, positives[here], rows, flags == 0, texts)
    assert writer is not None
    writer.close()


def find_same_texts(queries: TextFile, passages: TextFile) -> Ids:
    """Return for each query the passage that is the same text, or NO_PASSAGE."""
    wanted, own = hash_texts(queries), hash_texts(passages)
    order = np.argsort(own, kind="stable")
    at = np.searchsorted(own[order], wanted).clip(max=len(own) - 1)
    found: Ids = np.where(own[order[at]] == wanted, order[at], NO_PASSAGE)
    return found


def hash_texts(texts: TextFile) -> npt.NDArray[np.uint64]:
    """Return 64-bit hashes; two texts of a benchmark's corpus do not share one."""
    return np.fromiter((xxhash.xxh3_64_intdigest(text) for text in texts), np.uint64)


def write_negatives(
    out: object, ids: Ids, positives: Ids, rows: Ids, kept: np.ndarray, texts: dict[str, TextFile]
) -> None:
    """Write the first kept passages of each query as FlagEmbedding writes them."""
    first = np.argsort(~kept, axis=1, kind="stable")[:, :NEGATIVES]
    counts = np.minimum(kept.sum(axis=1), NEGATIVES)
    chosen = np.take_along_axis(rows, first, axis=1)
    wanted, places = np.unique(np.concatenate([chosen.ravel(), positives]), return_inverse=True)
    passage_texts = texts["passage"].take(wanted[wanted != NO_PASSAGE])
    shift = int((wanted == NO_PASSAGE).any())
    for i, query in enumerate(texts["query"].take(ids)):
        negatives = places[i * NEGATIVES : i * NEGATIVES + counts[i]] - shift
        row = {
            "query": query,
            "pos": [passage_texts[places[chosen.size + i] - shift]],
            "neg": [passage_texts[place] for place in negatives],
        }
        out.write(orjson.dumps(row) + b"\n")  # type: ignore[attr-defined]


def run_miner(name: str, command: Sequence[str], threads: int, limit_s: int) -> Result:
    """Run one miner to its end or its limit."""
    limits = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    environment = {**os.environ, **dict.fromkeys(limits, str(threads))}
    wall, cpu = time.perf_counter(), _cpu_of_children()
    try:
        done = subprocess.run(
            command, env=environment, stdout=subprocess.PIPE, timeout=limit_s, check=False
        )
    except subprocess.TimeoutExpired:
        return Result(name, failure=f"not finished after {limit_s} s")
    if done.returncode:
        return Result(name, failure=f"ended with code {done.returncode}")
    whole = {
        "process_wall_s": time.perf_counter() - wall,
        "process_cpu_s": _cpu_of_children() - cpu,
    }
    return Result(name, **json.loads(done.stdout.splitlines()[-1]), **whole)


def _cpu_of_children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def run_all(folder: Path, chosen: argparse.Namespace) -> list[Result]:
    peers = [sys.executable, "-m", "benchmarks.mining_peers"]
    commands = {
        LODE: [
            sys.executable, "-m", "benchmarks.search", "--lode", str(folder),
            "--memory-mb", str(chosen.memory_mb), "--threads", str(chosen.threads),
        ],
        PEERS[1]: [*peers, PEERS[1], str(folder)],
        PEERS[0]: [chosen.flagembedding_python, *peers[1:], PEERS[0], str(folder)],
    }  # fmt: skip
    results = []
    for name, command in commands.items():
        if name == LODE or name in chosen.peers:
            results.append(run_miner(name, command, chosen.threads, chosen.limit_s))
            print(results[-1], flush=True)
    return results


def check_candidates(folder: Path) -> str:
    """Compare candidates of drawn queries with brute force, and return a sentence."""
    queries = np.load(folder / "query_vectors.npy").astype(np.float32)
    passages = np.load(folder / "passage_vectors.npy").astype(np.float32)
    drawn = draw(SEED, "checked queries", np.arange(len(queries)))
    chosen = np.sort(np.argsort(drawn, kind="stable")[:CHECKED_QUERIES])
    table = pq.read_table(folder / CANDIDATES, columns=["passage_ids", "scores"])
    rows, scores = (
        np.array(table[column].take(pa.array(chosen)).to_pylist())
        for column in ("passage_ids", "scores")
    )
    depth = rows.shape[1]
    single = queries[chosen] @ passages.T
    double = np.empty(single.shape, np.float32)
    for start in range(0, len(passages), 20_000):
        part = passages[start : start + 20_000].astype(np.float64)
        double[:, start : start + 20_000] = queries[chosen].astype(np.float64) @ part.T
    by_double = np.lexsort((np.broadcast_to(np.arange(len(passages)), double.shape), -double))
    by_single = np.lexsort((np.broadcast_to(np.arange(len(passages)), single.shape), -single))
    exact = (rows == by_double[:, :depth]).all(axis=1).sum()
    same = (rows == by_single[:, :depth]).all(axis=1).sum()
    reached = np.take_along_axis(single, by_single[:, :depth], axis=1)
    gap = np.abs(reached - scores).max()
    return (
        f"Of {len(chosen)} drawn queries, {exact} have exactly the {depth} candidates, in the same "
        f"order, of brute force summed in float64 and rounded to float32 (ties by row), and {same} "
        f"those of a float32 product; where the order differs from the float32 product, scores at "
        f"the same rank differ by {gap:.1e} at most: its rounding error."
    )


def check_peers(folder: Path, results: Sequence[Result]) -> list[str]:
    """Compare the peers' negatives with Lode's."""
    sentences = []
    finished = {result.name for result in results if not result.failure}
    if PEERS[1] in finished:
        own = {
            row["query"]: row["neg"] for row in read_objects(folder / NEGATIVES_FILE.format(LODE))
        }
        same = total = 0
        for row in read_objects(folder / NEGATIVES_FILE.format(PEERS[1])):
            theirs = [row[f"negative_{i}"] for i in range(1, NEGATIVES + 1)]
            same += set(theirs) == set(own[row["query"]])
            total += 1
        sentences.append(
            f"sentence-transformers: {same:,} of its {total:,} queries ({same / total:.2%}) got "
            f"the same {NEGATIVES} negatives as from Lode; the others have ties at the last place "
            "or scores at the margin (it sums in float32)."
        )
        del own
    if PEERS[0] in finished:
        sentences.append(check_flagembedding(folder))
    return sentences


def check_flagembedding(folder: Path) -> str:
    pool = list(read_lines(folder / "pool.jsonl", "text"))
    lists = pq.read_table(folder / CANDIDATES, columns=["passage_ids"])["passage_ids"]
    inside = total = 0
    for row, theirs in enumerate(read_objects(folder / NEGATIVES_FILE.format(PEERS[0]))):
        if row % 20 == 0:
            ours = {pool[i] for i in lists[row].as_py()}
            inside += sum(text in ours for text in theirs["neg"])
            total += len(theirs["neg"])
    return (
        f"FlagEmbedding draws its negatives at random: of {total:,} of a twentieth of the queries, "
        f"{inside / total:.3%} are among Lode's {DEPTH} candidates of the query."
    )


def read_objects(path: Path) -> Iterator[dict[str, list[str]]]:
    with path.open("rb") as lines:
        for line in lines:
            yield orjson.loads(line)


def table_of(results: Sequence[Result]) -> list[str]:
    lode = results[0]
    lines = [
        "| miner | wall s | CPU s | peak GiB | of it before the run | growth GiB | "
        "Lode: times faster by CPU | Lode's memory is | Lode's growth is |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for result in results:
        if result.failure:
            lines.append(f"| {result.name} | {result.failure} | | | | | | | |")
            continue
        lines.append(
            f"| {result.name} | {result.wall_s:.1f} | {result.cpu_s:.1f} | {result.peak_gib:.2f} | "
            f"{result.loaded_gib:.2f} | {result.growth_gib:.2f} | "
            f"{result.cpu_s / lode.cpu_s:.2f} | {lode.peak_gib / result.peak_gib:.1%} | "
            f"{lode.growth_gib / result.growth_gib:.1%} |"
        )
    return lines


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--queries", type=int, default=20_000)
    parser.add_argument("--passages", type=int, default=20_000)
    parser.add_argument("--pairs", nargs="+", default=[str(DATA / "pairs" / "*.parquet")])
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--memory-mb", type=int, default=128, help="Lode's search buffers")
    parser.add_argument("--limit-s", type=int, default=900, help="for each miner")
    parser.add_argument("--flagembedding-python", default=sys.executable)
    parser.add_argument("--peers", nargs="*", choices=PEERS, default=PEERS)
    parser.add_argument("--report", type=Path, default=Path(__file__).with_suffix(".md"))
    parser.add_argument("--lode", type=Path, metavar="FOLDER", help="be Lode's process")
    chosen = parser.parse_args()
    if chosen.lode:
        one = np.zeros((1, 384), np.float16)  # compiles the kernels, as importing a peer's faiss
        list(search_blocks(one, one, 1, SearchSettings(threads=1)))
        run = measure(lambda: mine_lode(chosen.lode, chosen.memory_mb, chosen.threads))
        print(json.dumps(run))
        return
    with tempfile.TemporaryDirectory(prefix="lode-search-") as made:
        folder = Path(made)
        write_pairs(folder, chosen.pairs, chosen.queries, chosen.passages)
        write_vectors(folder)
        results = run_all(folder, chosen)
        if results[0].failure:
            raise SystemExit(f"Lode {results[0].failure}")
        queries, passages = (
            len(np.load(folder / f"{side}_vectors.npy", mmap_mode="r"))
            for side in ("query", "passage")
        )
        checks = [check_candidates(folder), *check_peers(folder, results)]
    text = "\n".join(
        [
            "# Search and selection of negatives",
            "",
            f"`python -m benchmarks.search --queries {chosen.queries} --passages "
            f"{chosen.passages} --threads {chosen.threads} --memory-mb {chosen.memory_mb}`; "
            "targets: 3 times as fast as",
            "FlagEmbedding's hn_mine, twice sentence-transformers' mine_hard_negatives with faiss, "
            "a quarter of their memory.",
            "",
            describe(["torch", "numpy", "numba", "faiss-cpu", "sentence-transformers"]),
            "",
            f"{queries:,} queries, {passages:,} passages, {ENCODER}, depth {DEPTH}, positives and "
            f"the query's text removed, relative margin {RELATIVE_MARGIN}, first {NEGATIVES}.",
            "FlagEmbedding knows no margin and draws from the 200; the peers write the texts of "
            "their negatives;",
            "Lode writes those and all candidates with scores and reasons. "
            f"{chosen.threads} threads each.",
            "",
            *table_of(results),
            "",
            *checks,
            "",
        ]
    )
    chosen.report.write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
