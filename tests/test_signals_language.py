from pathlib import Path

import fasttext
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from curation.signals import lid
from curation.signals.batch import PairBatch
from curation.signals.language import _model, language
from curation.signals.language_model import bundled_model, read_model
from curation.signals.settings import SignalSettings
from curation.texts import from_strings


def languages(texts: list[str | None], **settings: int) -> list[tuple[str, bool, str]]:
    """Give language, whether there is a score, and method, of each text."""
    rows = {"pair_id": range(len(texts)), "positive": pa.array(texts, pa.string())}
    found = language(PairBatch(pa.table(rows)), "passage", SignalSettings(**settings))
    named, scores, methods = (
        found[f"language{part}"].to_pylist() for part in ("", "_score", "_method")
    )
    return [(a, b is not None, c) for a, b, c in zip(named, scores, methods, strict=True)]


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("今天天气很好，我们一起去公园散步吧。", "zh"),
        ("學而時習之，不亦說乎？有朋自遠方來，不亦樂乎？", "zh"),
        ("The weather is nice today, let us walk in the park.", "en"),
        ("今日は天気がいいので、公園を散歩しましょう。", "ja"),
        ("오늘은 날씨가 좋아서 공원을 산책합시다.", "ko"),
        ("Сегодня хорошая погода, пойдём гулять в парк.", "ru"),
    ],
)
def test_the_model_names_the_language_of_a_sentence(text: str, named: str) -> None:
    assert languages([text]) == [(named, True, "model")]


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("好的", "zh"),
        ("優の良品", "zh"),
        ("ありがとう", "ja"),
        ("東京タワー", "ja"),
        ("감사합니다", "ko"),
        ("OK好的", "zh"),
        ("hello", "und"),
        ("123456789012345", "und"),
        ("", "und"),
    ],
)
def test_scripts_name_the_language_of_a_few_letters(text: str, named: str) -> None:
    assert languages([text]) == [(named, False, "script")]


def test_ten_letters_are_enough_and_nine_are_not() -> None:
    assert [
        method for _, _, method in languages(["一二三四五六七八九", "一二三四五六七八九十"])
    ] == [
        "script",
        "model",
    ]
    assert languages(["一二三"], language_min_letters=3)[0][2] == "model"


def test_a_null_has_no_language() -> None:
    assert languages([None]) == [(None, False, None)]


def test_only_the_first_characters_are_read() -> None:
    text = "今天天气很好，我们去公园。" + "and then everything else was in English " * 20
    assert languages([text])[0][0] == "en"
    assert languages([text], language_max_chars=13)[0][0] == "zh"


@pytest.fixture(scope="module")
def reference() -> fasttext.FastText._FastText:
    return fasttext.load_model(str(bundled_model()))


def predict(text: str) -> tuple[str, float]:
    texts = from_strings([text])
    labels, scores = lid.predict(_model(), texts, np.ones(1, np.bool_), 1_000)
    return _model().labels[labels[0]], float(scores[0])


BLANKS = str.maketrans(dict.fromkeys("\n\r\t\v\f\0", " "))
WORDS = st.sampled_from(
    ["今天天气", "the weather", "погода", "あした", "한국어", "é", "😀", "—", "zh", " ", "\n", "a1"]
)


@hypothesis_settings(deadline=None, max_examples=300)
@given(text=st.lists(WORDS, max_size=12).map("".join) | st.text(max_size=40))
def test_labels_and_scores_are_those_of_fasttext(
    reference: fasttext.FastText._FastText, text: str
) -> None:
    lines = [text.translate(BLANKS) + "\n"]
    labels, scores = reference.f.multilinePredict(lines, 1, 0.0, "strict")
    name, score = predict(text)
    assert score == pytest.approx(float(scores[0][0]), abs=1e-5)
    second = reference.f.multilinePredict(lines, 2, 0.0, "strict")[1][0]
    if len(second) == 1 or second[0] - second[1] > 1e-5:  # not a tie
        assert name == labels[0][0].removeprefix("__label__")


def test_a_file_that_is_no_such_model_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.ftz"
    path.write_bytes(b"\0" * 100)
    with pytest.raises(ValueError, match=r"model\.ftz is no fastText model of version 12"):
        read_model(path)
    data = bytearray(bundled_model().read_bytes())
    data[8 + 5 * 4] = 2  # word n-grams
    path.write_bytes(data)
    with pytest.raises(ValueError, match="word n-grams or another loss"):
        read_model(path)
