"""A trie of words over code points: the leftmost longest of them in texts, without overlaps.

Most positions of a text begin no word. A bit for the three characters there says so in one load,
from a table that stays in the processor's cache; only what passes walks the trie. An Aho-Corasick
automaton of 50,000 words does not fit there, and takes a step at every byte. It never goes back,
though, where a walk costs a position as many steps as some word goes on there: a text that repeats
the beginning of a very long word all along takes longer here.
"""

from typing import Final

import numpy as np
import numpy.typing as npt

from curation.texts import CodePoints, Flags, Integer, Offsets, Texts, kernel

Keys = npt.NDArray[np.uint64]
Numbers = npt.NDArray[np.int32]
Matches = npt.NDArray[np.int64]

# An edge is a state of 42 bits and a character of 21. The state behind two characters is these two,
# so that the first edge of a longer word is its first three characters. A later state is
# _DEEP + the slot of the edge that leads to it. A word of one or two characters is an edge that
# begins with _ONE or _TWO, which are no characters.
_CODE_BITS: Final = np.uint64(21)
_DEEP: Final = np.uint64(0x110000 << 21)
_ONE: Final = np.uint64(0x1FFFFE << 42)
_TWO: Final = np.uint64(0x1FFFFD << 42)
_FREE: Final = np.uint64(0xFFFFFFFFFFFFFFFF)
_MIX: Final = np.uint64(0x9E3779B97F4A7C15)
# With 32 bits a first edge, one position of thirty at most passes the filter for nothing.
_FILTER_BITS: Final = 32


class WordTrie:
    """Words as edges (state, character) in a hash table with open addressing."""

    def __init__(self, words: Texts, alone: Flags | None = None, gaps: Flags | None = None) -> None:
        """Number words as they come; of equal words the first counts, and an empty one is none.

        ``alone`` says which words must stand alone, ``gaps`` before which of the words' characters
        something was stripped.
        """
        *_, edges = _table(words, len(words.codepoints))
        self._edges, self._words, _ = _table(words, edges)
        first = self._edges[(self._edges != _FREE) & ~_is_deep(self._edges)]
        self._filter = np.zeros(1 << (_FILTER_BITS * len(first) // 64).bit_length(), np.uint64)
        _mark(self._filter, first)
        self._has_one = bool(np.any(first >= _ONE))
        alone = np.zeros(len(words), np.bool_) if alone is None else alone
        gaps = np.zeros(len(words.codepoints), np.bool_) if gaps is None else gaps
        self._patterns = gaps[np.repeat(alone, words.lengths)]
        self._pattern_offsets = np.concatenate([[0], np.cumsum(words.lengths * alone)])

    def find(self, texts: Texts, gaps: Flags | None = None) -> Matches:
        """Find the words in texts: rows of (word, text), in the order of the texts.

        With ``gaps``, which say before which characters of the texts something was stripped, words
        that must stand alone do: they have gaps where they are written with them and nowhere else,
        and no letter a to z or digit right before or behind them. Without, they are found anywhere.
        """
        return _find(
            texts.codepoints, texts.offsets, np.empty(0, np.bool_) if gaps is None else gaps,
            self._filter, self._has_one, self._edges, self._words, self._patterns,
            self._pattern_offsets,
        )  # fmt: skip


def _table(words: Texts, edges: int) -> tuple[Keys, Numbers, int]:
    """Lay words into a table that so many edges fill half at most; give also how many they are."""
    slots = 1 << max(2 * edges, 64).bit_length()
    keys, numbers = np.full(slots, _FREE), np.full(slots, -1, np.int32)
    return keys, numbers, _grow(words.codepoints, words.offsets, keys, numbers)


def _is_deep(edges: Keys) -> npt.NDArray[np.bool_]:
    states = edges >> _CODE_BITS
    return np.asarray((states >= _DEEP) & (states < _TWO >> _CODE_BITS))


@kernel
def _grow(codepoints: CodePoints, offsets: Offsets, edges: Keys, words: Numbers) -> int:
    grown = 0
    for word in range(len(offsets) - 1):
        codes = codepoints[offsets[word] : offsets[word + 1]]
        if len(codes) == 0:
            continue
        edge: Integer = _short(codes)
        if len(codes) > 2:
            edge = _triple(codes, 0)
        slot = _slot(edges, edge)
        grown += edges[slot] == _FREE
        edges[slot] = edge
        for code in codes[3:]:
            edge = _deep(slot, code)
            slot = _slot(edges, edge)
            grown += edges[slot] == _FREE
            edges[slot] = edge
        if words[slot] < 0:
            words[slot] = word
    return grown


@kernel
def _short(codes: CodePoints) -> Integer:
    if len(codes) == 1:
        return _one(codes, 0)
    return _two(codes, 0)


@kernel
def _one(codes: CodePoints, at: int) -> Integer:
    return _ONE | np.uint64(codes[at])


@kernel
def _two(codes: CodePoints, at: int) -> Integer:
    return _TWO | np.uint64(codes[at]) << _CODE_BITS | np.uint64(codes[at + 1])


@kernel
def _triple(codes: CodePoints, at: int) -> Integer:
    pair = np.uint64(codes[at]) << _CODE_BITS | np.uint64(codes[at + 1])
    return pair << _CODE_BITS | np.uint64(codes[at + 2])


@kernel
def _deep(slot: Integer, code: Integer) -> Integer:
    return (_DEEP + slot) << _CODE_BITS | np.uint64(code)


@kernel
def _hash(edge: Integer) -> Integer:
    """Hash an edge to 32 bits: bits of a product depend on lower ones only, so the high join."""
    return (edge ^ edge >> np.uint64(42)) * _MIX >> np.uint64(32)


@kernel
def _slot(edges: Keys, edge: Integer) -> Integer:
    """Find the slot of an edge, or the free one where it would be."""
    mask = np.uint64(len(edges) - 1)
    slot: Integer = _hash(edge) & mask
    while edges[slot] != edge and edges[slot] != _FREE:
        slot = (slot + np.uint64(1)) & mask
    return slot


@kernel
def _bit(filter_: Keys, edge: Integer) -> tuple[Integer, Integer]:
    """Give the word of the filter that is an edge's, and its bit there."""
    hashed = _hash(edge)
    return hashed >> np.uint64(6) & np.uint64(len(filter_) - 1), hashed & np.uint64(63)


@kernel
def _mark(filter_: Keys, edges: Keys) -> None:
    for edge in edges:
        place, bit = _bit(filter_, edge)
        filter_[place] |= np.uint64(1) << bit


@kernel
def _may_begin(filter_: Keys, edge: Integer) -> bool:
    place, bit = _bit(filter_, edge)
    return bool(filter_[place] >> bit & np.uint64(1))


@kernel
def _word(edges: Keys, words: Numbers, edge: Integer) -> int:
    slot = _slot(edges, edge)
    return int(words[slot]) if edges[slot] == edge else -1


@kernel
def _find(  # noqa: C901, PLR0913
    codepoints: CodePoints,
    offsets: Offsets,
    gaps: Flags,
    filter_: Keys,
    has_one: bool,
    edges: Keys,
    words: Numbers,
    patterns: Flags,
    pattern_offsets: Offsets,
) -> Matches:
    """Take each position's longest word; a function of its own for that halved the speed."""
    found = np.empty((len(codepoints), 2), np.int64)
    count = 0
    for row in range(len(offsets) - 1):
        codes = codepoints[offsets[row] : offsets[row + 1]]
        marks = gaps[offsets[row] : offsets[row + 1]]
        at = 0
        while at < len(codes):
            word, size = -1, 1
            if has_one and _may_begin(filter_, _one(codes, at)):
                number = _word(edges, words, _one(codes, at))
                if number >= 0 and _fits(codes, marks, at, patterns, pattern_offsets, number):
                    word = number
            if at + 1 < len(codes) and _may_begin(filter_, _two(codes, at)):
                number = _word(edges, words, _two(codes, at))
                if number >= 0 and _fits(codes, marks, at, patterns, pattern_offsets, number):
                    word, size = number, 2
            if at + 2 < len(codes) and _may_begin(filter_, _triple(codes, at)):
                edge = _triple(codes, at)
                stop, slot = at + 3, _slot(edges, edge)
                while edges[slot] == edge:
                    number = int(words[slot])
                    if number >= 0 and _fits(codes, marks, at, patterns, pattern_offsets, number):
                        word, size = number, stop - at
                    if stop == len(codes):
                        break
                    edge = _deep(slot, codes[stop])
                    stop, slot = stop + 1, _slot(edges, edge)
            if word >= 0:
                found[count, 0], found[count, 1] = word, row
                count += 1
            at += size
    return found[:count].copy()


@kernel
def _fits(
    codes: CodePoints,
    marks: Flags,
    at: int,
    patterns: Flags,
    pattern_offsets: Offsets,
    word: int,
) -> bool:
    """Say whether a word that must stand alone does; where texts have no marks, any word does."""
    first, size = pattern_offsets[word], pattern_offsets[word + 1] - pattern_offsets[word]
    if len(marks) == 0 or size == 0:
        return True
    stop = at + size
    if at > 0 and not marks[at] and _is_latin(codes[at - 1]):
        return False
    if stop < len(codes) and not marks[stop] and _is_latin(codes[stop]):
        return False
    is_parted = True
    for place in range(1, size):
        is_parted &= marks[at + place] == patterns[first + place]
    return is_parted


@kernel
def _is_latin(code: Integer) -> bool:
    return bool(97 <= code <= 122 or 48 <= code <= 57)
