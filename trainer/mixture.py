"""A mixture: which source the n-th draw is of, exact at every moment and computed from n alone.

A tree of two-way splits. Of the first n draws that reach a node, round(n * p) go to its left, where
p is the left's share of the node's weight: a Bresenham line. What reaches a child are consecutive
draws again, so each draw finds its source, and how many draws of that source came before it, on the
way down. No draw is lost, no source ever gives one back, and no error grows: each split is at most
half a draw off, and of the error above a child gets its share. The tree is Huffman's, so heavy
sources are near the root and those shares are small.
"""

import heapq
from collections.abc import Sequence
from fractions import Fraction
from math import lcm
from typing import Final

import numpy as np

from mining.kernels import kernel
from trainer.permutation import Ids

# A remainder below the node's weight is multiplied by a weight: the product must fit in 63 bits.
MAX_WEIGHT: Final = 1 << 31
SCALE: Final = 1 << 30


class Mixture:
    """Draws from sources in proportion to whole-number weights."""

    def __init__(self, weights: Sequence[int]) -> None:
        if not weights or min(weights) < 1 or sum(weights) > MAX_WEIGHT:
            raise ValueError(
                f"weights are {list(weights)}: give at least one, each at least 1, "
                f"{MAX_WEIGHT:,} in all"
            )
        self.weights = tuple(weights)
        self._tree = _huffman(weights)

    def split(self, draws: Ids) -> tuple[Ids, Ids]:
        """Return the source of each draw, and how many earlier draws were of the same source."""
        sources, earlier = np.empty_like(draws), np.empty_like(draws)
        _descend(self._tree, len(self.weights), draws, sources, earlier)
        return sources, earlier


def whole_weights(shares: Sequence[float]) -> list[int]:
    """Return whole numbers in the proportions of ``shares``, exactly where 31 bits can say it.

    The shares are taken as written: 0.3 is 3 / 10.
    """
    exact = [Fraction(repr(float(share))) for share in shares]
    common = lcm(*(share.denominator for share in exact))
    whole = [int(share * common) for share in exact]
    total = sum(whole)
    if total <= MAX_WEIGHT:
        return whole
    return [max(1, round(weight * SCALE / total)) for weight in whole]


def _huffman(weights: Sequence[int]) -> Ids:
    """Return a row for each node: left child, right child, weight of the left, weight of both.

    The sources come first and the root last; a source is its own right child and sends all there.
    """
    nodes = [[source, source, 0, 1] for source in range(len(weights))]
    heap = [(weight, source) for source, weight in enumerate(weights)]
    heapq.heapify(heap)
    while len(heap) > 1:
        (small, left), (large, right) = heapq.heappop(heap), heapq.heappop(heap)
        heapq.heappush(heap, (small + large, len(nodes)))
        nodes.append([left, right, small, small + large])
    return np.array(nodes, np.int64)


@kernel
def _descend(tree: Ids, num_sources: int, draws: Ids, sources: Ids, earlier: Ids) -> None:
    for i in range(len(draws)):
        node, n = len(tree) - 1, draws[i]
        while node >= num_sources:
            left, right, share, total = tree[node]
            rounds, rest = n // total, n % total
            # rounds whole cycles are exact; within one, round(rest * share / total) went left.
            went_left = (rest * share + total // 2) // total
            goes_left = ((rest + 1) * share + total // 2) // total > went_left
            if goes_left:
                node, n = left, rounds * share + went_left
            else:
                node, n = right, n - rounds * share - went_left
        sources[i], earlier[i] = node, n
