"""Shingle sets: the distinct character n-grams of texts as sorted hashes, and their Jaccard.

Two different n-grams share a hash once in 2**64; a set of 10,000 n-grams would have to be compared
with a hundred thousand million others before one similarity was off.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from curation.minhash import Hashes, hash_ngrams
from curation.texts import CodePoints, Offsets, Texts, kernel

Similarities = npt.NDArray[np.float32]
Rows = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Shingles:
    """Sets of shingles: set i is hashes[offsets[i]:offsets[i + 1]], sorted."""

    hashes: Hashes
    offsets: Offsets  # n + 1


def shingle(normalized: Texts, ngram_chars: int) -> Shingles:
    """Collect the shingles of normalised texts; a text shorter than an n-gram is one shingle."""
    return Shingles(*_shingle(normalized.codepoints, normalized.offsets, ngram_chars))


def jaccard(sets: Shingles, a_rows: Rows, b_rows: Rows, floor: float) -> Similarities:
    """Compute the Jaccard similarity of pairs of sets exactly; 0 where it is below the floor."""
    return _jaccard(sets.hashes, sets.offsets, a_rows, b_rows, floor)


@kernel
def _shingle(
    codepoints: CodePoints, text_offsets: Offsets, ngram_chars: int
) -> tuple[Hashes, Offsets]:
    room = 0
    for text in range(len(text_offsets) - 1):
        room += max(text_offsets[text + 1] - text_offsets[text] - ngram_chars + 1, 1)
    hashes = np.empty(room, np.uint64)
    unsorted, starts = np.empty(0, np.uint64), np.empty(0, np.int64)
    offsets = np.zeros(len(text_offsets), np.int64)
    put = 0
    for text in range(len(text_offsets) - 1):
        start, length = text_offsets[text], text_offsets[text + 1] - text_offsets[text]
        size = min(ngram_chars, length)
        if size > 0:
            count = length - size + 1
            if count > len(unsorted):
                unsorted, starts = np.empty(2 * count, np.uint64), np.empty(8 * count, np.int64)
            hash_ngrams(codepoints, start, count, size, unsorted)
            put += _sort_distinct(unsorted[:count], starts, hashes[put:])
        offsets[text + 1] = put
    return hashes[:put].copy(), offsets


@kernel
def _sort_distinct(hashes: Hashes, starts: Rows, out: Hashes) -> int:
    """Write the distinct hashes in order and return how many; starts is room for 4 a hash.

    Hashes are uniform: sent by their first bits to one of as many places as there are hashes, each
    comes to lie a step or two from where it belongs, and an insertion sort does the rest.
    """
    bits = 1
    while 1 << bits < len(hashes):
        bits += 1
    shift = np.uint64(64 - bits)
    starts[: (1 << bits) + 1] = 0
    for value in hashes:
        starts[np.int64(value >> shift) + 1] += 1
    for place in range(1 << bits):
        starts[place + 1] += starts[place]
    for value in hashes:
        put_at = starts[np.int64(value >> shift)]
        out[put_at] = value
        starts[np.int64(value >> shift)] += 1
    put = 0
    for at in range(len(hashes)):
        value = out[at]
        place = put
        while place > 0 and out[place - 1] > value:
            place -= 1
        if place > 0 and out[place - 1] == value:
            continue
        for moved in range(put, place, -1):
            out[moved] = out[moved - 1]
        out[place] = value
        put += 1
    return put


@kernel
def _jaccard(
    hashes: Hashes, offsets: Offsets, a_rows: Rows, b_rows: Rows, floor: float
) -> Similarities:
    """Merge sorted sets, giving up as soon as too many members have no equal.

    Of a + b members at most (1 - floor) / (1 + floor) may be without an equal. Hashes are in random
    order, so two sets that differ are told apart after a few dozen.
    """
    out = np.zeros(len(a_rows), np.float32)
    for pair in range(len(a_rows)):
        a, a_end = offsets[a_rows[pair]], offsets[a_rows[pair] + 1]
        b, b_end = offsets[b_rows[pair]], offsets[b_rows[pair] + 1]
        total = (a_end - a) + (b_end - b)
        allowed = int((1.0 - floor) / (1.0 + floor) * total + 1e-6)
        single = 0
        while a < a_end and b < b_end and single <= allowed:
            x, y = hashes[a], hashes[b]
            single += x != y
            a += x <= y
            b += y <= x
        single += (a_end - a) + (b_end - b)
        common = (total - single) // 2
        if single <= allowed and common > 0:
            similarity = common / (total - common)
            if similarity >= floor:
                out[pair] = similarity
    return out
