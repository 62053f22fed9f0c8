"""Metrics equal their formulas written out, query by query."""

import json
import math
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mining.encoder import Encoder, EncoderSettings
from mining.retrieval_eval import (
    Judgments,
    bm25_searcher,
    encoder_searcher,
    evaluate,
    load_collection,
    measure,
)
from mining.search import NO_PASSAGE

SHARED = Path(__file__).parents[2] / "shared" / "data" / "eval" / "retrieval"
CORPUS = [("d1", "北京", "中国的首都"), ("d2", "", "上海的港口"), ("d3", None, "苹果手机")]
QUERIES = [("q1", "首都是哪里"), ("q2", "哪里有港口"), ("q3", "没有判断的问题")]
QRELS = [("q1", "d1", 2), ("q2", "d2", 1), ("q2", "d1", 0), ("q3", "d3", 0)]


def written_out(ranked, relevant):
    """Compute one query's metrics: ``ranked`` passages, ``relevant`` {passage: grade}."""
    gains = [relevant.get(passage, 0) for passage in ranked[:10]]
    best = sorted(relevant.values(), reverse=True)[:10]
    dcg = sum(gain / math.log2(rank + 1) for rank, gain in enumerate(gains, start=1))
    ideal = sum(gain / math.log2(rank + 1) for rank, gain in enumerate(best, start=1))
    first = next((rank for rank, gain in enumerate(gains, start=1) if gain > 0), math.inf)
    return {
        "ndcg@10": dcg / ideal,
        "recall@10": len(set(ranked[:10]) & set(relevant)) / len(relevant),
        "recall@100": len(set(ranked[:100]) & set(relevant)) / len(relevant),
        "mrr@10": 1 / first,
    }


def judgments_of(relevant):
    triples = [(q, p, g) for q, own in enumerate(relevant) for p, g in own.items()]
    queries, passages, grades = map(np.array, zip(*triples, strict=True))
    return Judgments(queries, passages, grades.astype(float))


def test_metrics_are_the_formulas_written_out():
    rng = np.random.default_rng(0)
    ranked = np.array([rng.permutation(300)[:120] for _ in range(50)])
    ranked[rng.random(50) < 0.2, 5:] = NO_PASSAGE
    relevant = [
        {int(p): int(rng.integers(1, 4)) for p in rng.permutation(300)[: rng.integers(1, 25)]}
        for _ in range(50)
    ]
    found = measure(ranked, judgments_of(relevant))
    single = [
        written_out([p for p in row if p != NO_PASSAGE], own)
        for row, own in zip(ranked.tolist(), relevant, strict=True)
    ]
    assert found == {name: pytest.approx(np.mean([s[name] for s in single])) for name in found}
    assert set(found) == set(single[0])


def test_a_perfect_ranking_scores_one_and_an_empty_one_zero():
    judgments = judgments_of([{3: 2, 1: 1}, {0: 1}])
    perfect = np.array([[3, 1, 0], [0, 1, 2]])
    assert set(measure(perfect, judgments).values()) == {1.0}
    assert set(measure(np.full((2, 3), NO_PASSAGE), judgments).values()) == {0.0}
    with pytest.raises(ValueError, match="no passage is judged relevant"):
        measure(perfect, Judgments(np.empty(0, int), np.empty(0, int), np.empty(0)))


def write_parquet(folder):
    for name, columns, rows in (
        ("corpus", ("_id", "title", "text"), CORPUS),
        ("queries", ("_id", "text"), QUERIES),
        ("qrels", ("query-id", "corpus-id", "score"), QRELS),
    ):
        table = pa.Table.from_pylist([dict(zip(columns, row, strict=True)) for row in rows])
        pq.write_table(table, folder / f"{name}.parquet")


def write_beir(folder):
    for name, columns, rows in (
        ("corpus", ("_id", "title", "text"), CORPUS),
        ("queries", ("_id", "text"), QUERIES),
    ):
        lines = [json.dumps(dict(zip(columns, row, strict=True))) for row in rows]
        (folder / f"{name}.jsonl").write_text("\n".join(lines), encoding="utf-8")
    (folder / "qrels").mkdir()
    lines = ["query-id\tcorpus-id\tscore", *("\t".join(map(str, row)) for row in QRELS)]
    (folder / "qrels" / "test.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")


@pytest.mark.parametrize("write", [write_parquet, write_beir])
def test_a_collection_is_read_from_either_form(write, tmp_path):
    write(tmp_path)
    collection = load_collection(tmp_path)
    assert collection.queries == ["首都是哪里", "哪里有港口"]  # the third has nothing relevant
    assert collection.passages == ["北京 中国的首都", "上海的港口", "苹果手机"]
    assert collection.judgments.passages.tolist() == [0, 1]
    assert collection.judgments.grades.tolist() == [2, 1]


@pytest.mark.parametrize(
    "searcher", [bm25_searcher(), encoder_searcher(Encoder.load(EncoderSettings("lexical-64")))]
)
def test_any_search_is_evaluated(searcher, tmp_path):
    write_parquet(tmp_path)
    assert evaluate(load_collection(tmp_path), searcher)["mrr@10"] == 1.0


def test_a_folder_without_its_files_or_with_unknown_ids_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"has no corpus\.parquet, corpus\.jsonl"):
        load_collection(tmp_path)
    write_parquet(tmp_path)
    rows = [{"query-id": "q1", "corpus-id": "d9", "score": 1}]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "qrels.parquet")
    with pytest.raises(ValueError, match="judge query 'q1' and passage 'd9'"):
        load_collection(tmp_path)


@pytest.mark.data
@pytest.mark.skipif(not SHARED.exists(), reason=f"{SHARED} is not there")
def test_bm25_finds_what_people_judged_relevant():
    collection = load_collection(SHARED / "csl_title_abstract")
    assert evaluate(collection, bm25_searcher())["ndcg@10"] == pytest.approx(0.981, abs=0.005)
