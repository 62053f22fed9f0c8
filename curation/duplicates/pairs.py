"""Lists of pairs of ids: int64 (n, 2), a < b, sorted by (a, b), each pair once."""

from typing import TypeVar

import numpy as np
import numpy.typing as npt

from curation.texts import kernel

Ids = npt.NDArray[np.int64]
Pairs = npt.NDArray[np.int64]
Packed = npt.NDArray[np.uint64]


Integers = TypeVar("Integers", npt.NDArray[np.int64], npt.NDArray[np.uint64])


def no_pairs() -> Pairs:
    """Make an empty list."""
    return np.empty((0, 2), np.int64)


def distinct(values: Integers) -> Integers:
    """Return the distinct values in order; sorts in vector registers, where np.unique hashes."""
    values = np.sort(values, axis=None)
    return values[np.append(True, values[1:] != values[:-1])] if len(values) else values


def unpack_pairs(packed: Packed, ids: Ids) -> Pairs:
    """Turn (row of a << 32 | row of b) into a list; ids ascend, packed is in any order."""
    packed = distinct(packed)
    rows = np.stack([packed >> np.uint64(32), packed & np.uint64(0xFFFFFFFF)], axis=1)
    pairs: Pairs = ids[rows.astype(np.int64)]
    return pairs


def unique_pairs(lists: list[Pairs]) -> Pairs:
    """Merge lists, two neighbors at a time; a pair that is in several is there once."""
    while len(lists) > 1:
        twos = [lists[at : at + 2] for at in range(0, len(lists), 2)]
        lists = [merge(*two) if len(two) == 2 else two[0] for two in twos]
    return lists[0] if lists else no_pairs()


def merge(left: Pairs, right: Pairs) -> Pairs:
    """Merge two lists."""
    return _combine(left, right, True)


def subtract(pairs: Pairs, known: Pairs) -> Pairs:
    """Drop the pairs that are known."""
    return _combine(pairs, known, False)


@kernel
def _combine(left: Pairs, right: Pairs, with_right: bool) -> Pairs:
    out = np.empty((len(left) + (len(right) if with_right else 0), 2), np.int64)
    i, j, put = 0, 0, 0
    while i < len(left) or (with_right and j < len(right)):
        order = 0
        if j == len(right):
            order = -1
        elif i == len(left):
            order = 1
        elif left[i, 0] != right[j, 0]:
            order = -1 if left[i, 0] < right[j, 0] else 1
        elif left[i, 1] != right[j, 1]:
            order = -1 if left[i, 1] < right[j, 1] else 1
        if order < 0 or (order == 0 and with_right):
            out[put, 0], out[put, 1] = left[i, 0], left[i, 1]
            put += 1
        elif order > 0 and with_right:
            out[put, 0], out[put, 1] = right[j, 0], right[j, 1]
            put += 1
        i += order <= 0
        j += order >= 0
    return out[:put].copy()
