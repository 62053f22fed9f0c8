"""Reranking: a cross-encoder puts the first passages that a search found into its own order."""

from collections.abc import Sequence

import numpy as np

from mining.relevance import Relevance
from mining.retrieval_eval import Collection, Searcher, depth_of_metrics, measure
from mining.search import NO_PASSAGE, Ids

DEPTH = 100


def rerank(
    reranker: Relevance, queries: Sequence[str], passages: Sequence[str], rows: Ids, depth: int
) -> Ids:
    """Return found passages [queries x k] with the first ``depth`` in the reranker's order.

    What is behind them stays where it is; of equal scores the one that was found first is first.
    """
    if depth < 1:
        raise ValueError(f"the depth of reranking is {depth}; it must be at least 1")
    top = rows[:, :depth]
    is_there = top != NO_PASSAGE
    query, _ = np.nonzero(is_there)
    scores = np.full(top.shape, -np.inf)
    scores[is_there] = reranker.score(
        [queries[q] for q in query.tolist()],
        [passages[p] for p in top[is_there].tolist()],
    )
    order = np.argsort(-scores, axis=1, kind="stable")
    return np.concatenate([np.take_along_axis(top, order, axis=1), rows[:, depth:]], axis=1)


def evaluate_reranked(
    collection: Collection, find: Searcher, reranker: Relevance, depth: int = DEPTH
) -> tuple[dict[str, float], dict[str, float]]:
    """Search a collection once; return its metrics as it was found, and reranked."""
    wanted = max(depth, depth_of_metrics())
    rows, _ = find(collection.queries, collection.passages, wanted)
    after = rerank(reranker, collection.queries, collection.passages, rows, depth)
    return measure(rows, collection.judgments), measure(after, collection.judgments)
