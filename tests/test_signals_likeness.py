import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curation.signals.batch import PairBatch
from curation.signals.likeness import likeness
from curation.signals.settings import SignalSettings


def measured(query: str | None, passage: str) -> dict[str, float]:
    rows = pa.table(
        {"pair_id": [1], "query": pa.array([query], pa.string()), "positive": [passage]}
    )
    found = likeness(PairBatch(rows), "pair", SignalSettings())
    return {name: float(np.asarray(column)[0]) for name, column in found.items()}


@pytest.mark.parametrize(
    ("query", "passage", "expected"),
    [
        ("北京天气", "北京，天气！", {"equal": 1, "echo_share": 1, "char_overlap": 1}),
        ("北京", "北京北京北京", {"equal": 0, "query_inside": 1, "echo_share": 1}),
        ("北京天气", "上海股市", {"query_inside": 0, "char_overlap": 0, "bigram_overlap": 0}),
        ("北京天气很好", "天气", {"passage_inside": 1, "query_inside": 0}),
        ("哈哈", "哈哈哈哈哈", {"echo_share": 0.8, "length_ratio": 2.5}),
        ("ab", "ba", {"char_overlap": 1, "bigram_overlap": 0}),
        ("甲乙丙", "乙丙甲", {"bigram_overlap": 0.5}),
    ],
)
def test_likeness_of_written_out_pairs(
    query: str, passage: str, expected: dict[str, float]
) -> None:
    found = measured(query, passage)
    assert {name: found[name] for name in expected} == pytest.approx(expected)


@settings(deadline=None, max_examples=300)
@given(st.text("甲乙丙a1", max_size=12), st.text("甲乙丙a1", max_size=30))
def test_likeness_equals_the_plain_formula(query: str, passage: str) -> None:
    found = measured(query, passage)
    grams = [set(query), {query[i : i + 2] for i in range(len(query) - 1)}]
    others = [set(passage), {passage[i : i + 2] for i in range(len(passage) - 1)}]
    for name, mine, other in zip(("char_overlap", "bigram_overlap"), grams, others, strict=True):
        assert found[name] == pytest.approx(len(mine & other) / len(mine) if mine else 0)
    occurrences = passage.count(query) if query else 0
    covered = occurrences * len(query) / len(passage) if passage else 0
    assert found["echo_share"] == pytest.approx(covered)
    assert found["query_inside"] == bool(query and query in passage)


def test_many_rows_do_not_leak_into_each_other() -> None:
    queries = ["甲乙", "丙丁", "甲乙", ""]
    passages = ["丙丁", "甲乙", "甲乙", "甲乙"]
    rows = pa.table({"pair_id": range(4), "query": queries, "positive": passages})
    found = likeness(PairBatch(rows), "pair", SignalSettings())
    assert np.asarray(found["char_overlap"]).tolist() == [0, 0, 1, 0]
