"""Survivors of a search: the few passages a query whose exact score can be among its best.

Legend of the tensors' suffixes: Q queries of a block, P passages of a block, D width.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, TypeVar

import numpy as np
import numpy.typing as npt
import torch

from mining import topk
from mining.passages import Bound, Passages, margins, round_rows

T = TypeVar("T")
Floats = npt.NDArray[np.float32]
Positions = npt.NDArray[np.uint32]
Ids = npt.NDArray[np.int64]

# Columns of one product. Large products suit the matrix unit, small results the cache: with AMX,
# 4096 x 1024 ran at 1.28 TFLOP/s a core, 1024 x 1024 at 0.9, 512 x 1024 at 0.7.
TILE_PASSAGES = 1024
# On a GPU torch.nonzero fails at 2**31 elements, and somewhat below (pytorch issues 51871, 80337).
MAX_TILE_SCORES = 2**30
_KEY_TYPE = {torch.bfloat16: torch.int16, torch.float32: torch.int32}
_LOWEST = {np.dtype(np.int16): -(2**15), np.dtype(np.int32): -(2**31)}


class Workers(Protocol):
    """Whatever calls a function for slices of a range, possibly at once."""

    def map(self, function: Callable[[slice], T], total: int, size: int) -> list[T]:
        """Return what the function returned for each slice, in order."""


@dataclass(frozen=True)
class Tiles:
    """How work is cut: queries per tile, buffer entries per query, and the product's precision.

    ``scores`` bounds a tile on a GPU; on a CPU a tile has TILE_PASSAGES columns.
    """

    query_rows: int
    capacity: int
    product: torch.dtype
    scores: int = MAX_TILE_SCORES


@dataclass(frozen=True)
class Listed:
    """Passages of each query: those of query i are positions[offsets[i]:offsets[i + 1]], ascending.

    ``overflowed`` are queries (rows) that have no list: too many scores were too close to call.
    """

    offsets: Ids
    positions: Positions
    overflowed: Ids


@dataclass
class Buffers:
    """What each query has kept so far, as ordered keys of its scores (``mining.topk``)."""

    thresholds: npt.NDArray[np.signedinteger]
    keys: npt.NDArray[np.signedinteger]
    positions: Positions
    counts: Ids

    @classmethod
    def empty(cls, rows: int, capacity: int, key_type: npt.DTypeLike) -> "Buffers":
        """Return buffers of no scores; keys are int16 for bfloat16 and int32 for float32."""
        kind = np.dtype(key_type)
        return cls(
            np.full(rows, _LOWEST[kind], kind),
            np.empty((rows, capacity), kind),
            np.empty((rows, capacity), np.uint32),
            np.zeros(rows, np.int64),
        )

    def scan(self, here: slice, bits: npt.NDArray, first: int, k: int, error: Floats) -> None:
        """Take in scores of some queries; a column's position is ``first`` and its number."""
        topk.scan(
            bits, first, k, error[here], self.thresholds[here], self.keys[here],
            self.positions[here], self.counts[here],
        )  # fmt: skip

    def compact(self, here: slice, k: int, error: Floats) -> None:
        """Drop what cannot be among the best k of some queries."""
        topk.compact(
            k, error[here], self.thresholds[here], self.keys[here], self.positions[here],
            self.counts[here],
        )  # fmt: skip

    def listed(self) -> Listed:
        """Gather the lists one behind the other."""
        overflowed = self.counts == topk.OVERFLOWED
        counts = np.where(overflowed, 0, self.counts)
        offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(counts)])
        positions = np.empty(offsets[-1], np.uint32)
        topk.gather(self.positions, offsets, positions)
        return Listed(offsets, positions, np.flatnonzero(overflowed))


def select(queries_QD: Floats, corpus: Passages, k: int, tiles: Tiles, workers: Workers) -> Listed:
    """List for each query every passage that can be among its k best."""
    rounded_QD, norms_Q, lost_Q = round_rows(
        torch.from_numpy(queries_QD), None, tiles.product, "query", 0
    )
    norms, lost = norms_Q.double().numpy(), lost_Q.double().numpy()
    key_type = _KEY_TYPE[tiles.product]
    buffers = Buffers.empty(len(queries_QD), tiles.capacity, str(key_type).removeprefix("torch."))
    bound = Bound()
    error = np.zeros(len(queries_QD), np.float32)
    for first, block in corpus.blocks():
        passages_PD, found = _round_block(block, corpus, tiles.product, first, workers)
        bound = bound.join(found)
        error = margins(norms, lost, bound, queries_QD.shape[1])

        def multiply(
            here: slice, passages_PD: torch.Tensor = passages_PD, first: int = first,
            error: Floats = error,
        ) -> None:  # fmt: skip
            for start in range(0, len(passages_PD), TILE_PASSAGES):
                tile_PD = passages_PD[start : start + TILE_PASSAGES]
                scores_QP = torch.mm(rounded_QD[here], tile_PD.T)
                buffers.scan(here, scores_QP.view(key_type).numpy(), first + start, k, error)

        workers.map(multiply, len(queries_QD), tiles.query_rows)
    workers.map(lambda here: buffers.compact(here, k, error), len(queries_QD), tiles.query_rows)
    return buffers.listed()


def score(
    queries_QD: Floats, corpus: Passages, listed: Listed, tiles: Tiles, workers: Workers
) -> Floats:
    """Score every listed passage canonically."""
    scores = np.empty(len(listed.positions), np.float32)
    for first, block in corpus.blocks():
        exact_PD = _widen_block(block, workers)

        def score_tile(here: slice, exact_PD: Floats = exact_PD, first: int = first) -> None:
            offsets = listed.offsets[here.start : here.stop + 1]
            topk.score_listed(queries_QD[here], exact_PD, first, offsets, listed.positions, scores)

        workers.map(score_tile, len(queries_QD), tiles.query_rows)
    return scores


def search_all(
    queries_QD: Floats, corpus: Passages, k: int, tiles: Tiles, workers: Workers
) -> tuple[Listed, Floats]:
    """Score every passage canonically and list the k best: the slow way, for any scores."""
    buffers = Buffers.empty(len(queries_QD), tiles.capacity, np.int32)
    exactly = np.zeros(len(queries_QD), np.float32)
    for first, block in corpus.blocks():
        exact_PD = _widen_block(block, workers)

        def score_tile(here: slice, exact_PD: Floats = exact_PD, first: int = first) -> None:
            for start in range(0, len(exact_PD), TILE_PASSAGES):
                tile_PD = exact_PD[start : start + TILE_PASSAGES]
                scores_QP = np.empty((here.stop - here.start, len(tile_PD)), np.float32)
                topk.score_all(queries_QD[here], tile_PD, scores_QP)
                buffers.scan(here, scores_QP.view(np.int32), first + start, k, exactly)

        workers.map(score_tile, len(queries_QD), max(1, min(64, tiles.query_rows)))
    workers.map(lambda here: buffers.compact(here, k, exactly), len(queries_QD), tiles.query_rows)
    listed = buffers.listed()
    return listed, score(queries_QD, corpus, listed, tiles, workers)


def _round_block(
    block: npt.NDArray, corpus: Passages, product: torch.dtype, first: int, workers: Workers
) -> tuple[torch.Tensor, Bound]:
    """Centre and round a block in pieces that fit a cache."""
    rounded_PD = torch.empty(block.shape, dtype=product)
    centre_D = torch.from_numpy(corpus.centre)

    def round_piece(here: slice) -> Bound:
        rows_PD = torch.from_numpy(block[here])
        piece_PD, norms_P, lost_P = round_rows(
            rows_PD, centre_D, product, "passage", first + here.start
        )
        rounded_PD[here] = piece_PD
        return Bound(float(norms_P.max()), float(lost_P.max()))

    bound = Bound()
    for found in workers.map(round_piece, len(block), TILE_PASSAGES):
        bound = bound.join(found)
    return rounded_PD, bound


def _widen_block(block: npt.NDArray, workers: Workers) -> Floats:
    """Return a block as float32; numpy converts float16 ten times slower than torch."""
    if block.dtype == np.float32:
        return block
    wide_PD = np.empty(block.shape, np.float32)

    def widen(here: slice) -> None:
        torch.from_numpy(wide_PD[here]).copy_(torch.from_numpy(block[here]))

    workers.map(widen, len(block), TILE_PASSAGES)
    return wide_PD
