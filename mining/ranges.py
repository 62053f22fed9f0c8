"""Views of candidate lists: what is kept, ranges of ranks to sample from, and replacement windows.

All take matrices (queries x depth, best first, NO_PASSAGE at the end of short lists) and return one
row a query, padded with NO_PASSAGE.
"""

import numpy as np

from catalog.pack.windows import SKIPPED, window_firsts
from catalog.ranges import as_matrix, check_range, preferences
from mining.candidates import Flags
from mining.search import NO_PASSAGE, Ids

__all__ = ["as_matrix", "kept", "num_windows", "sample_range", "window"]


def kept(passage_ids: Ids, filtered_by: Flags) -> Ids:
    """Return the kept candidates in their order, moved together to the front."""
    keeps = (filtered_by == 0) & (passage_ids != NO_PASSAGE)
    order = np.argsort(~keeps, axis=1, kind="stable")
    moved: Ids = np.take_along_axis(np.where(keeps, passage_ids, NO_PASSAGE), order, axis=1)
    return moved[:, : keeps.sum(axis=1).max(initial=0)]


def window(kept_ids: Ids, i: int | Ids, n: int) -> Ids:
    """Return the i-th replacement window of each query, i counted from 1.

    ``catalog.pack.windows`` says which positions that are and what happens at the end of a list:
    a list that ends inside the window gives what is left, one that ended before gives nothing.
    """
    positions = window_firsts(i, n, len(kept_ids))[:, None] + np.arange(n)
    padded = np.pad(kept_ids, ((0, 0), (0, 1)), constant_values=NO_PASSAGE)
    last = padded.shape[1] - 1
    found: Ids = padded[np.arange(len(padded))[:, None], np.minimum(positions, last)]
    return found


def num_windows(kept_ids: Ids, n: int) -> Ids:
    """Count each query's full windows of n; 0 where fewer than 10 + n candidates are kept."""
    lengths = (kept_ids != NO_PASSAGE).sum(axis=1)
    windows: Ids = np.maximum(lengths - SKIPPED, 0) // n
    return windows


def sample_range(
    query_ids: Ids,
    passage_ids: Ids,
    filtered_by: Flags,
    ranks: tuple[int, int],
    n: int,
    seed: int,
) -> Ids:
    """Draw up to n kept candidates of each query from ranks start up to, not including, stop.

    Ranks count from 0 over the whole list, removed candidates included, as in FlagEmbedding's
    2-200. A candidate's draw depends on (seed, query, passage) alone: a longer list or another
    query changes nothing. What is drawn stays in order of rank.
    """
    check_range(ranks, n)
    places = preferences(query_ids, passage_ids, filtered_by, ranks, seed)
    is_drawn = (places >= 0) & (places < n)
    drawn = kept(passage_ids, np.where(is_drawn, 0, 1).astype(np.uint8))
    missing = n - drawn.shape[1]
    return np.pad(drawn, ((0, 0), (0, missing)), constant_values=NO_PASSAGE)
