"""Floats as ordered keys: integers made of their bits that sort like the numbers.

16 bits wide for bfloat16 and 32 for float32, so that many scores are compared by one instruction.
"""

from typing import Any

import numpy as np
import numpy.typing as npt
from numba.core import types
from numba.extending import overload

from mining.kernels import kernel

Floats = npt.NDArray[np.float32]
Keys = npt.NDArray[Any]  # int16 (from bfloat16) or int32 (from float32)


def ordered_key(bits: Any) -> Any:
    """Turn the bits of a float into an integer that sorts like it, or back (compiled code only)."""
    raise NotImplementedError


@overload(ordered_key, inline="always")
def _ordered_key(bits: Any) -> Any:
    # Every step is cast: numba would widen it to 64 bits and the loop would run at a fifth.
    if bits == types.int16:

        def key16(bits: Any) -> Any:
            negative = np.int16(bits >> np.int16(15))
            return np.int16(bits ^ np.int16(negative & np.int16(0x7FFF)))

        return key16

    def key32(bits: Any) -> Any:
        negative = np.int32(bits >> np.int32(31))
        return np.int32(bits ^ np.int32(negative & np.int32(0x7FFFFFFF)))

    return key32


@kernel
def kth_largest(keys: Keys, count: int, k: int) -> Any:
    """Halve the range of keys that the k-th is in: each step is a vectorised count."""
    low: Any = -(1 << (8 * keys.itemsize - 1))
    high: Any = -low - 1
    middle = np.empty(1, keys.dtype)  # of the keys' type: a wider one would be compared slowly
    while low < high:
        middle[0] = (low + high) >> 1
        if _count_larger(keys[:count], middle[0]) >= k:
            low = np.int64(middle[0]) + 1
        else:
            high = np.int64(middle[0])
    return low


@kernel
def _count_larger(keys: Keys, than: Any) -> Any:
    larger = np.int32(0)
    for i in range(keys.size):
        larger = np.int32(larger + np.int32(keys[i] > than))
    return np.int64(larger)


@kernel
def raise_threshold(threshold: Keys, kth: int, margin: float) -> None:
    """Set the largest key that cannot be among the best k, given the k-th largest.

    Before it was rounded to a key, the k-th score lay above the middle between its key and the one
    below. Its exact value and that of a passage to drop differ from theirs by the margin at most.
    """
    shift = 32 - 8 * threshold.itemsize
    bits = np.empty(1, np.int32)
    number = bits.view(np.float32)
    middle = (number_of(kth, shift, bits, number) + number_of(kth - 1, shift, bits, number)) / 2
    lowest = middle - 2 * margin
    number[0] = lowest
    key = np.int64(ordered_key(bits[0]))
    if np.float64(number[0]) > lowest:
        key -= 1
    # A score just below the lowest may have been rounded up to the key of the lowest.
    threshold[0] = max(np.int64(threshold[0]), (key >> shift) - 1)


@kernel
def number_of(key: int, shift: int, bits: npt.NDArray[np.int32], number: Floats) -> float:
    """Turn a key back into its number; ``bits`` and ``number`` are one box of 4 bytes."""
    wide = key << shift
    magnitude = 0x7FFFFFFF & ~((1 << shift) - 1)
    bits[0] = wide ^ ((wide >> 63) & magnitude)
    return np.float64(number[0])
