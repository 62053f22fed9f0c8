"""The built-in encoder finds shared words, and gives a text the same vector everywhere."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from mining import lexical
from mining.common_units import COMMON_CHARACTERS, TRADITIONAL
from mining.encoder import Encoder, EncoderSettings, spec_of

ROOT = Path(__file__).parents[1]
PASSAGES = [
    "钢琴初学者应该先练习音阶，再练习简单的曲子。",
    "西红柿炒鸡蛋的做法：先炒鸡蛋，再放西红柿。",
    "苹果公司发布了新款手机，电池更耐用。",
    "糖尿病人应当少吃甜食，按时监测血糖。",
    "北京到上海的高铁大约需要四个半小时。",
    "How to train an embedding model on millions of text pairs",
    "The weather in London is rainy in November",
    "小学生作文：我的暑假生活",
]
QUERIES = [
    ("怎么学钢琴", 0),
    ("西红柿炒鸡蛋怎么做", 1),
    ("新款手机的电池", 2),
    ("糖尿病可以吃甜食吗", 3),
    ("上海到北京坐高铁多久", 4),
    ("training embedding models from pairs of text", 5),
    ("london weather", 6),
    ("作文 暑假", 7),
]


def encoder(model: str = "lexical") -> Encoder:
    return Encoder.load(EncoderSettings(model))


def encode(*texts: str, model: str = "lexical") -> np.ndarray:
    return encoder(model).encode(texts, "passage")


def same(left: str, right: str) -> float:
    first, second = encode(left, right)
    return float(first @ second)


def test_related_texts_rank_above_unrelated_ones() -> None:
    scores = encode(*(query for query, _ in QUERIES)) @ encode(*PASSAGES).T
    assert scores.argmax(axis=1).tolist() == [passage for _, passage in QUERIES]


def test_rare_words_say_more_than_common_ones() -> None:
    assert same("钢琴的", "钢琴") > same("钢琴的", "小的") + 0.3
    assert same("the piano", "piano") > same("the piano", "the weather") + 0.3


def test_the_order_of_words_counts() -> None:
    assert same("北京到上海", "北京到上海") == pytest.approx(1)
    assert 0.5 < same("北京到上海", "上海到北京") < 0.95


def test_width_form_and_case_do_not_count() -> None:
    first, second, third = encode("ＡＢＣ１２３ ｶﾀｶﾅ", "abc123 カタカナ", "Abc123 カタカナ")
    assert np.array_equal(first, second)
    assert np.array_equal(second, third)
    assert np.array_equal(*encode("钢琴，入门！", "钢琴 。入门"))


def test_punctuation_parts_words_that_a_space_does_not() -> None:
    assert same("钢琴入门", "钢琴 入门") == pytest.approx(1)
    assert same("钢琴入门", "钢琴。入门") < 0.99


def test_traditional_characters_weigh_as_much_as_simplified_ones() -> None:
    hashes, weights = lexical._common_units()
    weight_of = dict(zip(hashes.tolist(), weights.tolist(), strict=True))
    for simplified, traditional in TRADITIONAL.items():
        assert simplified in COMMON_CHARACTERS
        assert weight_of[lexical._unit_hash(simplified)] == pytest.approx(
            weight_of[lexical._unit_hash(traditional)]
        )


def test_common_units_weigh_less_the_commoner_they_are() -> None:
    hashes, weights = lexical._common_units()
    weight_of = dict(zip(hashes.tolist(), weights.tolist(), strict=True))
    first, later = (weight_of[lexical._unit_hash(unit)] for unit in "的笔")
    assert first == pytest.approx(lexical.COMMONEST_WEIGHT)
    assert first < later < 1


@pytest.mark.parametrize("text", ["", " \n\t", "，。！？…", "😀", "\0", "\u200b"])
def test_a_text_without_words_gets_zeros(text: str) -> None:
    empty, full = encode(text, "钢琴")
    assert not empty.any()
    assert np.linalg.norm(full) == pytest.approx(1)


def test_a_vector_does_not_depend_on_its_neighbors() -> None:
    # Combining marks, Hangul jamo and NUL would reach across a careless border.
    texts = [*PASSAGES, "e", "\u0301a", "ᄀ", "ᅡ", "a\0b", "\0", "", "\ud800", "钢" * 3000]
    together = encode(*texts)
    for text, vector in zip(texts, together, strict=True):
        assert np.array_equal(encode(text)[0], vector)
    assert np.array_equal(encode(*reversed(texts)), together[::-1])


def test_both_sides_of_a_text_have_the_same_vector() -> None:
    assert np.array_equal(encoder().encode(PASSAGES, "query"), encode(*PASSAGES))


def test_the_width_can_be_chosen() -> None:
    assert encode("钢琴").shape == (1, lexical.WIDTH)
    assert encode("钢琴", model="lexical-64").shape == (1, 64)
    assert encoder("lexical-64").spec("query").model == "lexical-64"
    scores = encode(*(q for q, _ in QUERIES), model="lexical-384")
    found = (scores @ encode(*PASSAGES, model="lexical-384").T).argmax(axis=1)
    assert found.tolist() == [passage for _, passage in QUERIES]
    for model in ("lexical-8", "lexical-wide", "lexical-0384x"):
        with pytest.raises(ValueError, match=rf"model '{model}': write lexical for 768 dim.*384"):
            encoder(model)


def test_settings_that_it_cannot_obey_are_refused() -> None:
    for setting in ({"query_instruction": "q: "}, {"max_tokens": 8}, {"pooling": "mean"}):
        with pytest.raises(ValueError, match=f"{next(iter(setting))} was given, but the encoder"):
            Encoder.load(EncoderSettings(**setting))


def test_vectors_are_told_apart_by_width_side_and_name() -> None:
    settings = [EncoderSettings(), EncoderSettings("lexical-64"), EncoderSettings(name="mine")]
    specs = [spec_of(s, side) for s in settings for side in ("query", "passage")]
    assert len({spec.key for spec in specs}) == 6
    assert spec_of(settings[0], "query") == encoder().spec("query")


def test_no_texts_give_no_vectors_and_progress_counts_the_others() -> None:
    seen: list[int] = []
    assert encoder().encode([], "query", seen.append).shape == (0, lexical.WIDTH)
    encoder().encode(PASSAGES, "query", seen.append)
    assert seen == [0, len(PASSAGES)]


FROZEN = {  # at width 16
    # What stores keep: raise lexical.REVISION where one of these changes.
    "学钢琴": {
        1: -0.3788,
        2: -0.2767,
        3: 0.3788,
        5: 0.2294,
        7: -0.2767,
        12: 0.6439,
        13: -0.1494,
        15: 0.2652,
    },
    "Hello, World 123": {6: 0.4481, 8: 0.3137, 9: 0.4481, 11: 0.4481, 13: 0.4481, 15: 0.3137},
}


@pytest.mark.parametrize("text", FROZEN)
def test_the_vector_of_a_text_never_changes(text: str) -> None:
    (vector,) = encode(text, model="lexical-16")
    found = {place: value for place, value in enumerate(vector.tolist()) if value}
    assert found == pytest.approx(FROZEN[text], abs=1e-4)


def test_vectors_are_the_same_in_another_process_without_torch() -> None:
    program = (
        "import sys; from mining.encoder import *; "
        "v = Encoder.load(EncoderSettings()).encode(['怎么学钢琴'], 'query'); "
        "assert 'torch' not in sys.modules; sys.stdout.write(v.tobytes().hex())"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, check=True, capture_output=True, text=True
    )
    assert done.stdout == encode("怎么学钢琴").tobytes().hex()
