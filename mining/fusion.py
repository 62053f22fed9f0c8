"""Fusion: several ranked lists become one.

A list is (ids int64, scores float32), queries x depth, best first; NO_PASSAGE fills up short ones.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from mining.search import NO_PASSAGE, Ids, Scores

# Cormack, Clarke and Büttcher (2009): ranks far down still count, the first do not decide alone.
RRF_CONSTANT = 60

Lists = Sequence[tuple[Ids, Scores]]


def merge(lists: Lists, k: int) -> tuple[Ids, Scores]:
    """Merge searches of different shards of a corpus: the k best scores, equal ones by id."""
    _check(lists, k)
    ids = np.concatenate([ids for ids, _ in lists], axis=1)
    scores = np.concatenate([scores for _, scores in lists], axis=1)
    return _best(ids, scores, k)


def reciprocal_rank(lists: Lists, k: int, constant: int = RRF_CONSTANT) -> tuple[Ids, Scores]:
    """Fuse rankings of one corpus by different searches: score = sum of 1 / (constant + rank).

    Ranks count from 1. Equal scores are ordered by id.
    """
    _check(lists, k)
    if constant < 0:
        raise ValueError(f"constant is {constant}; it must be at least 0")
    ids = np.concatenate([ids for ids, _ in lists], axis=1)
    shares = np.concatenate([1.0 / (constant + 1 + np.arange(i.shape[1])) for i, _ in lists])
    order = np.argsort(ids, axis=1, kind="stable")
    ids = np.take_along_axis(ids, order, axis=1)
    # The entries of one passage are neighbors now: sum each run at its first entry. The order of
    # the lists decides the order of the additions, and with it the last bit.
    sums = shares[order]
    for distance in range(1, len(lists)):
        same = ids[:, distance:] == ids[:, :-distance]
        sums[:, :-distance] += np.where(same, shares[order][:, distance:], 0.0)
    repeats = np.zeros(ids.shape, bool)
    repeats[:, 1:] = ids[:, 1:] == ids[:, :-1]
    ids = np.where(repeats, NO_PASSAGE, ids)
    return _best(ids, sums.astype(np.float32), k)


def _best(ids: Ids, scores: Scores, k: int) -> tuple[Ids, Scores]:
    missing = ids == NO_PASSAGE
    scores = np.where(missing, -np.inf, scores)
    order = np.lexsort((np.where(missing, np.iinfo(np.int64).max, ids), -scores))[:, :k]
    short = k - order.shape[1]
    return (
        _pad(np.take_along_axis(ids, order, axis=1), short, NO_PASSAGE),
        _pad(np.take_along_axis(scores, order, axis=1).astype(np.float32), short, -np.inf),
    )


def _pad(values: npt.NDArray, missing: int, filler: float) -> npt.NDArray:
    if missing <= 0:
        return values
    return np.pad(values, ((0, 0), (0, missing)), constant_values=filler)


def _check(lists: Lists, k: int) -> None:
    if not lists:
        raise ValueError("there are no lists to combine; give at least one")
    if k < 1:
        raise ValueError(f"k is {k}; it must be at least 1")
    for ids, scores in lists:
        if ids.shape != scores.shape or len(ids) != len(lists[0][0]):
            raise ValueError(
                f"lists of shapes {[i.shape for i, _ in lists]} with scores of shapes "
                f"{[s.shape for _, s in lists]}; each needs one row a query and one score an id"
            )
