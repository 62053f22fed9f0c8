"""Kernels of the top-k search: keep what beats a threshold, score it exactly, rank it.

Scores are compared as ordered keys (``mining.ordered_keys``). Kernels are single-threaded and
release the GIL: the search gives each thread queries of its own.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from mining.canonical import LANES, Counts, Floats, Positions, dot
from mining.kernels import kernel
from mining.ordered_keys import Keys, kth_largest, number_of, ordered_key, raise_threshold

# Scores looked at together: only where their maximum beats the threshold is each looked at.
CHUNK = 64
# The count of a row whose scores are too close to each other for its buffer.
OVERFLOWED = -1
# Above this share of the buffer a row would be compacted again and again.
_FULL = 0.75


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
    kth = kth_largest(keys[row], count, k)
    equal_ones = 0  # of scores equal to the k-th, how many stay
    if margins[row] > 0:
        raise_threshold(thresholds[row : row + 1], kth, margins[row])
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
    return number_of(threshold, 0, bits, bits.view(np.float32)) - margin


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
