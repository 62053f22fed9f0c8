"""Exact top-k by inner product, in bounded memory, for a corpus of any size.

The product runs in the precision that the hardware is fastest in (bfloat16 where there are
instructions for it). Its error is bounded for every query from the norms of what rounding cut off,
so that it is proven which passages can be among the best k; those few are scored again, canonically
(``mining.topk.dot``), and ranked. Scores and order do not depend on precision, device, block size,
threads or shards. Equal scores are ordered by row: rows in the order of ids order ties by id.

A query for which too many passages are too close to call is searched with float32 products
(``mining.hard_queries``).
"""

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Final, TypeVar

import numpy as np
import numpy.typing as npt
import torch

from mining import survivors, survivors_cuda, topk
from mining.bfloat16 import cpu_computes_bfloat16
from mining.hard_queries import HardQueries
from mining.passages import Passages
from mining.survivors import MAX_TILE_SCORES, TILE_PASSAGES, Listed, Tiles, Workspace
from mining.vectors import Rows, Vectors, as_vectors

T = TypeVar("T")
Ids = npt.NDArray[np.int64]
Scores = npt.NDArray[np.float32]
AnyVectors = Vectors | Rows | Sequence[Rows]

NO_PASSAGE: Final = -1
MAX_TILE_QUERIES: Final = 4096
MAX_PASSAGES: Final = 2**32  # row numbers are stored in 32 bits
MIN_MEMORY_MB: Final = 1
RANKED_QUERIES: Final = 512  # at once by a thread


def fastest_product() -> str:
    """Name the precision that this machine multiplies fastest."""
    if torch.cuda.is_available():
        return "bf16"
    return "bf16" if cpu_computes_bfloat16() else "fp32"


def default_device() -> str:
    """Name the GPU where there is one, else the CPU."""
    return "cuda" if torch.cuda.is_available() else "cpu"


@dataclass(frozen=True)
class SearchSettings:
    """How the search runs; none of it changes what is found.

    ``memory_mb`` bounds the search's own buffers; what it returns comes on top.
    """

    memory_mb: int = 1024
    threads: int = field(default_factory=lambda: os.cpu_count() or 1)
    product: str = field(default_factory=fastest_product)
    device: str = field(default_factory=default_device)

    def __post_init__(self) -> None:
        if self.memory_mb < MIN_MEMORY_MB:
            raise ValueError(f"memory_mb is {self.memory_mb}; it must be at least {MIN_MEMORY_MB}")
        if self.threads < 1:
            raise ValueError(f"threads is {self.threads}; it must be at least 1")
        if self.product not in ("bf16", "fp32"):
            raise ValueError(f"product is {self.product!r}; allowed are 'bf16' and 'fp32'")
        if torch.device(self.device).type not in ("cpu", "cuda"):
            raise ValueError(f"device is {self.device!r}; allowed are 'cpu', 'cuda' and 'cuda:N'")
        if torch.device(self.device).type == "cuda" and not torch.cuda.is_available():
            raise ValueError(f"device is {self.device!r}, but torch finds no GPU; use 'cpu'")


@dataclass(frozen=True)
class Found:
    """The best passages of queries ``first`` to ``first + len(rows)``, best first.

    ``rows`` are row numbers of passages; where the corpus is smaller than k, they are NO_PASSAGE
    and the scores minus infinity.
    """

    first: int
    rows: Ids
    scores: Scores


def search(
    queries: AnyVectors, passages: AnyVectors, k: int, settings: SearchSettings | None = None
) -> tuple[Ids, Scores]:
    """Return (row numbers int64, scores float32), both queries x k, best first.

    Where the corpus is smaller than k the rest is NO_PASSAGE and minus infinity.
    """
    queries = as_vectors(queries)
    rows = np.empty((len(queries), k), np.int64)
    scores = np.empty((len(queries), k), np.float32)
    for found in search_blocks(queries, passages, k, settings):
        here = slice(found.first, found.first + len(found.rows))
        rows[here], scores[here] = found.rows, found.scores
    return rows, scores


def search_blocks(
    queries: AnyVectors, passages: AnyVectors, k: int, settings: SearchSettings | None = None
) -> Iterator[Found]:
    """Yield the k best passages of one block of queries after the other, in order.

    Raises ValueError for vectors of different widths, and for one that is not finite.
    """
    settings = settings or SearchSettings()
    queries, passages = as_vectors(queries), as_vectors(passages)
    _check(queries, passages, k)
    plan = _make_plan(queries, passages, k, settings)
    corpus = Passages(passages, plan.block_rows)
    space = plan.workspace(passages.width)
    with _Threads(settings.threads) as workers:
        for first in range(0, len(queries), plan.query_rows):
            block = queries.read(first, min(first + plan.query_rows, len(queries)))
            rows, scores = _search_block(
                block.astype(np.float32), corpus, min(k, len(corpus)), plan, space, workers
            )
            yield Found(first, _pad(rows, k, NO_PASSAGE), _pad(scores, k, -np.inf))


def score_listed(
    queries: AnyVectors,
    passages: AnyVectors,
    offsets: Ids,
    positions: Ids,
    settings: SearchSettings | None = None,
) -> Scores:
    """Score chosen passages canonically: those of query i are positions[offsets[i]:offsets[i + 1]].

    Positions must ascend within a query; the scores are parallel to them.
    """
    settings = settings or SearchSettings()
    queries, passages = as_vectors(queries), as_vectors(passages)
    _check(queries, passages, 1)
    plan = _make_plan(queries, passages, 1, settings)
    space = plan.workspace(passages.width)
    scores = np.empty(len(positions), np.float32)
    with _Threads(settings.threads) as workers:
        for first in range(0, len(queries), plan.query_rows):
            last = min(first + plan.query_rows, len(queries))
            here = slice(int(offsets[first]), int(offsets[last]))
            own = offsets[first : last + 1] - offsets[first]
            block = queries.read(first, last).astype(np.float32)
            corpus, chosen = _only(passages, positions[here], settings, plan)
            listed = Listed(own, chosen.astype(np.uint32), np.empty(0, np.int64))
            if plan.device == "cpu":
                scores[here] = survivors.score(block, corpus, listed, space, workers)
            else:
                scores[here] = survivors_cuda.score(block, corpus, listed, plan.device)
    return scores


def score_rows(
    queries: AnyVectors, passages: AnyVectors, rows: Ids, settings: SearchSettings | None = None
) -> Scores:
    """Score a matrix of passages (queries x depth) canonically; NO_PASSAGE gets minus infinity."""
    order = np.argsort(rows, axis=1)
    ordered = np.take_along_axis(rows, order, axis=1)
    present = ordered != NO_PASSAGE
    offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(present.sum(axis=1))])
    ascending = np.full(rows.shape, -np.inf, np.float32)
    ascending[present] = score_listed(queries, passages, offsets, ordered[present], settings)
    scores = np.empty_like(ascending)
    np.put_along_axis(scores, order, ascending, axis=1)
    return scores


def _only(
    passages: Vectors, positions: Ids, settings: SearchSettings, plan: "_Plan"
) -> tuple[Passages, Ids]:
    """Leave out passages that nobody wants, where those wanted are few enough to be picked."""
    wanted = np.unique(positions)
    is_small = len(wanted) * passages.width * passages.itemsize < (settings.memory_mb << 20) // 4
    if not is_small or len(wanted) > len(passages) // 2:
        return Passages(passages, plan.block_rows), positions
    picked = Vectors(passages.take(wanted))
    return Passages(picked, plan.block_rows), np.searchsorted(wanted, positions)


@dataclass(frozen=True)
class _Plan:
    """Sizes that keep the search inside its memory."""

    query_rows: int
    block_rows: int
    tiles: Tiles
    device: str

    def workspace(self, width: int) -> Workspace:
        """Allocate what a search on CPU works in; memory that is never used is never taken."""
        return Workspace(self.tiles, self.query_rows, self.block_rows, width)


def _make_plan(queries: Vectors, passages: Vectors, k: int, settings: SearchSettings) -> _Plan:
    product = torch.bfloat16 if settings.product == "bf16" else torch.float32
    on_cpu = settings.device == "cpu"
    memory = settings.memory_mb << 20
    # Just compacted, a buffer holds little more than k; at five times k that is rare.
    capacity = -(-max(5 * k, 256) // topk.CHUNK) * topk.CHUNK
    entry_bytes = product.itemsize + 8 if on_cpu else 2 * (product.itemsize + 8)
    passage_bytes = passages.width * (2 * passages.itemsize + 4)
    query_bytes = passages.width * (8 + product.itemsize) + capacity * entry_bytes + 24 * k
    least = max(8 * passage_bytes, 2 * query_bytes)
    if memory < least:
        needed = -(-least >> 20)
        raise ValueError(f"memory_mb is {settings.memory_mb}; k={k} needs at least {needed}")
    # Most of it is for queries: all passages are read, and rounded, once for each block of them.
    query_rows = _even_share(len(queries), memory * 3 // 4 // query_bytes)
    block_rows = min(max(len(passages), 1), memory // 8 // passage_bytes)
    threads = settings.threads if on_cpu else 1
    # A GPU's scores have a mask beside them.
    tile_scores = memory // 8 // (product.itemsize * (threads if on_cpu else 2))
    tile_rows = min(
        -(-query_rows // threads),
        MAX_TILE_QUERIES,
        max(1, tile_scores // TILE_PASSAGES),
    )
    tiles = Tiles(tile_rows, capacity, product, min(tile_scores, MAX_TILE_SCORES))
    return _Plan(query_rows, block_rows, tiles, settings.device)


def _search_block(
    queries_QD: Scores,
    corpus: Passages,
    k: int,
    plan: _Plan,
    space: Workspace,
    workers: "_Threads",
) -> tuple[Ids, Scores]:
    """Return (row numbers, scores) of the k best passages of some queries."""
    rows = np.empty((len(queries_QD), k), np.int64)
    scores = np.empty((len(queries_QD), k), np.float32)
    if not rows.size:
        return rows, scores
    if plan.device != "cpu":
        return _search_block_cuda(queries_QD, corpus, k, plan, space, workers)
    listed = survivors.select(queries_QD, corpus, k, space, workers)
    hard = HardQueries(queries_QD[listed.overflowed], k, workers)
    exact = survivors.score(queries_QD, corpus, listed, space, workers, hard.take_block)
    _rank(listed, exact, rows, scores, workers)
    rows[listed.overflowed], scores[listed.overflowed] = hard.best()
    return rows, scores


def _search_block_cuda(
    queries_QD: Scores,
    corpus: Passages,
    k: int,
    plan: _Plan,
    space: Workspace,
    workers: "_Threads",
) -> tuple[Ids, Scores]:
    """Do the same on a GPU; hard queries once more in float32, and what is left of them on CPU."""
    rows = np.empty((len(queries_QD), k), np.int64)
    scores = np.empty((len(queries_QD), k), np.float32)
    listed = survivors_cuda.select(queries_QD, corpus, k, plan.tiles, plan.device)
    exact = survivors_cuda.score(queries_QD, corpus, listed, plan.device)
    _rank(listed, exact, rows, scores, workers)
    if not len(listed.overflowed):
        return rows, scores
    hard_QD = queries_QD[listed.overflowed]
    if plan.tiles.product != torch.float32:
        exactly = replace(plan.tiles, product=torch.float32, scores=plan.tiles.scores // 2)
        retry = replace(plan, tiles=exactly)
        found = _search_block_cuda(hard_QD, corpus, k, retry, space, workers)
    else:
        hard = HardQueries(hard_QD, k, workers)
        for first, block in corpus.blocks():
            hard.take_block(first, survivors.widen_block(block, space, workers))
        found = hard.best()
    rows[listed.overflowed], scores[listed.overflowed] = found
    return rows, scores


def _rank(listed: Listed, exact: Scores, rows: Ids, scores: Scores, workers: "_Threads") -> None:
    def rank(here: slice) -> None:
        offsets = listed.offsets[here.start : here.stop + 1]
        topk.rank(offsets, listed.positions, exact, rows[here], scores[here])

    workers.map(rank, len(rows), RANKED_QUERIES)


class _Threads:
    """Threads that each multiply alone: nobody waits, and a tile stays in its core's cache."""

    def __init__(self, threads: int) -> None:
        self.threads = threads

    def __enter__(self) -> "_Threads":
        self.default_threads = torch.get_num_threads()
        self.default_precision = torch.get_float32_matmul_precision()
        # A lower one lets float32 products be made of bfloat16: the margins would not hold.
        torch.set_float32_matmul_precision("highest")
        self.pool = ThreadPoolExecutor(
            self.threads, initializer=torch.set_num_threads, initargs=(1,)
        )
        return self

    def __exit__(self, *_: object) -> None:
        self.pool.shutdown(cancel_futures=True)
        # A thread's own setting is also what torch gives to threads that come later.
        torch.set_num_threads(self.default_threads)
        torch.set_float32_matmul_precision(self.default_precision)

    def map(self, function: Callable[[slice], T], total: int, size: int) -> list[T]:
        """Call the function for slices of a range, and wait for all of them."""
        slices = [slice(low, min(low + size, total)) for low in range(0, total, size)]
        return list(self.pool.map(function, slices))


def _check(queries: Vectors, passages: Vectors, k: int) -> None:
    if k < 1:
        raise ValueError(f"k is {k}; it must be at least 1")
    if queries.width != passages.width:
        raise ValueError(
            f"queries have {queries.width} dimensions and passages {passages.width}; "
            "both must come from one model"
        )
    if len(passages) > MAX_PASSAGES:
        raise ValueError(
            f"{len(passages)} passages; one search holds at most {MAX_PASSAGES}: search shards of "
            "the corpus and merge them with mining.fusion.merge"
        )


def _even_share(total: int, most: int) -> int:
    """Cut a total into as few equal parts of at most ``most`` as possible; return their size."""
    parts = max(1, -(-total // most))
    return max(1, -(-total // parts))


def _pad(values: npt.NDArray, k: int, filler: float) -> npt.NDArray:
    missing = k - values.shape[1]
    return np.pad(values, ((0, 0), (0, missing)), constant_values=filler) if missing else values
