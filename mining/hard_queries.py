"""Hard queries of a search: those with more passages too close to call than a buffer holds.

Their float32 products, whose error is a hundredth of bfloat16's, say which passages to score
canonically, and those are ranked at once: there is nothing left that could overflow.
"""

import numpy as np
import numpy.typing as npt
import torch

from mining import topk
from mining.passages import Bound, margins
from mining.survivors import TILE_PASSAGES, Buffers, Floats, Ids, Workers

# Few, so that all threads have work.
TILE_QUERIES = 16
MIN_CAPACITY = 256


class HardQueries:
    """Searches some queries while somebody reads the corpus, block by block."""

    def __init__(self, queries_QD: Floats, k: int, workers: Workers) -> None:
        self.queries_QD, self.k, self.workers = queries_QD, k, workers
        self.norms_Q = np.linalg.norm(queries_QD.astype(np.float64), axis=1)
        self.buffers = Buffers.empty(len(queries_QD), max(2 * k, MIN_CAPACITY), np.int32)

    def take_block(self, first: int, exact_PD: Floats) -> None:
        """Rank the passages of a block, the first of which is ``first``."""

        def take_tile(here: slice) -> None:
            for start in range(0, len(exact_PD), TILE_PASSAGES):
                self._scan(here, first + start, exact_PD[start : start + TILE_PASSAGES])

        self.workers.map(take_tile, len(self.queries_QD), TILE_QUERIES)

    def best(self) -> tuple[Ids, Floats]:
        """Return (row numbers, canonical scores) of the k best of each query, best first."""
        rows = np.empty((len(self.queries_QD), self.k), np.int64)
        scores = np.empty((len(self.queries_QD), self.k), np.float32)
        exactly = np.zeros(len(rows), np.float32)
        self.buffers.compact(slice(0, len(rows)), self.k, exactly)
        listed = self.buffers.listed()
        keys = np.empty(len(listed.positions), np.int32)
        topk.gather(self.buffers.keys, listed.offsets, keys)
        topk.rank(listed.offsets, listed.positions, _numbers(keys), rows, scores)
        return rows, scores

    def _scan(self, here: slice, first: int, tile_PD: Floats) -> None:
        queries_QD, tile = torch.from_numpy(self.queries_QD[here]), torch.from_numpy(tile_PD)
        bound = Bound(float(torch.linalg.vector_norm(tile, dim=1).max()))
        norms_Q = self.norms_Q[here]
        error = margins(norms_Q, np.zeros_like(norms_Q), bound, tile_PD.shape[1])
        products = torch.mm(queries_QD, tile.T).numpy()
        topk.scan_exactly(
            products, self.queries_QD[here], tile_PD, first, self.k, error,
            self.buffers.thresholds[here], self.buffers.keys[here],
            self.buffers.positions[here], self.buffers.counts[here],
        )  # fmt: skip


def _numbers(keys: npt.NDArray[np.int32]) -> Floats:
    """Turn ordered keys back into the numbers that they stand for."""
    bits = keys ^ ((keys >> 31) & np.int32(0x7FFFFFFF))
    return bits.view(np.float32)
