"""How alike the two sides of a pair are: a query that echoes its passage teaches nothing."""

from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from curation.signals.batch import PairBatch, Side
from curation.signals.registry import Columns, Family, Measure, claim, ratio, share
from curation.signals.settings import SignalSettings
from curation.texts import CodePoints, Hashes, Integer, Offsets, kernel

# Odd multipliers of the rolling hash and of the table's hash: the golden ratio of 2**64, and FNV's.
_GOLDEN: Final = np.uint64(0x9E3779B97F4A7C15)
_BASE: Final = np.uint64(0x100000001B3)
_HALF: Final = np.uint64(32)


def likeness(batch: PairBatch, side: Side, _: SignalSettings) -> Columns:
    """Likeness of query and passage, as their keys see them."""
    query, passage = batch.normalized("query"), batch.normalized("passage")
    sides = (query.codepoints, query.offsets, passage.codepoints, passage.offsets)
    occurrences = _occurrences(*sides)
    inside = _occurrences(passage.codepoints, passage.offsets, query.codepoints, query.offsets)
    shared, distinct = _shared(*sides)
    equal = (query.lengths == passage.lengths) & (occurrences > 0)
    return {
        "equal": equal,
        "query_inside": occurrences > 0,
        "passage_inside": inside > 0,
        "echo_share": ratio(occurrences * query.lengths, passage.lengths),
        "char_overlap": ratio(shared[:, 0], distinct[:, 0]),
        "bigram_overlap": ratio(shared[:, 1], distinct[:, 1]),
        "length_ratio": ratio(passage.lengths, query.lengths),
    }


@kernel
def _occurrences(
    needles: CodePoints, needle_offsets: Offsets, texts: CodePoints, text_offsets: Offsets
) -> npt.NDArray[np.int64]:
    """Count how often each needle stands in its text, without overlaps (Rabin and Karp)."""
    rows = len(needle_offsets) - 1
    counts = np.zeros(rows, np.int64)
    for row in range(rows):
        needle = needles[needle_offsets[row] : needle_offsets[row + 1]]
        text = texts[text_offsets[row] : text_offsets[row + 1]]
        size = len(needle)
        if size == 0 or size > len(text):
            continue
        wanted, rolling, leading = np.uint64(0), np.uint64(0), np.uint64(1)
        for at in range(size):
            wanted = wanted * _BASE + np.uint64(needle[at])
            rolling = rolling * _BASE + np.uint64(text[at])
            if at:
                leading *= _BASE
        free = 0  # where the last occurrence ended
        for start in range(len(text) - size + 1):
            if start:
                rolling -= leading * np.uint64(text[start - 1])
                rolling = rolling * _BASE + np.uint64(text[start + size - 1])
            if rolling == wanted and start >= free and _equal(needle, text, start):
                counts[row] += 1
                free = start + size
    return counts


@kernel
def _equal(needle: CodePoints, text: CodePoints, start: int) -> bool:
    for at in range(len(needle)):  # noqa: SIM110 (numba compiles no all())
        if needle[at] != text[start + at]:
            return False
    return True


@kernel
def _shared(
    queries: CodePoints, query_offsets: Offsets, passages: CodePoints, passage_offsets: Offsets
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]:
    """Count the query's distinct characters and bigrams, and those that stand in the passage."""
    rows = len(query_offsets) - 1
    shared, distinct = np.zeros((rows, 2), np.int32), np.zeros((rows, 2), np.int32)
    seen = np.zeros(0x110000, np.int32)  # where a character was met last: see _share_characters
    longest = 0
    for row in range(rows):
        longest = max(longest, query_offsets[row + 1] - query_offsets[row])
    room = _room(longest)
    keys, marks = np.empty(room, np.uint64), np.zeros(room, np.int32)
    for row in range(rows):
        query = queries[query_offsets[row] : query_offsets[row + 1]]
        passage = passages[passage_offsets[row] : passage_offsets[row + 1]]
        of_row = keys[: _room(len(query))]
        distinct[row, 0], shared[row, 0] = _share_characters(query, passage, seen, row + 1)
        distinct[row, 1], shared[row, 1] = _share_bigrams(query, passage, of_row, marks, row + 1)
    return shared, distinct


@kernel
def _room(size: int) -> int:
    """Give the slots of a table that stays at most half full, a power of two."""
    room = 64
    while room < 2 * size:
        room *= 2
    return room


@kernel
def _share_characters(
    query: CodePoints, passage: CodePoints, seen: npt.NDArray[np.int32], turn: int
) -> tuple[int, int]:
    """Mark the query's characters by the turn, those met in the passage by its negative."""
    distinct, shared = 0, 0
    for code in query:
        distinct += seen[code] != turn
        seen[code] = turn
    for code in passage:
        if seen[code] == turn:
            shared += 1
            seen[code] = -turn
    return distinct, shared


@kernel
def _share_bigrams(
    query: CodePoints, passage: CodePoints, keys: Hashes, marks: npt.NDArray[np.int32], turn: int
) -> tuple[int, int]:
    """Do the same with pairs of neighbors; `keys` and `marks` are an open-addressing table."""
    distinct, shared = 0, 0
    for at in range(len(query) - 1):
        key = np.uint64(query[at]) << _HALF | np.uint64(query[at + 1])
        slot = _slot(key, keys, marks, turn)
        distinct += marks[slot] != turn
        keys[slot], marks[slot] = key, turn
    for at in range(len(passage) - 1):
        key = np.uint64(passage[at]) << _HALF | np.uint64(passage[at + 1])
        slot = _slot(key, keys, marks, turn)
        if marks[slot] == turn:
            shared += 1
            marks[slot] = -turn
    return distinct, shared


@kernel
def _slot(key: Integer, keys: Hashes, marks: npt.NDArray[np.int32], turn: int) -> int:
    """Find the slot of a key, or a free one: what another turn marked is free."""
    mask = len(keys) - 1
    slot = np.int64((key * _GOLDEN) >> _HALF) & mask
    while abs(marks[slot]) == turn and keys[slot] != key:
        slot = (slot + 1) & mask
    return int(slot)


LIKENESS: Final = Family(
    "likeness",
    ("pair",),
    (
        claim("equal", "query and passage are the same text"),
        claim("query_inside", "the query stands in the passage"),
        claim("passage_inside", "the passage stands in the query"),
        share("echo_share", "characters of the passage that repetitions of the whole query cover"),
        share("char_overlap", "distinct characters of the query that stand in the passage"),
        share("bigram_overlap", "distinct bigrams of the query that stand in the passage"),
        Measure(
            "length_ratio", "characters of the passage per character of the query", "ratio",
            pa.float32(), 0,
        ),
    ),
    likeness,
)  # fmt: skip
