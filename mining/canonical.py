"""The canonical score of a query and a passage: equal bits on every machine and device."""

import numpy as np
import numpy.typing as npt

from mining.kernels import kernel

Floats = npt.NDArray[np.float32]
Positions = npt.NDArray[np.uint32]  # row numbers of passages
Counts = npt.NDArray[np.int64]
Sums = npt.NDArray[np.float64]

# Partial sums of a canonical score: dimension j goes to sum j mod LANES. Part of its definition.
LANES = 64


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
