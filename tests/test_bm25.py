"""BM25 finds shared characters, ranks them by the formula, and breaks ties by row."""

import math
import sys

import numpy as np
import pytest

from mining.bm25 import Bm25, Bm25Settings, cut
from mining.search import NO_PASSAGE

PASSAGES = [
    "北京是中国的首都",
    "上海是中国最大的城市",
    "苹果公司发布新手机",
    "iPhone 手机价格",
    "北京的天气",
    "",
]


def test_text_is_cut_into_characters_pairs_and_foreign_words():
    assert cut("iPhone１5 手机好，买！") == ["iphone15", "手", "机", "好", "手机", "机好", "买"]
    assert cut("ﾃｽﾄ 𠮷野家") == ["テ", "ス", "ト", "テス", "スト", "𠮷", "野", "家", "𠮷野", "野家"]
    assert cut("2008年奥运") == ["2008", "年", "奥", "运", "年奥", "奥运"]
    assert cut("_ !?") == []


def test_words_can_be_jiebas():
    pytest.importorskip("jieba")
    assert cut("北京的天气，好", "words") == ["北京", "的", "天气", "好"]


def test_the_best_passage_comes_first_and_strangers_are_not_found():
    rows, scores = Bm25.build(PASSAGES).search(["中国首都", "手机", "火星"], 4)
    assert rows[0, 0] == 0
    assert rows[0, 1] == 1
    assert set(rows[1, :2]) == {2, 3}
    assert (rows[2] == NO_PASSAGE).all()
    assert (scores[2] == -np.inf).all()
    assert (np.diff(scores[0, :2]) <= 0).all()


def test_scores_are_the_formula_written_out():
    k1, b = 1.2, 0.6
    queries = ["中国首都北京", "手机手机"]
    rows, scores = Bm25.build(PASSAGES, Bm25Settings(k1=k1, b=b)).search(queries, len(PASSAGES))
    units = [cut(text) for text in PASSAGES]
    mean = sum(map(len, units)) / len(units)
    for query in range(len(queries)):
        expected = []
        for passage in units:
            total = 0.0
            for unit in cut(queries[query]):
                frequency = sum(unit in other for other in units)
                idf = math.log(1 + (len(units) - frequency + 0.5) / (frequency + 0.5))
                tf = passage.count(unit)
                if frequency:
                    total += idf * tf / (tf + k1 * (1 - b + b * len(passage) / mean))
            expected.append(total)
        found = rows[query] != NO_PASSAGE
        np.testing.assert_allclose(
            scores[query][found], np.array(expected)[rows[query][found]], rtol=1e-5
        )
        assert set(rows[query][found]) == {row for row, score in enumerate(expected) if score > 0}


def test_equal_scores_are_ordered_by_row_also_at_the_last_rank():
    rows, scores = Bm25.build(["甲乙丙", "其他", *["甲乙"] * 700]).search(["甲"], 300)
    assert rows[0].tolist() == list(range(2, 302))
    assert len(set(scores[0])) == 1


def test_blocks_of_queries_do_not_change_the_result(monkeypatch):
    queries = [text[:3] for text in PASSAGES] * 3
    whole = Bm25.build(PASSAGES).search(queries, 3)
    monkeypatch.setattr("mining.bm25._BLOCK_BYTES", 1)
    for expected, found in zip(whole, Bm25.build(PASSAGES).search(queries, 3), strict=True):
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("passages", [PASSAGES, ["", "!?"]])
def test_a_saved_index_finds_the_same(passages, tmp_path):
    built = Bm25.build(passages, Bm25Settings(b=0.5))
    built.save(tmp_path / "index")
    loaded = Bm25.load(tmp_path / "index")
    assert loaded.settings == built.settings
    queries = ["中国首都", "手机", "火星"]
    for expected, found in zip(built.search(queries, 3), loaded.search(queries, 3), strict=True):
        np.testing.assert_array_equal(found, expected)
    assert [path.name for path in tmp_path.iterdir()] == ["index"]


@pytest.mark.parametrize("passages", [[], ["", "!?"]])
def test_a_corpus_without_a_unit_finds_nothing(passages):
    rows, _ = Bm25.build(passages).search(["北京"], 2)
    assert rows.tolist() == [[NO_PASSAGE, NO_PASSAGE]]


def test_k_may_be_larger_than_the_corpus():
    rows, _ = Bm25.build(PASSAGES).search(["北京"], 50)
    assert sorted(rows[0][rows[0] >= 0]) == [0, 4]


def test_wrong_settings_are_refused(monkeypatch):
    with pytest.raises(ValueError, match=r"allowed are characters\+bigrams, words"):
        Bm25Settings(units="subwords")
    with pytest.raises(ValueError, match="0 <= b <= 1"):
        Bm25Settings(b=2)
    with pytest.raises(ValueError, match="k is 0"):
        Bm25.build(PASSAGES).search(["北京"], 0)
    monkeypatch.setitem(sys.modules, "jieba", None)
    with pytest.raises(ValueError, match="pip install jieba"):
        Bm25.build(PASSAGES, Bm25Settings(units="words"))
