"""Retrieval evaluation: nDCG@10, recall@k and MRR@10 of any search on judged passages.

A folder holds ``corpus`` (_id, title, text), ``queries`` (_id, text) and ``qrels`` (query-id,
corpus-id, score), as Parquet, or as BEIR publishes them (JSONL, and ``qrels/test.tsv``).
"""

import csv
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from mining.bm25 import Bm25, Bm25Settings
from mining.encoder import Encoder, EncoderSettings
from mining.search import NO_PASSAGE, Ids, Scores, search
from mining.search_plan import SearchSettings

Searcher = Callable[[Sequence[str], Sequence[str], int], tuple[Ids, Scores]]
NDCG_DEPTH = 10
MRR_DEPTH = 10
RECALL_DEPTHS = (10, 100)
BM25 = "bm25"  # named like a model
COLUMNS = {
    "corpus": ("_id", "text"),
    "queries": ("_id", "text"),
    "qrels": ("query-id", "corpus-id", "score"),
}


@dataclass(frozen=True)
class Judgments:
    """Which passages are relevant: row numbers of queries and passages, grades above 0."""

    queries: Ids
    passages: Ids
    grades: npt.NDArray[np.float64]


@dataclass(frozen=True)
class Collection:
    """Texts with judgments; queries without a relevant passage are left out."""

    name: str
    queries: list[str]
    passages: list[str]
    judgments: Judgments
    query_ids: list[str]
    passage_ids: list[str]


def load_collection(folder: Path) -> Collection:
    """Read a folder; judgments of texts that are not there are refused."""
    corpus, queries = _read(folder, "corpus"), _read(folder, "queries")
    qrels = _read(folder, "qrels")
    passage_rows = {str(key): row for row, key in enumerate(corpus["_id"].to_pylist())}
    if len(passage_rows) < corpus.num_rows:
        raise ValueError(
            f"{folder}: corpus has {corpus.num_rows:,} passages, but {len(passage_rows):,} "
            "different values of _id; a judgment must name one passage"
        )
    texts = dict(
        zip(map(str, queries["_id"].to_pylist()), queries["text"].to_pylist(), strict=True)
    )
    judged = zip(
        map(str, qrels["query-id"].to_pylist()),
        map(str, qrels["corpus-id"].to_pylist()),
        map(float, qrels["score"].to_pylist()),
        strict=True,
    )
    relevant = sorted({(q, p): g for q, p, g in judged if g > 0}.items())
    for (query, passage), _ in relevant:
        if query not in texts or passage not in passage_rows:
            raise ValueError(
                f"{folder}: qrels judge query {query!r} and passage {passage!r}, and one of them "
                "is not in queries or corpus"
            )
    query_rows = {q: row for row, q in enumerate(dict.fromkeys(q for (q, _), _ in relevant))}
    return Collection(
        folder.name,
        [texts[query] for query in query_rows],
        _passage_texts(corpus),
        Judgments(
            np.array([query_rows[q] for (q, _), _ in relevant], np.int64),
            np.array([passage_rows[p] for (_, p), _ in relevant], np.int64),
            np.array([grade for _, grade in relevant], np.float64),
        ),
        list(query_rows),
        list(passage_rows),
    )


def evaluate(collection: Collection, find: Searcher) -> dict[str, float]:
    """Search the collection and return its mean metrics by name."""
    rows, _ = find(collection.queries, collection.passages, depth_of_metrics())
    return measure(rows, collection.judgments)


def depth_of_metrics() -> int:
    """Return how many passages of a query the metrics look at."""
    return max(NDCG_DEPTH, MRR_DEPTH, *RECALL_DEPTHS)


def evaluate_folders(
    folders: Sequence[Path], find: Searcher
) -> Iterator[tuple[str, dict[str, float]]]:
    """Yield (collection, metrics) of every folder; all are read before the first is searched."""
    if not folders:
        raise ValueError("no collection is named; give folders with corpus, queries and qrels")
    for collection in [load_collection(folder) for folder in folders]:
        yield collection.name, evaluate(collection, find)


def table_lines(results: Iterable[tuple[str, dict[str, float]]]) -> Iterator[str]:
    """Write the metrics of collections as lines of a table, as they come."""
    for place, (name, metrics) in enumerate(results):
        if not place:
            yield f"{'collection':<24}" + "".join(f"{metric:>12}" for metric in metrics)
        yield f"{name:<24}" + "".join(f"{value:>12.4f}" for value in metrics.values())


def searcher(settings: EncoderSettings) -> Searcher:
    """Return the search that a model's name asks for: an encoder's, or bm25."""
    if settings.model == BM25:
        return bm25_searcher()
    return encoder_searcher(Encoder.load(settings))


def encoder_searcher(encoder: Encoder, settings: SearchSettings | None = None) -> Searcher:
    """Return the search that embeds both sides and compares all with all."""

    def find(queries: Sequence[str], passages: Sequence[str], k: int) -> tuple[Ids, Scores]:
        vectors = encoder.encode(queries, "query"), encoder.encode(passages, "passage")
        return search(*vectors, k, settings)

    return find


def bm25_searcher(settings: Bm25Settings | None = None) -> Searcher:
    """Return the search by shared characters."""
    return lambda queries, passages, k: Bm25.build(passages, settings).search(queries, k)


def measure(rows: Ids, judgments: Judgments) -> dict[str, float]:
    """Return the means over queries, given passages in ranked order (queries x depth).

    A collection without a judgment has no means: that is refused. Gains are the grades themselves,
    as in trec_eval, BEIR and mteb.
    """
    if not len(judgments.queries):
        raise ValueError("no passage is judged relevant for any query: there is nothing to measure")
    grades = _grades(rows, judgments)
    ideal = _ideal_grades(len(rows), judgments)
    relevant = np.bincount(judgments.queries, minlength=len(rows))
    metrics = {f"ndcg@{NDCG_DEPTH}": _dcg(grades[:, :NDCG_DEPTH]) / _dcg(ideal)}
    for depth in RECALL_DEPTHS:
        metrics[f"recall@{depth}"] = (grades[:, :depth] > 0).sum(axis=1) / relevant
    hits = grades[:, :MRR_DEPTH] > 0
    first = np.where(hits.any(axis=1), hits.argmax(axis=1), np.inf)
    metrics[f"mrr@{MRR_DEPTH}"] = 1.0 / (first + 1)
    return {name: float(values.mean()) for name, values in metrics.items()}


def _grades(rows: Ids, judgments: Judgments) -> npt.NDArray[np.float64]:
    """Look up the grade of every ranked passage, 0 where it is not relevant."""
    stride = np.int64(max(rows.max(initial=0), judgments.passages.max(initial=0)) + 2)
    keys = judgments.queries * stride + judgments.passages
    order = np.argsort(keys)
    wanted = np.arange(len(rows))[:, None] * stride + rows
    at = np.minimum(np.searchsorted(keys[order], wanted), len(keys) - 1)
    found = (keys[order][at] == wanted) & (rows != NO_PASSAGE)
    return np.where(found, judgments.grades[order][at], 0.0)


def _ideal_grades(num_queries: int, judgments: Judgments) -> npt.NDArray[np.float64]:
    """Rank the relevant passages themselves."""
    order = np.lexsort((-judgments.grades, judgments.queries))
    queries = judgments.queries[order]
    place = np.arange(len(queries)) - np.searchsorted(queries, queries)
    ideal = np.zeros((num_queries, NDCG_DEPTH))
    inside = place < NDCG_DEPTH
    ideal[queries[inside], place[inside]] = judgments.grades[order][inside]
    return ideal


def _dcg(grades: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    discounts = 1.0 / np.log2(np.arange(grades.shape[1]) + 2)
    gains: npt.NDArray[np.float64] = grades @ discounts
    return gains


def _passage_texts(corpus: pa.Table) -> list[str]:
    texts = corpus["text"].to_pylist()
    titles = corpus["title"].to_pylist() if "title" in corpus.column_names else [""] * len(texts)
    joined = zip(titles, texts, strict=True)
    return [f"{title} {text}" if title else text or "" for title, text in joined]


def _read(folder: Path, name: str) -> pa.Table:
    parquet, jsonl = folder / f"{name}.parquet", folder / f"{name}.jsonl"
    tsv = folder / name / "test.tsv"
    if parquet.exists():
        return _require(pq.read_table(parquet), name, parquet)
    if jsonl.exists():
        with jsonl.open(encoding="utf-8") as lines:
            return _require(pa.Table.from_pylist([json.loads(line) for line in lines]), name, jsonl)
    if tsv.exists():
        with tsv.open(encoding="utf-8", newline="") as lines:
            rows = list(csv.DictReader(lines, delimiter="\t"))
            return _require(pa.Table.from_pylist(rows), name, tsv)
    raise ValueError(
        f"{folder} has no {parquet.name}, {jsonl.name} or {name}/{tsv.name}; a collection is a "
        "folder with corpus, queries and qrels"
    )


def _require(table: pa.Table, name: str, path: Path) -> pa.Table:
    """Refuse a file without its columns."""
    missing = [column for column in COLUMNS[name] if column not in table.column_names]
    if missing:
        raise ValueError(
            f"{path} has no column {', '.join(missing)}; it has {', '.join(table.column_names)}; "
            f"{name} of a collection has {', '.join(COLUMNS[name])}"
        )
    return table
