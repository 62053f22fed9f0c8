"""Views of candidate lists: what is kept, ranges of ranks to sample from, and replacement windows.

All take matrices (queries x depth, best first, NO_PASSAGE at the end of short lists) and return one
row a query, padded with NO_PASSAGE.
"""

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from catalog.pack.windows import SKIPPED, window_firsts
from mining.candidates import Flags
from mining.draws import draw
from mining.search import NO_PASSAGE, Ids


def as_matrix(lists: pa.ChunkedArray | pa.Array, filler: int | float) -> npt.NDArray:
    """Turn a column of lists into a matrix as wide as the longest list."""
    column = lists.combine_chunks() if isinstance(lists, pa.ChunkedArray) else lists
    lengths = np.diff(column.offsets.to_numpy())
    matrix = np.full((len(column), lengths.max(initial=0)), filler)
    values = column.flatten().to_numpy(zero_copy_only=False)
    matrix = matrix.astype(values.dtype)
    matrix[np.arange(matrix.shape[1]) < lengths[:, None]] = values
    return matrix


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
    start, stop = ranks
    if not 0 <= start < stop or n < 1:
        raise ValueError(
            f"ranks {start}-{stop} with n={n}; 0 <= start < stop and n >= 1 are allowed"
        )
    passage_ids, filtered_by = passage_ids[:, start:stop], filtered_by[:, start:stop]
    keeps = (filtered_by == 0) & (passage_ids != NO_PASSAGE)
    draws = draw(seed, "sample negatives", query_ids[:, None], passage_ids)
    # Removed ones come last; of equal draws the lower id.
    order = np.lexsort((passage_ids, draws, ~keeps))
    place = np.empty_like(order)
    np.put_along_axis(place, order, np.arange(order.shape[1])[None, :], axis=1)
    drawn = kept(passage_ids, np.where(keeps & (place < n), 0, 1).astype(np.uint8))
    missing = n - drawn.shape[1]
    return np.pad(drawn, ((0, 0), (0, missing)), constant_values=NO_PASSAGE)
