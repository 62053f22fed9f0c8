import unicodedata

import numpy as np
import opencc
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from curation.signals.batch import PairBatch
from curation.signals.characters import KINDS, LENGTHS, character_kinds, lengths
from curation.signals.repetition import repeated_characters
from curation.signals.settings import SignalSettings

SIMPLIFY = opencc.OpenCC("t2s")


def batch(texts: list[str]) -> PairBatch:
    rows = {"pair_id": range(len(texts)), "positive": pa.array(texts, pa.string())}
    return PairBatch(pa.table(rows))


def kinds(text: str) -> dict[str, float]:
    """Measure the kinds of a passage; what is 0 is left out."""
    found = character_kinds(batch([text]), "passage", SignalSettings())
    assert list(found) == [measure.name for measure in KINDS.measures]
    return {name: float(column[0]) for name, column in found.items() if column[0]}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("中文12", {"han_share": 0.5, "digit_share": 0.5}),
        ("〇々㐀", {"han_share": 1}),
        ("漢字，简体", {"han_share": 0.8, "punctuation_share": 0.2, "traditional_share": 0.25}),
        ("aＡé。", {"latin_share": 0.75, "punctuation_share": 0.25}),
        ("ひらカナ", {"kana_share": 1}),
        ("한국", {"hangul_share": 1}),
        ("мир!", {"cyrillic_share": 0.75, "punctuation_share": 0.25}),
        ("１2٣", {"digit_share": 1}),
        ("＋=$", {"symbol_share": 1}),
        ("😀❤", {"symbol_share": 1, "emoji_share": 1}),
        ("☆→", {"symbol_share": 1}),
        (" \t\n　\u00a0\u2028", {"space_share": 1}),
        ("a\x00\u200b\ufeff", {"latin_share": 0.25, "control_share": 0.75}),
        ("👨\u200d👩", {"symbol_share": 2 / 3, "emoji_share": 2 / 3}),  # the joiner is no control
        ("\ue012中", {"private_share": 0.5, "han_share": 0.5}),
        ("\U0010fffd中", {"private_share": 0.5, "han_share": 0.5}),
        ("\u0378中", {"unassigned_share": 0.5, "han_share": 0.5}),
        ("【热】#", {"han_share": 0.25, "bracket_share": 0.5, "punctuation_share": 0.75,
                    "hash_share": 0.25}),
        ("好…⋯.", {"han_share": 0.25, "ellipsis_share": 0.5, "punctuation_share": 0.5,
                   "symbol_share": 0.25}),
        ("\ufffd中", {"replacement_chars": 1, "symbol_share": 0.5, "han_share": 0.5}),
        ("", {}),
    ],
)  # fmt: skip
def test_kinds_of_written_out_texts(text: str, expected: dict[str, float]) -> None:
    assert kinds(text) == pytest.approx(expected)


@hypothesis_settings(deadline=None, max_examples=200)
@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=20), max_size=4))
def test_shares_by_category_equal_a_plain_count(texts: list[str]) -> None:
    found = character_kinds(batch(texts), "passage", SignalSettings())

    def expect(name: str, holds: object) -> None:
        shares = [sum(map(holds, text)) / len(text) if text else 0 for text in texts]
        assert found[name].tolist() == pytest.approx(shares, abs=1e-6), name

    expect("digit_share", str.isdecimal)
    expect("space_share", lambda char: char.isspace())
    for name, category in (("punctuation", "P"), ("symbol", "S"), ("private", "Co")):
        expect(f"{name}_share", lambda char, c=category: unicodedata.category(char).startswith(c))


def test_traditional_is_what_opencc_changes() -> None:
    text = "學而時習之，不亦說乎？有朋自遠方來"
    han = [char for char in text if char.isalpha()]
    changed = sum(SIMPLIFY.convert(char) != char for char in han)
    assert kinds(text)["traditional_share"] == pytest.approx(changed / len(han))


def test_lengths_count_characters_bytes_and_what_a_key_keeps() -> None:
    found = lengths(batch(["中文 a!", "😀", ""]), "passage", SignalSettings())
    assert {name: np.asarray(column).tolist() for name, column in found.items()} == {
        "chars": [5, 1, 0],
        "bytes": [9, 4, 0],
        "content_chars": [3, 1, 0],
    }
    assert list(found) == [measure.name for measure in LENGTHS.measures]


def test_bytes_of_a_slice_are_those_of_its_rows() -> None:
    rows = pa.table({"pair_id": [1, 2], "positive": ["中文", "a"]}).slice(1)
    assert lengths(PairBatch(rows), "passage", SignalSettings())["bytes"].to_pylist() == [1]


@pytest.mark.parametrize(
    ("text", "unique", "longest"),
    [("哈哈哈哈", 0.25, 4), ("abab", 0.5, 1), ("a啊啊啊b啊", 0.5, 3), ("x", 1, 1), ("", 0, 0)],
)
def test_variety_of_written_out_texts(text: str, unique: float, longest: int) -> None:
    found = repeated_characters(batch([text]), "passage", SignalSettings())
    assert [float(column[0]) for column in found.values()] == [unique, longest]


@hypothesis_settings(deadline=None, max_examples=200)
@given(st.lists(st.text("ab中\n", max_size=15), max_size=5))
def test_variety_equals_a_plain_count(texts: list[str]) -> None:
    found = repeated_characters(batch(texts), "passage", SignalSettings())
    unique = [len(set(text)) / len(text) if text else 0 for text in texts]
    assert found["unique_char_share"].tolist() == pytest.approx(unique)
    longest = [
        max((n for n in range(len(text) + 1) for c in set(text) if c * n in text), default=0)
        for text in texts
    ]
    assert found["longest_run_chars"].tolist() == longest
