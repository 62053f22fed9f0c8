"""Exact top-k by inner product, in bounded memory, for a corpus of any size.

The product runs in the precision that the hardware is fastest in (bfloat16 where there are
instructions for it). Its error is bounded for every query from the norms of what rounding cut off,
so that it is proven which passages can be among the best k; those few are scored again, canonically
(``mining.canonical.dot``), and ranked. Scores and order do not depend on precision, device, block
size, threads or shards. Equal scores are ordered by row: rows in the order of ids order ties by id.

A query for which too many passages are too close to call is searched with float32 products
(``mining.hard_queries``).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import numpy.typing as npt
import torch

from mining import survivors, survivors_cuda, topk
from mining.hard_queries import HardQueries
from mining.passages import Passages
from mining.search_plan import Plan, SearchSettings, make_plan
from mining.search_threads import Threads
from mining.survivors import Listed, Workspace
from mining.vectors import Rows, Vectors, as_vectors

Ids = npt.NDArray[np.int64]
Scores = npt.NDArray[np.float32]
AnyVectors = Vectors | Rows | Sequence[Rows]

NO_PASSAGE: Final = -1
MAX_PASSAGES: Final = 2**32  # row numbers are stored in 32 bits
RANKED_QUERIES: Final = 512  # at once by a thread


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
    plan = make_plan(queries, passages, k, settings)
    corpus = Passages(passages, plan.block_rows)
    space = plan.workspace(passages.width)
    with Threads(settings.threads) as workers:
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
    plan = make_plan(queries, passages, 1, settings)
    space = plan.workspace(passages.width)
    scores = np.empty(len(positions), np.float32)
    with Threads(settings.threads) as workers:
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
    passages: Vectors, positions: Ids, settings: SearchSettings, plan: Plan
) -> tuple[Passages, Ids]:
    """Leave out passages that nobody wants, where those wanted are few enough to be picked."""
    wanted = np.unique(positions)
    is_small = len(wanted) * passages.width * passages.itemsize < (settings.memory_mb << 20) // 4
    if not is_small or len(wanted) > len(passages) // 2:
        return Passages(passages, plan.block_rows), positions
    picked = Vectors(passages.take(wanted))
    return Passages(picked, plan.block_rows), np.searchsorted(wanted, positions)


def _search_block(
    queries_QD: Scores,
    corpus: Passages,
    k: int,
    plan: Plan,
    space: Workspace,
    workers: Threads,
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
    plan: Plan,
    space: Workspace,
    workers: Threads,
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


def _rank(listed: Listed, exact: Scores, rows: Ids, scores: Scores, workers: Threads) -> None:
    def rank(here: slice) -> None:
        offsets = listed.offsets[here.start : here.stop + 1]
        topk.rank(offsets, listed.positions, exact, rows[here], scores[here])

    workers.map(rank, len(rows), RANKED_QUERIES)


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


def _pad(values: npt.NDArray, k: int, filler: float) -> npt.NDArray:
    missing = k - values.shape[1]
    return np.pad(values, ((0, 0), (0, missing)), constant_values=filler) if missing else values
