import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from curation.signals.batch import PairBatch
from curation.signals.repetition import NGRAMS, repeated_ngrams
from curation.signals.settings import SignalSettings


def repetition(texts: list[str]) -> list[dict[str, float]]:
    rows = {"pair_id": range(len(texts)), "positive": pa.array(texts, pa.string())}
    found = repeated_ngrams(PairBatch(pa.table(rows)), "passage", SignalSettings())
    assert list(found) == [measure.name for measure in NGRAMS.measures]
    return [
        {name: float(column[row]) for name, column in found.items()} for row in range(len(texts))
    ]


def plain_repetition(text: str) -> dict[str, float]:
    """Measure repetition in plain Python: str.count and Gopher's loop."""
    visible = "".join(text.split())
    if not visible:
        return dict.fromkeys((measure.name for measure in NGRAMS.measures), 0.0)
    shares = {}
    for n in (2, 3, 4):
        grams = {visible[at : at + n] for at in range(len(visible) - n + 1)}
        most = max((visible.count(gram) for gram in grams), default=0)
        shares[f"top_{n}gram_share"] = most * n / len(visible) if most > 1 else 0
    for n in range(5, 11):
        seen, covered, at = set(), 0, 0
        while at < len(visible) - n + 1:
            gram = visible[at : at + n]
            covered += n * (gram in seen)
            at += n if gram in seen else 1
            seen.add(gram)
        shares[f"duplicate_{n}gram_share"] = covered / len(visible)
    return shares


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("甲乙丙丁戊己庚辛", {"top_2gram_share": 0, "duplicate_5gram_share": 0}),
        ("甲乙甲乙丙丁", {"top_2gram_share": 4 / 6, "top_3gram_share": 0}),
        ("啊啊啊", {"top_2gram_share": 0}),  # 啊啊 stands twice only across itself
        ("啊啊啊啊", {"top_2gram_share": 1}),
        ("甲 乙\n甲 乙", {"top_2gram_share": 1}),  # white space does not count
        ("天气真好啊天气真好啊", {"top_4gram_share": 0.8, "duplicate_5gram_share": 0.5}),
        ("12345678901234567890", {"duplicate_10gram_share": 0.5, "duplicate_9gram_share": 0.45}),
        ("", {"top_2gram_share": 0, "duplicate_10gram_share": 0}),
        ("甲", {"top_2gram_share": 0}),
    ],
)
def test_repetition_of_written_out_texts(text: str, expected: dict[str, float]) -> None:
    found = repetition([text])[0]
    assert {name: found[name] for name in expected} == pytest.approx(expected)


REPEATED = st.lists(st.sampled_from(["甲", "乙丙", "甲乙丙丁戊", " ", "啊啊啊"]), max_size=12)


@hypothesis_settings(deadline=None, max_examples=400)
@given(st.lists(REPEATED.map("".join) | st.text("ab", max_size=30), max_size=4))
def test_repetition_equals_the_plain_count_in_every_row(texts: list[str]) -> None:
    for found, text in zip(repetition(texts), texts, strict=True):
        assert found == pytest.approx(plain_repetition(text), abs=1e-6)


def test_a_long_text_after_a_short_one_has_room() -> None:
    long = "".join(chr(0x4E00 + number * number % 5_000) for number in range(3_000))
    assert repetition(["甲乙", long, "甲乙"])[1] == pytest.approx(plain_repetition(long), abs=1e-6)
