"""A teacher's scores of a batch's passages: what the miner's model said of query and candidate."""

import numpy as np
import numpy.typing as npt

from catalog.pack import NONE, Pack
from catalog.pack.layout import Integers, Rows

Scores = npt.NDArray[np.float32]


def teacher_scores(pack: Pack, positions: Integers, negatives: Rows) -> Scores:
    """Return the stored scores [n, 1 + k] of each pair's positive and its negatives [n, k].

    Minus infinity stands for a passage without a score: one that was given, that is not there, or
    that came in from a list mined later, whose model may be another. A pair whose positive has no
    score has no other either, so that nothing is distilled from it. The positive's score is the
    pair's own where the pack holds scores, else that of the query's lowest positive.
    """
    pairs = pack.pairs()
    queries = pairs.query[positions]
    lists, scores = pack.candidates.best(queries, pack.candidates.width)
    is_same = (negatives[:, :, None] == lists[:, None, :]) & (negatives != NONE)[:, :, None]
    found = np.take_along_axis(scores.astype(np.float32), is_same.argmax(axis=2), axis=1)
    found[~is_same.any(axis=2)] = -np.inf
    positives = _positive_scores(pack, positions, queries)
    is_known = ~np.isnan(positives)
    found[~is_known] = -np.inf
    return np.concatenate([np.where(is_known, positives, 0.0)[:, None], found], axis=1)


def _positive_scores(pack: Pack, positions: Integers, queries: Rows) -> Scores:
    lowest = pack.candidates.positive_scores(queries)
    stored = pack.pairs().score
    if stored is None:
        return lowest
    own = stored[positions].astype(np.float32)
    return np.where(np.isnan(own), lowest, own)
