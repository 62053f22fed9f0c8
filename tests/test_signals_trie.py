import numpy as np
import pyarrow.parquet as pq
import pytest
from ahocorasick_rs import AhoCorasick, MatchKind
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.machine import DATA
from curation.signals.trie import WordTrie
from curation.texts import decode, encode, from_strings, normalize

# Few letters, so that words overlap and repeat; one of them beyond 16 bits.
LETTERS = st.sampled_from("ab中国\U0002a700")
WORDS = st.lists(st.text(LETTERS, max_size=6), max_size=12)


def find(words: list[str], texts: list[str | None]) -> list[tuple[int, int]]:
    return [tuple(row) for row in WordTrie(from_strings(words)).find(from_strings(texts)).tolist()]


def plainly(words: list[str], texts: list[str | None]) -> list[tuple[int, int]]:
    """Try every word at every position."""
    found = []
    for row, text in enumerate(texts):
        at = 0
        while text and at < len(text):
            here = [word for word in words if word and text.startswith(word, at)]
            longest = max(here, key=len, default="")
            if longest:
                found.append((words.index(longest), row))
            at += len(longest) or 1
    return found


@settings(deadline=None)
@given(WORDS, st.lists(st.none() | st.text(LETTERS, max_size=30), max_size=5))
def test_it_finds_what_trying_every_word_finds(words: list[str], texts: list[str | None]) -> None:
    assert find(words, texts) == plainly(words, texts)


def test_the_longest_word_counts_and_no_other_begins_inside_it() -> None:
    words = ["上海", "海", "海市", "上海市长"]
    assert find(words, ["上海市", "上海市长", "海海市"]) == [(0, 0), (3, 1), (1, 2), (2, 2)]


def test_a_word_does_not_go_on_into_the_next_text() -> None:
    assert find(["甲乙", "甲乙丙", "丙丁戊己"], ["甲", "乙甲乙", "丙丁", "戊己"]) == [(0, 1)]


def test_no_words_and_no_texts_are_no_error() -> None:
    assert find([], ["甲"]) == find(["甲"], []) == find([""], ["甲", "", None]) == []


def test_as_many_words_as_characters_are_all_found() -> None:
    words = [chr(code) for code in range(0x4E00, 0x9FA6)]
    assert find(words, ["".join(words)]) == [(number, 0) for number in range(len(words))]


@pytest.mark.data
@pytest.mark.skipif(not DATA.exists(), reason=f"the shared corpus of real pairs is not in {DATA}")
def test_it_finds_in_real_texts_what_an_automaton_finds() -> None:
    path = DATA / "pairs" / "lifehacker_zh.parquet"
    texts = normalize(decode(pq.read_table(path, columns=["text2"])["text2"][:1_000]))
    strings = encode(texts).to_pylist()
    grams = {text[at : at + 2 + at % 5] for text in strings for at in range(0, len(text) - 7, 11)}
    words = sorted(grams)
    automaton = AhoCorasick(words, matchkind=MatchKind.LeftmostLongest)
    expected = [
        (word, row)
        for row, text in enumerate(strings)
        for word, _, _ in automaton.find_matches_as_indexes(text)
    ]
    assert len(expected) > 10_000
    assert np.array_equal(WordTrie(from_strings(words)).find(texts), expected)
