"""Repetition inside a text: what Gopher and FineWeb-2 measure on words, on characters.

Chinese has no word boundaries to count on, and a tokenizer costs a hundred times what all other
signals cost together; so n-grams are of n characters here, over the text without its white space.
A Chinese word has about 1.7 characters: thresholds published for word n-grams are stricter here.
"""

from typing import Final

import numpy as np
import numpy.typing as npt

from curation.signals.batch import PairBatch, Side
from curation.signals.characters import SPACE, properties
from curation.signals.registry import Columns, Family, count, ratio, share
from curation.signals.settings import SignalSettings
from curation.texts import CodePoints, Hashes, Integer, Offsets, kernel

_TOP_SIZES: Final = (2, 3, 4)
_DUPLICATE_SIZES: Final = (5, 6, 7, 8, 9, 10)
_LARGEST_TOP: Final = 4
_LARGEST: Final = 10
_PRIME: Final = np.uint64(0x9E3779B97F4A7C15)


def repeated_ngrams(batch: PairBatch, side: Side, _: SignalSettings) -> Columns:
    """Shares of the text that repeat, by character n-grams."""
    texts = batch.texts(side)
    covered, visible = _cover(texts.codepoints, texts.offsets, properties())
    columns = {}
    for size in _TOP_SIZES:
        columns[f"top_{size}gram_share"] = ratio(covered[:, size], visible)
    for size in _DUPLICATE_SIZES:
        columns[f"duplicate_{size}gram_share"] = ratio(covered[:, size], visible)
    return columns


def repeated_characters(batch: PairBatch, side: Side, _: SignalSettings) -> Columns:
    """Variety of single characters."""
    texts = batch.texts(side)
    distinct, longest = _variety(texts.codepoints, texts.offsets)
    return {
        "unique_char_share": ratio(distinct, texts.lengths),
        "longest_run_chars": longest,
    }


@kernel
def _variety(
    codepoints: CodePoints, offsets: Offsets
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]:
    """Count distinct characters, and the longest run of one character."""
    rows = len(offsets) - 1
    distinct, longest = np.zeros(rows, np.int32), np.zeros(rows, np.int32)
    seen = np.zeros(0x110000, np.int32)  # the last row, from 1, that held the character
    for row in range(rows):
        last, run = np.uint32(0xFFFFFFFF), 0
        for code in codepoints[offsets[row] : offsets[row + 1]]:
            distinct[row] += seen[code] != row + 1
            seen[code] = row + 1
            run = run + 1 if code == last else 1
            longest[row] = max(longest[row], run)
            last = code
    return distinct, longest


@kernel
def _cover(
    codepoints: CodePoints, offsets: Offsets, kinds: CodePoints
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Count the characters that repeated n-grams cover, per text and n, and those there are."""
    rows = len(offsets) - 1
    covered, visible = np.zeros((rows, _LARGEST + 1), np.int64), np.zeros(rows, np.int64)
    longest = 0
    for row in range(rows):
        longest = max(longest, offsets[row + 1] - offsets[row])
    text, hashes = np.empty(longest + 1, np.uint32), np.empty(longest + 1, np.uint64)
    keys, turns = np.empty(_room(longest), np.uint64), np.zeros(_room(longest), np.uint32)
    uses = np.empty((_room(longest), 2), np.int64)  # an n-gram's count, and where it ended last
    turn = np.uint32(0)
    for row in range(rows):
        size = 0
        for code in codepoints[offsets[row] : offsets[row + 1]]:
            text[size] = code
            size += (kinds[code] & SPACE) == 0
        visible[row] = size
        hashes[:size] = 0
        turn = _cover_text(
            text[:size], hashes, keys[: _room(size)], turns, turn, uses, covered[row]
        )
    return covered, visible


@kernel
def _room(size: int) -> int:
    """Give the slots of a table that stays at most half full, a power of two."""
    room = 64
    while room < 2 * size:
        room *= 2
    return room


@kernel
def _cover_text(
    text: CodePoints,
    hashes: Hashes,
    keys: Hashes,
    turns: CodePoints,
    turn: Integer,
    uses: npt.NDArray[np.int64],
    covered: npt.NDArray[np.int64],
) -> Integer:
    """Count for n of 2 and more until no n-gram repeats: then no longer one does, either."""
    for n in range(1, _LARGEST + 1):
        count = len(text) - n + 1
        if count < 2:
            break
        for at in range(count):
            hashes[at] = (hashes[at] ^ np.uint64(text[at + n - 1])) * _PRIME
        if n == 1:
            continue
        turn += np.uint32(1)
        if n <= _LARGEST_TOP:
            covered[n], repeats = _cover_top(hashes[:count], n, keys, turns, turn, uses)
        else:
            covered[n] = _cover_seen(hashes[:count], n, keys, turns, turn)
            repeats = covered[n] > 0
        if not repeats:
            break
    return turn


@kernel
def _find(hashed: Integer, keys: Hashes, turns: CodePoints, turn: Integer) -> int:
    """Find the slot of a key, or a free one: what an earlier turn left is free."""
    mask = len(keys) - 1
    slot = np.int64(hashed >> np.uint64(32)) & mask
    while turns[slot] == turn and keys[slot] != hashed:
        slot = (slot + 1) & mask
    return int(slot)


@kernel
def _cover_top(
    hashes: Hashes,
    n: int,
    keys: Hashes,
    turns: CodePoints,
    turn: Integer,
    uses: npt.NDArray[np.int64],
) -> tuple[int, bool]:
    """Count the characters that the most frequent n-gram covers, not overlapping itself.

    0 where no n-gram stands twice; the flag says whether one does, overlapping or not.
    """
    most, repeats = 1, False
    for at in range(len(hashes)):
        slot = _find(hashes[at], keys, turns, turn)
        if turns[slot] != turn:
            turns[slot], keys[slot] = turn, hashes[at]
            uses[slot, 0], uses[slot, 1] = 1, at + n
            continue
        repeats = True
        if at >= uses[slot, 1]:
            uses[slot, 0] += 1
            uses[slot, 1] = at + n
            most = max(most, int(uses[slot, 0]))
    return (most * n if most > 1 else 0), repeats


@kernel
def _cover_seen(hashes: Hashes, n: int, keys: Hashes, turns: CodePoints, turn: Integer) -> int:
    """Count the characters of n-grams that stand earlier; as Gopher does, skip what is counted."""
    covered, at = 0, 0
    while at < len(hashes):
        slot = _find(hashes[at], keys, turns, turn)
        if turns[slot] == turn:
            covered += n
            at += n
        else:
            turns[slot], keys[slot] = turn, hashes[at]
            at += 1
    return covered


_FINEWEB_2: Final = {
    2: ".256", 3: ".201", 4: ".171",
    5: ".198", 6: ".182", 7: ".167", 8: ".154", 9: ".140", 10: ".127",
}  # fmt: skip

NGRAMS: Final = Family(
    "repetition",
    ("passage",),
    (
        *(
            share(
                f"top_{size}gram_share",
                f"characters that the most frequent {size}-gram covers, 0 where none stands twice",
                f"Gopher; FineWeb-2 on words: at most {_FINEWEB_2[size]}",
            )
            for size in _TOP_SIZES
        ),
        *(
            share(
                f"duplicate_{size}gram_share",
                f"characters of {size}-grams that stand earlier in the text",
                f"Gopher; FineWeb-2 on words: at most {_FINEWEB_2[size]}",
            )
            for size in _DUPLICATE_SIZES
        ),
    ),
    repeated_ngrams,
)
VARIETY: Final = Family(
    "variety",
    ("query", "passage"),
    (
        share("unique_char_share", "distinct characters among all", "MAP-CC: more than .1"),
        count("longest_run_chars", "longest run of one character", "characters"),
    ),
    repeated_characters,
)
