import re
import unicodedata
from pathlib import Path

import duckdb
import numpy as np
import opencc
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st

from curation import texts
from curation.texts import (
    Texts,
    decode,
    encode,
    find_gaps,
    from_strings,
    normalize,
    pair_keys,
    text_keys,
)

SIMPLIFY = opencc.OpenCC("t2s")
SELECTORS = {*range(0x180B, 0x1810), *range(0xFE00, 0xFE10), *range(0xE0100, 0xE01F0)}


def plain_normalize(text: str) -> str:
    """Say the formula of curation/texts.py in plain Python."""
    compatible = unicodedata.normalize("NFKC", text)
    chars = [
        part
        for char in compatible
        for part in (SIMPLIFY.convert(char) if char > "\x7f" else char).lower()
    ]
    kept = []
    for at, char in enumerate(chars):
        category = unicodedata.category(char)
        stripped = category[0] in "ZP" or category in ("Cc", "Cf") or ord(char) in SELECTORS
        if char == ".":
            around = "".join(chars[max(at - 1, 0) : at + 2])
            stripped = re.fullmatch(r"[0-9]\.[0-9]", around) is None
        elif char in "#+%":
            stripped = False
        if not stripped:
            kept.append(char)
    return "".join(kept) or "".join(compatible.split())


def normalized(text: str) -> str:
    return normalize(from_strings([text])).text(0)


def strings(column: Texts) -> list[str | None]:
    return encode(column).to_pylist()


@pytest.mark.parametrize(
    ("text", "key_text"),
    [
        ("Ｃ＃ 语言，第３章！", "c#语言第3章"),  # full-width
        ("讀書與電腦網絡", "读书与电脑网络"),  # traditional
        ("ﬁnd the oﬃce", "findtheoffice"),  # ligatures
        ("好的😀👍🏽", "好的😀👍🏽"),  # emoji and skin tone are symbols
        ("👨‍👩‍👧", "👨👩👧"),  # the joiner cannot be seen
        ("❤️", "❤"),  # variation selector
        ("e\u0301t\u00e9", "été"),  # a mark joins the letter before it
        ("ｶﾞ", "ガ"),  # half-width voiced mark
        ("\u1112\u1161\u11ab", "한"),  # jamo
        ("a\u0323\u0307", "ạ\u0307"),  # marks change places
        ("a\x00b", "ab"),  # NUL
        ("3.5 与 ３．５ 与 35", "3.5与3.5与35"),
        ("第3.章 .5 3..5 v1.2.3", "第3章535v1.2.3"),
        ("⒈5", "1.5"),  # one code point that ends in a dot
        ("50% C++ C# C", "50%c++c#c"),
        ("\ufdfa", "صلىاللهعليهوسلم"),  # one code point becomes eighteen
        ("ΣΑΣ", "σασ"),  # lower case is per character: no final sigma
        ("İ", "i\u0307"),
        ("，。 ？", ",。?"),  # nothing is left: NFKC without white space
        ("？？？", "???"),
        ("!!!", "!!!"),
        ("  \n\t\u3000", ""),
        ("", ""),
    ],
)
def test_normalizes_as_written(text: str, key_text: str) -> None:
    assert normalized(text) == key_text == plain_normalize(text)


def test_every_code_point_alone_follows_the_plain_formula() -> None:
    chars = [chr(code) for code in range(0x110000) if not 0xD800 <= code < 0xE000]
    compatible = unicodedata.normalize("NFKC", "\n".join(chars[0x20:])).split("\n")
    simple = SIMPLIFY.convert("\n".join(compatible)).split("\n")
    differ = {char for char, to in zip(chars[0x20:], simple, strict=True) if char != to.lower()}
    walked = dict(zip(chars, strings(normalize(from_strings(chars))), strict=True))
    differ |= {char for char, to in walked.items() if char != to}
    assert 10_000 < len(differ) < 12_000
    assert {char: walked[char] for char in differ} == {c: plain_normalize(c) for c in differ}


def test_every_pair_around_a_combining_code_point_follows_the_plain_formula() -> None:
    table, _ = texts._normal_table()
    combining = np.flatnonzero(table & np.uint32(texts._COMBINES) * (table < texts._MANY))[::5]
    samples = [base + chr(code) + "\u0323" for code in combining for base in "aカ가"]
    assert strings(normalize(from_strings(samples))) == [plain_normalize(text) for text in samples]


ODD = st.sampled_from(
    "Ａａ１．.。，!#+%３.5\u0301\u0327\uff9e\u1161\u11a8가讀ﬁ\ufe0f\u200d😀\x00\n 　⒈½Σ"
)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.text(ODD | st.characters(exclude_categories=["Cs"]), max_size=12), max_size=4))
def test_any_text_follows_the_plain_formula(column: list[str]) -> None:
    assert strings(normalize(from_strings(column))) == [plain_normalize(text) for text in column]


@settings(max_examples=100, deadline=None)
@given(st.text(ODD, max_size=12))
def test_normalizing_twice_changes_only_what_stripping_joined(text: str) -> None:
    once = normalized(text)
    assert normalized(once) == plain_normalize(once)


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string()])
def test_decodes_nulls_slices_and_chunks(kind: pa.DataType) -> None:
    rows = ["aé中😀", None, "", "第二", None, "x"]
    array = pa.array(rows, kind)
    assert strings(decode(array)) == rows
    assert strings(decode(array[1:4])) == rows[1:4]
    assert strings(decode(array[:0])) == []
    chunked = pa.chunked_array([array[3:], array[:0], array[:2]])
    assert strings(decode(chunked)) == rows[3:] + rows[:2]
    assert strings(decode(pa.chunked_array([], kind))) == []
    column = decode(array[3:])
    assert [chr(code) for code in column.codepoints] == ["第", "二", "x"]
    assert column.offsets.tolist() == [0, 2, 2, 3]
    assert column.valid.tolist() == [True, False, True]
    assert column.codepoints.dtype == np.uint32
    assert len(column) == 3
    assert column.lengths.tolist() == [2, 0, 1]


@pytest.mark.parametrize(
    "raw",
    [
        b"\xed\xa0\x80",  # surrogate
        b"\xed\xbf\xbf",
        b"\xc0\x80",  # overlong
        b"\xc1\xbf",
        b"\xe0\x9f\xbf",
        b"\xf0\x8f\xbf\xbf",
        b"\xf4\x90\x80\x80",  # above U+10FFFF
        b"\xf5\x80\x80\x80",
        b"\x80",
        b"\xff",
        b"\xe4\xb8",  # cut
        b"\xc3",
        b"\xf0\x9f\x98",
        b"\xe4\xb8a",
        b"\xe4ab",
        b"\xc3a",
        b"\xf0\x9f\x98a",
    ],
)
def test_refuses_invalid_utf8_where_python_does(raw: bytes) -> None:
    with pytest.raises(UnicodeDecodeError):
        raw.decode()
    column = pa.array([b"good", b"ab" + raw, b"\x80\x80\x80"]).cast(pa.binary()).view(pa.string())
    with pytest.raises(ValueError, match=r"text 1 is not valid UTF-8 at its byte 2.*quarantine"):
        decode(column)
    assert strings(decode(column[:1])) == ["good"]


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=6) | st.text(max_size=3).map(str.encode))
def test_accepts_the_bytes_that_python_accepts(raw: bytes) -> None:
    column = pa.array([raw], pa.binary()).view(pa.string())
    try:
        expected = raw.decode()
    except UnicodeDecodeError:
        with pytest.raises(ValueError, match="not valid UTF-8"):
            decode(column)
    else:
        assert decode(column).text(0) == expected


def test_garbage_under_a_null_is_not_read() -> None:
    buffers = [pa.array([True, False]).buffers()[1], pa.array([0, 1, 3], pa.int32()).buffers()[1]]
    column = pa.Array.from_buffers(pa.string(), 2, [*buffers, pa.py_buffer(b"a\xff\xff")])
    assert strings(decode(column)) == ["a", None]
    assert decode(column).lengths.tolist() == [1, 0]


def test_refuses_a_column_that_is_not_text() -> None:
    with pytest.raises(ValueError, match="string or large_string, not int64: cast it"):
        decode(pa.array([1]))


def test_a_key_is_the_xxh3_of_the_normalized_text() -> None:
    keys = text_keys(normalize(from_strings(["Ｃ＃ 语言", None, "c#语言", "c语言"])))
    assert keys.type == pa.uuid()
    expected = xxhash.xxh3_128_digest("c#语言")
    assert [key and key.bytes for key in keys.to_pylist()][:3] == [expected, None, expected]
    assert keys[3] != keys[0]


def test_a_pair_key_knows_the_sides_and_is_null_where_one_is() -> None:
    a, b = (text_keys(from_strings(rows)) for rows in (["x", "y", None], ["y", "x", "y"]))
    keys = pair_keys(a, b).to_pylist()
    assert keys[0].bytes == xxhash.xxh3_128_digest(a[0].as_py().bytes + b[0].as_py().bytes)
    assert keys[0] != keys[1]
    assert keys[2] is None
    assert pair_keys(a[1:], b[1:]).to_pylist() == keys[1:]
    with pytest.raises(ValueError, match="3 query keys for 2 positive keys"):
        pair_keys(a, b[1:])


def test_keys_pass_through_parquet_into_duckdb_as_uuid(tmp_path: Path) -> None:
    keys = text_keys(from_strings(["a", None]))
    path = tmp_path / "keys.parquet"
    pq.write_table(pa.table({"key": keys}), path)
    assert pq.read_table(path)["key"].to_pylist() == keys.to_pylist()
    query = f"select key, typeof(key) from '{path}'"
    assert duckdb.sql(query).fetchall() == [(keys[0].as_py(), "UUID"), (None, "UUID")]


def test_gaps_are_where_something_was_stripped_before_what_is_left() -> None:
    column = from_strings(
        ["a b.c", "3.5 ⒈5", "甲 a，\u200bb", "甲 乙", " a", "?!", None, "e\u0301 x"]
    )
    kept = normalize(column)
    gaps = find_gaps(column, kept)
    marked = [
        "".join("_" * int(gap) + chr(code) for code, gap in zip(codes, flags, strict=True))
        for codes, flags in zip(
            np.split(kept.codepoints, kept.offsets[1:-1]),
            np.split(gaps, kept.offsets[1:-1]),
            strict=True,
        )
    ]
    assert marked == ["a_b_c", "3.5_1.5", "甲_a_b", "甲乙", "_a", "?!", "", "é_x"]
