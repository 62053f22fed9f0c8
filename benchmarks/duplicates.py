"""How fast and how exact are near-duplicates, beside datatrove's four MinHash stages?

    python -m benchmarks.duplicates         # writes benchmarks/duplicates.md

Speed: CPU seconds of one process. Lode: every pair is read, normalised and keyed, then
the whole of ``deduplicate`` runs (text ids, buckets, texts, exact Jaccard, neighbours, clusters,
commit). Datatrove: signatures, buckets, clusters and filter over an even sample, 5-grams of words,
14 x 8 as its default.

Quality: 20,000 passages, every pair of them compared by plain sets of character 5-grams (a sparse
product of SciPy, none of Lode's kernels). Found are the stored edges at 0.8 and above.
"""

import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from scipy import sparse

from benchmarks.machine import DATA, describe
from benchmarks.whole_corpus import tree_memory_gib
from catalog.executors import ExecutorSettings
from catalog.lake import Catalog
from curation.deduplicate import deduplicate
from curation.ingest import find_sources, ingest_files
from curation.measure import MeasureSettings, band_key_table, measure
from curation.signals import PairBatch
from curation.texts import decode, encode, normalize

SAMPLE = {"laws": 8_000, "msgraph_zh": 6_000, "chinese_poetry": 3_500, "zhihu_title_edits": 2_500}
DATATROVE_ROWS = 4_000
THRESHOLD = 0.8
MAPS = ("query=text1", "positive=text2", "source=source")
ONE = ExecutorSettings(workers=1)


def make_catalog(folder: Path, files: list[Path]) -> Catalog:
    catalog = Catalog.create(str(folder))
    ingest_files(catalog, find_sources(files, MAPS), executor=ONE)
    measure(catalog, executor=ExecutorSettings())
    return catalog


def lode_seconds(folder: Path) -> tuple[int, float, float, float]:
    """Return pairs, CPU seconds for keys and for deduplication, and the peak memory in GiB."""
    catalog = make_catalog(folder / "whole", sorted((DATA / "pairs").glob("*.parquet")))
    settings = MeasureSettings()
    start = time.process_time()
    pairs = 0
    with catalog.reader() as connection:
        paths = connection.execute(
            "select data_file from ducklake_list_files('lake', 'pairs') order by 1"
        ).fetchall()
    for (path,) in paths:
        for batch in pq.ParquetFile(path).iter_batches(8_192, columns=["pair_id", "positive"]):
            band_key_table(PairBatch(batch), settings)
            pairs += batch.num_rows
    keys_s = time.process_time() - start
    peak = 0.0

    def watch(stage: str, done: int) -> None:
        nonlocal peak
        peak = max(peak, tree_memory_gib(__import__("os").getpid()))

    start = time.process_time()
    deduplicate(catalog, executor=ONE, progress=watch)
    return pairs, keys_s, time.process_time() - start, peak


def datatrove_seconds(folder: Path) -> tuple[int, float]:
    """Return documents and CPU seconds of datatrove's four stages."""
    from datatrove.data import Document
    from datatrove.executor.local import LocalPipelineExecutor
    from datatrove.pipeline.dedup import (
        MinhashDedupBuckets,
        MinhashDedupCluster,
        MinhashDedupFilter,
        MinhashDedupSignature,
    )
    from datatrove.pipeline.dedup.minhash import MinhashConfig
    from datatrove.pipeline.writers import JsonlWriter

    files = sorted((DATA / "pairs").glob("*.parquet"))
    counts = [pq.read_metadata(file).num_rows for file in files]
    step = sum(counts) // DATATROVE_ROWS
    documents = []
    for file in files:
        texts = pq.read_table(file, columns=["text2"])["text2"].to_pylist()[::step]
        documents += [Document(text, f"{file.stem}-{i}") for i, text in enumerate(texts)]
    config = MinhashConfig(n_grams=5, num_buckets=14, hashes_per_bucket=8)
    places = {name: str(folder / name) for name in ("signatures", "buckets", "clusters", "kept")}
    stages = [
        [documents, MinhashDedupSignature(places["signatures"], config, language="cmn_Hani")],
        [MinhashDedupBuckets(places["signatures"], places["buckets"], config=config)],
        [MinhashDedupCluster(places["buckets"], places["clusters"], config=config)],
        [documents, MinhashDedupFilter(places["clusters"]), JsonlWriter(places["kept"])],
    ]
    total = 0.0
    for number, pipeline in enumerate(stages):
        start = time.process_time()
        tasks = 14 if number == 1 else 1
        logs = str(folder / f"logs{number}")
        LocalPipelineExecutor(pipeline, tasks=tasks, workers=1, logging_dir=logs).run()
        total += time.process_time() - start
    return len(documents), total


def quality(folder: Path) -> tuple[int, int, int, int]:
    """Return passages, true pairs, found pairs and those that are both."""
    files = []
    for name, rows in SAMPLE.items():
        path = folder / f"{name}.parquet"
        pq.write_table(pq.read_table(DATA / "pairs" / path.name).slice(0, rows), path)
        files.append(path)
    catalog = make_catalog(folder / "sample", files)
    deduplicate(catalog, executor=ONE)
    with catalog.reader() as connection:
        passages = connection.execute(
            "select passage_id, first(positive order by pair_id) as positive from text_ids "
            "join pairs using (pair_id) group by 1 order by 1"
        ).to_arrow_table()
        found = connection.execute(
            "select a_id, b_id from duplicate_edges where jaccard >= ?", [THRESHOLD]
        ).fetchall()
    ids = passages["passage_id"].to_numpy()
    true = {(int(ids[a]), int(ids[b])) for a, b in brute_force(passages["positive"])}
    return len(ids), len(true), len(found), len(true & set(found))


def brute_force(column: object) -> list[tuple[int, int]]:
    """List the pairs of texts whose sets of character 5-grams are similar, by their rows."""
    texts = encode(normalize(decode(column))).to_pylist()  # type: ignore[arg-type]
    names: dict[str, int] = {}
    rows, columns = [], []
    for row, text in enumerate(texts):
        grams = {text[i : i + 5] for i in range(len(text) - 4)} or {text}
        columns += [names.setdefault(gram, len(names)) for gram in grams]
        rows += [row] * len(grams)
    ones = np.ones(len(rows), np.int32)
    matrix = sparse.csr_matrix((ones, (rows, columns)), shape=(len(texts), len(names)))
    sizes = np.asarray(matrix.sum(axis=1)).ravel()
    found = []
    for start in range(0, len(texts), 500):
        shared = (matrix[start : start + 500] @ matrix.T).tocoo()
        a, b = shared.row + start, shared.col
        similar = shared.data / (sizes[a] + sizes[b] - shared.data) >= THRESHOLD
        keep = similar & (a < b)
        found += list(zip(a[keep].tolist(), b[keep].tolist(), strict=True))
    return found


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        passages, true, found, both = quality(folder)
        print(f"precision {both / found:.4f} recall {both / true:.4f}", file=sys.stderr)
        documents, peer_s = datatrove_seconds(folder)
        print(f"datatrove {documents / peer_s:,.0f} a second", file=sys.stderr)
        pairs, keys_s, rest_s, peak = lode_seconds(folder)
    ours, theirs = pairs / (keys_s + rest_s), documents / peer_s
    text = "\n".join(
        [
            "# Near-duplicates",
            "",
            "`python -m benchmarks.duplicates`; targets: 30 times datatrove's four stages a core,",
            "precision at least 0.99 and recall at least 0.95 at Jaccard 0.8, below 4 GiB.",
            "",
            describe(["duckdb", "numba", "scipy", "datatrove"]),
            "",
            "| | texts | CPU s | texts per core-second |",
            "|---|---|---|---|",
            f"| Lode: read, normalise, band keys | {pairs:,} | {keys_s:.1f} | "
            f"{pairs / keys_s:,.0f} |",
            f"| Lode: text ids to clusters | {pairs:,} | {rest_s:.1f} | {pairs / rest_s:,.0f} |",
            f"| Lode, all | {pairs:,} | {keys_s + rest_s:.1f} | {ours:,.0f} |",
            f"| datatrove, four stages | {documents:,} | {peer_s:.1f} | {theirs:,.0f} |",
            "",
            f"Per core **{ours / theirs:.0f} times** datatrove. Peak memory of deduplicating the",
            f"whole corpus: {peak:.2f} GiB.",
            "",
            f"Among {passages:,} distinct passages of {', '.join(SAMPLE)}",
            f"{true:,} pairs have Jaccard >= {THRESHOLD}; Lode finds {found:,}, {both:,} of them",
            "true:",
            f"precision **{both / found:.4f}**, recall **{both / true:.4f}**.",
            "",
        ]
    )
    Path(__file__).with_suffix(".md").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
