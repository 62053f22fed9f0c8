"""Kernels of the top-k search: keep what beats a threshold, score it exactly, rank it.

Scores are compared as *ordered keys*: the bits of a float as an integer that sorts like the number,
16 bits wide for bfloat16 and 32 for float32. Kernels are single-threaded and release the GIL: the
search gives each thread queries of its own.
"""

from typing import Any

import numpy as np
import numpy.typing as npt
from numba.core import types
from numba.extending import overload

from mining.kernels import kernel

Floats = npt.NDArray[np.float32]
Keys = npt.NDArray[Any]  # int16 (from bfloat16) or int32 (from float32)
Positions = npt.NDArray[np.uint32]  # row numbers of passages
Counts = npt.NDArray[np.int64]
Sums = npt.NDArray[np.float64]


# Scores looked at together: only where their maximum beats the threshold is each looked at.
CHUNK = 64
# Partial sums of a canonical score: dimension j goes to sum j mod LANES. Part of its definition.
LANES = 64
# The count of a row whose scores are too close to each other for its buffer.
OVERFLOWED = -1
# Above this share of the buffer a row would be compacted again and again.
_FULL = 0.75


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
def scan(  # noqa: PLR0913 - a kernel takes arrays, not objects
    score_bits: Keys,
    first_position: int,
    k: int,
    margins: Floats,
    thresholds: Keys,
    keys: Keys,
    positions: Positions,
    counts: Counts,
) -> None:
    """Append to each row's buffer the scores above its threshold, compacting it when it is full.

    ``score_bits`` is rows x passages; ``keys`` and ``positions`` are rows x capacity. Scores may be
    off by the row's margin: what could be among the best k stays. With margin 0 exactly the best k
    stay, of equal scores those that came first. A row that its survivors fill is marked OVERFLOWED.
    """
    rows, width = score_bits.shape
    for row in range(rows):
        if counts[row] == OVERFLOWED:
            continue
        bits, row_keys, row_positions = score_bits[row], keys[row], positions[row]
        threshold = thresholds[row]
        # Unsigned indices need no check for a negative one; a tenth of the time here.
        count = np.uint32(counts[row])
        most = np.uint32(keys.shape[1] - CHUNK)
        for start in range(0, width, CHUNK):
            chunk = bits[start : start + CHUNK]
            if chunk.size == CHUNK and _maximum(chunk) <= threshold:
                continue
            if count > most:
                left = _compact(row, count, k, margins, thresholds, keys, positions)
                threshold = thresholds[row]
                counts[row] = left
                if left == OVERFLOWED:
                    break
                count = np.uint32(left)
            position = np.uint32(first_position + start)
            for i in range(np.uint32(chunk.size)):
                # Written before it is known to be wanted: a branch guessed wrong costs more.
                key = ordered_key(chunk[i])
                row_keys[count] = key
                row_positions[count] = position + i
                count = np.uint32(count + np.uint32(key > threshold))
        if counts[row] != OVERFLOWED:
            counts[row] = count


@kernel
def compact(
    k: int, margins: Floats, thresholds: Keys, keys: Keys, positions: Positions, counts: Counts
) -> None:
    """Drop from every buffer what the rest of it proves to be outside the best k."""
    for row in range(counts.size):
        if counts[row] > k:
            counts[row] = _compact(row, counts[row], k, margins, thresholds, keys, positions)


@kernel
def _maximum(chunk: Keys) -> Any:
    best = ordered_key(chunk[0])
    for i in range(CHUNK):  # of constant length: it becomes a few vector instructions
        best = max(best, ordered_key(chunk[i]))
    return best


@kernel
def _compact(
    row: int,
    count: Any,
    k: int,
    margins: Floats,
    thresholds: Keys,
    keys: Keys,
    positions: Positions,
) -> int:
    """Keep what can be among the best k, in order of position; return how much that is."""
    kth = _kth_largest(keys[row], count, k)
    equal_ones = 0  # of scores equal to the k-th, how many stay
    if margins[row] > 0:
        _raise_threshold(thresholds[row : row + 1], kth, margins[row])
    else:
        thresholds[row] = kth
        equal_ones = k
        for i in range(count):
            equal_ones -= keys[row, i] > kth
    threshold = thresholds[row]
    kept = 0
    for i in range(count):
        key = keys[row, i]
        keys[row, kept] = key
        positions[row, kept] = positions[row, i]
        keeps = key > threshold
        if not keeps and key == kth and equal_ones > 0:
            equal_ones -= 1
            keeps = True
        kept += keeps
    return OVERFLOWED if margins[row] > 0 and kept > _FULL * keys.shape[1] else kept


@kernel
def _kth_largest(keys: Keys, count: int, k: int) -> Any:
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
def _raise_threshold(threshold: Keys, kth: int, margin: float) -> None:
    """Set the largest key that cannot be among the best k, given the k-th largest.

    Before it was rounded to a key, the k-th score lay above the middle between its key and the one
    below. Its exact value and that of a passage to drop differ from theirs by the margin at most.
    """
    shift = 32 - 8 * threshold.itemsize
    bits = np.empty(1, np.int32)
    number = bits.view(np.float32)
    middle = (_number(kth, shift, bits, number) + _number(kth - 1, shift, bits, number)) / 2
    lowest = middle - 2 * margin
    number[0] = lowest
    key = np.int64(ordered_key(bits[0]))
    if np.float64(number[0]) > lowest:
        key -= 1
    # A score just below the lowest may have been rounded up to the key of the lowest.
    threshold[0] = max(np.int64(threshold[0]), (key >> shift) - 1)


@kernel
def _number(key: int, shift: int, bits: npt.NDArray[np.int32], number: Floats) -> float:
    wide = key << shift
    magnitude = 0x7FFFFFFF & ~((1 << shift) - 1)
    bits[0] = wide ^ ((wide >> 63) & magnitude)
    return np.float64(number[0])


@kernel
def dot(query: Floats, passage: Floats, sums: Sums) -> np.float32:
    """Return the canonical score: summed in float64 in a fixed order, rounded to float32 once.

    The product of two float32 is exact in float64, so that it does not matter whether a processor
    fuses multiplication and addition: every machine finds the same bits.
    """
    for i in range(LANES):
        sums[i] = 0.0
    size = query.size
    whole = size - size % LANES
    for start in range(0, whole, LANES):
        a = query[start : start + LANES]
        b = passage[start : start + LANES]
        for i in range(LANES):
            sums[i] += np.float64(a[i]) * np.float64(b[i])
    for i in range(size - whole):
        sums[i] += np.float64(query[whole + i]) * np.float64(passage[whole + i])
    half = LANES // 2
    while half > 0:
        for i in range(half):
            sums[i] += sums[i + half]
        half //= 2
    return np.float32(sums[0]) + np.float32(0.0)  # -0 would sort below 0


@kernel
def score_listed(
    queries: Floats,
    passages: Floats,
    first_position: int,
    offsets: Counts,
    positions: Positions,
    scores: Floats,
) -> None:
    """Score the listed passages that are in this block; a query's positions ascend.

    Query i's list is ``positions[offsets[i]:offsets[i + 1]]``; ``scores`` is parallel to it.
    """
    sums = np.empty(LANES, np.float64)
    end = first_position + len(passages)
    for row in range(len(queries)):
        low, high = offsets[row], offsets[row + 1]
        at = low + np.searchsorted(positions[low:high], np.uint32(first_position))
        while at < high and positions[at] < end:
            passage = passages[np.int64(positions[at]) - first_position]
            scores[at] = dot(queries[row], passage, sums)
            at += 1


@kernel
def scan_exactly(  # noqa: PLR0913 - a kernel takes arrays, not objects
    products: Floats,
    queries: Floats,
    passages: Floats,
    first_position: int,
    k: int,
    margins: Floats,
    thresholds: Keys,
    keys: Keys,
    positions: Positions,
    counts: Counts,
) -> None:
    """Append to each row's buffer the canonical scores above its threshold; nothing overflows.

    ``products`` (queries x passages) are off by the row's margin at most: a passage whose product
    is further below the threshold is not scored. Keys are 32 bits wide.
    """
    sums = np.empty(LANES, np.float64)
    score = np.empty(1, np.float32)
    exactly = np.zeros(counts.size, np.float32)
    bits = np.empty(1, np.int32)
    for row in range(len(queries)):
        count, threshold = counts[row], np.int64(thresholds[row])
        lowest = _lowest_product(threshold, bits, margins[row])
        for column in range(len(passages)):
            if products[row, column] < lowest:
                continue
            score[0] = dot(queries[row], passages[column], sums)
            key = ordered_key(score.view(np.int32)[0])
            if key <= threshold:
                continue
            if count == keys.shape[1]:
                count = _compact(row, count, k, exactly, thresholds, keys, positions)
                threshold = np.int64(thresholds[row])
                lowest = _lowest_product(threshold, bits, margins[row])
                if key <= threshold:
                    continue
            keys[row, count] = key
            positions[row, count] = first_position + column
            count += 1
        counts[row] = count


@kernel
def _lowest_product(threshold: Any, bits: npt.NDArray[np.int32], margin: float) -> float:
    """Return the least product of a passage whose score can be above a threshold (32-bit key)."""
    if threshold == -(1 << 31):  # of a buffer that was never full; it stands for no number
        return -np.inf
    return _number(threshold, 0, bits, bits.view(np.float32)) - margin


@kernel
def rank(
    offsets: Counts,
    positions: Positions,
    scores: Floats,
    top_positions: Counts,
    top_scores: Floats,
) -> None:
    """Write each list's best into its row, the highest score first, equal scores by position."""
    bits = scores.view(np.int32)
    for row in range(len(offsets) - 1):
        low, high = offsets[row], offsets[row + 1]
        order = np.empty(high - low, np.int64)
        for i in range(high - low):
            key = np.int64(ordered_key(bits[low + i]))
            order[i] = (~key << 32) | np.int64(positions[low + i])
        order.sort()
        for i in range(min(order.size, top_positions.shape[1])):
            top_positions[row, i] = order[i] & 0xFFFFFFFF
            number = np.empty(1, np.int32)
            number[0] = ordered_key(np.int32(~(order[i] >> 32)))
            top_scores[row, i] = number.view(np.float32)[0]


@kernel
def gather(buffers: npt.NDArray[Any], offsets: Counts, values: npt.NDArray[Any]) -> None:
    """Copy the used part of every row of a buffer behind the one before."""
    for row in range(len(offsets) - 1):
        count = offsets[row + 1] - offsets[row]
        values[offsets[row] : offsets[row + 1]] = buffers[row, :count]
