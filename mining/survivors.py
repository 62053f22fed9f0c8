"""Survivors of a search: the few passages a query whose exact score can be among its best.

Legend of the tensors' suffixes: Q queries of a block, P passages of a block, D width.
"""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, TypeVar

import numpy as np
import numpy.typing as npt
import torch

from mining import canonical, topk
from mining.passages import Bound, Passages, margins, round_into, round_rows

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

    def first_rows(self, rows: int) -> "Buffers":
        """Return the buffers of the first rows, emptied."""
        self.thresholds[:rows] = _LOWEST[self.keys.dtype]
        self.counts[:rows] = 0
        return Buffers(
            self.thresholds[:rows], self.keys[:rows], self.positions[:rows], self.counts[:rows]
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


class Workspace:
    """Memory of a search on CPU, allocated once.

    What is allocated for each product anew stays with each thread's heap, in pieces: a search grew
    to twice the sum of what it used.
    """

    def __init__(self, tiles: Tiles, query_rows: int, block_rows: int, width: int) -> None:
        self.tiles = tiles
        self.width = width
        self._query_rows = query_rows
        self._block = torch.empty(block_rows * width, dtype=torch.float32)
        self._own = threading.local()  # each thread's
        self._buffers: Buffers | None = None

    def buffers(self, rows: int) -> Buffers:
        """Return empty buffers; those of the block of queries before are gone."""
        if self._buffers is None:
            key_type = str(_KEY_TYPE[self.tiles.product]).removeprefix("torch.")
            self._buffers = Buffers.empty(self._query_rows, self.tiles.capacity, key_type)
        return self._buffers.first_rows(rows)

    def block(self, rows: int, kind: torch.dtype) -> torch.Tensor:
        """Return room for a block of passages; the block before is gone."""
        return self._block.view(kind)[: rows * self.width].view(rows, self.width)

    def piece(self, rows: int) -> torch.Tensor:
        """Return this thread's room for a few passages in float32."""
        memory = self._room("piece", torch.float32, TILE_PASSAGES * self.width)
        return memory[: rows * self.width].view(rows, self.width)

    def tile(self, rows: int, columns: int) -> torch.Tensor:
        """Return this thread's room for a product."""
        size = self.tiles.query_rows * TILE_PASSAGES
        return self._room("tile", self.tiles.product, size)[: rows * columns].view(rows, columns)

    def _room(self, name: str, kind: torch.dtype, size: int) -> torch.Tensor:
        if not hasattr(self._own, name):
            setattr(self._own, name, torch.empty(size, dtype=kind))
        memory: torch.Tensor = getattr(self._own, name)
        return memory


def select(
    queries_QD: Floats, corpus: Passages, k: int, space: Workspace, workers: Workers
) -> Listed:
    """List for each query every passage that can be among its k best."""
    product, query_rows = space.tiles.product, space.tiles.query_rows
    rounded_QD, norms_Q, lost_Q = round_rows(
        torch.from_numpy(queries_QD), None, product, "query", 0
    )
    norms, lost = norms_Q.double().numpy(), lost_Q.double().numpy()
    buffers = space.buffers(len(queries_QD))
    bound = Bound()
    error = np.zeros(len(queries_QD), np.float32)
    for first, block in corpus.blocks():
        passages_PD, found = _round_block(block, corpus, space, first, workers)
        bound = bound.join(found)
        error = margins(norms, lost, bound, queries_QD.shape[1])

        def multiply(
            here: slice, passages_PD: torch.Tensor = passages_PD, first: int = first,
            error: Floats = error,
        ) -> None:  # fmt: skip
            for start in range(0, len(passages_PD), TILE_PASSAGES):
                tile_PD = passages_PD[start : start + TILE_PASSAGES]
                scores_QP = space.tile(here.stop - here.start, len(tile_PD))
                torch.mm(rounded_QD[here], tile_PD.T, out=scores_QP)
                bits = scores_QP.view(_KEY_TYPE[product]).numpy()
                buffers.scan(here, bits, first + start, k, error)

        workers.map(multiply, len(queries_QD), query_rows)
    workers.map(lambda here: buffers.compact(here, k, error), len(queries_QD), query_rows)
    return buffers.listed()


def score(
    queries_QD: Floats,
    corpus: Passages,
    listed: Listed,
    space: Workspace,
    workers: Workers,
    also: Callable[[int, Floats], None] | None = None,
) -> Floats:
    """Score every listed passage canonically; ``also`` is shown (first row, rows) of each block."""
    scores = np.empty(len(listed.positions), np.float32)
    for first, block in corpus.blocks():
        exact_PD = widen_block(block, space, workers)

        def score_tile(here: slice, exact_PD: Floats = exact_PD, first: int = first) -> None:
            offsets = listed.offsets[here.start : here.stop + 1]
            canonical.score_listed(
                queries_QD[here], exact_PD, first, offsets, listed.positions, scores
            )

        workers.map(score_tile, len(queries_QD), space.tiles.query_rows)
        if also is not None:
            also(first, exact_PD)
    return scores


def widen_block(block: npt.NDArray, space: Workspace, workers: Workers) -> Floats:
    """Return a block as float32; numpy converts float16 ten times slower than torch."""
    if block.dtype == np.float32:
        return block
    wide_PD = space.block(len(block), torch.float32)

    def widen(here: slice) -> None:
        wide_PD[here].copy_(torch.from_numpy(block[here]))

    workers.map(widen, len(block), TILE_PASSAGES)
    widened: Floats = wide_PD.numpy()
    return widened


def _round_block(
    block: npt.NDArray, corpus: Passages, space: Workspace, first: int, workers: Workers
) -> tuple[torch.Tensor, Bound]:
    """Centre and round a block in pieces that fit a cache."""
    rounded_PD = space.block(len(block), space.tiles.product)
    centre_D = torch.from_numpy(corpus.centre)

    def round_piece(here: slice) -> Bound:
        rows_PD = torch.from_numpy(block[here])
        exact_PD = space.piece(len(rows_PD))
        return round_into(rounded_PD[here], exact_PD, rows_PD, centre_D, first + here.start)

    bound = Bound()
    for found in workers.map(round_piece, len(block), TILE_PASSAGES):
        bound = bound.join(found)
    return rounded_PD, bound
