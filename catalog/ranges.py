"""Ranges of ranks to take negatives from: the best of them, or a draw.

Matrices are queries x depth, best first; a negative id fills up a short list.
"""

from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from catalog.draws import draw

Ids = npt.NDArray[np.int64]
Flags = npt.NDArray[np.uint8]

PURPOSE: Final = "sample negatives"
NOT_ELIGIBLE: Final = -1


def check_range(ranks: tuple[int, int], n: int) -> None:
    """Refuse a range of ranks that holds none, and a number of negatives that is none."""
    start, stop = ranks
    if not 0 <= start < stop or n < 1:
        raise ValueError(
            f"ranks {start}-{stop} with n={n}; 0 <= start < stop and n >= 1 are allowed"
        )


def preferences(
    query_ids: Ids,
    passage_ids: Ids,
    filtered_by: Flags,
    ranks: tuple[int, int],
    seed: int | None,
) -> Ids:
    """Return the place of each candidate in the order in which its query takes negatives.

    Eligible are kept candidates of ranks start up to, not including, stop; ranks count from 0 over
    the whole list, removed candidates included, as in FlagEmbedding's 2-200. The others get
    NOT_ELIGIBLE. Without a seed the order is that of the ranks. With one it is a draw that depends
    on (seed, query, passage) alone: a longer list or another query changes nothing.
    """
    rank = np.broadcast_to(np.arange(passage_ids.shape[1]), passage_ids.shape)
    is_eligible = (filtered_by == 0) & (passage_ids >= 0) & (rank >= ranks[0]) & (rank < ranks[1])
    # Those that are not eligible come last; of equal draws the lower id.
    if seed is None:
        order = np.lexsort((rank, ~is_eligible))
    else:
        draws = draw(seed, PURPOSE, query_ids[:, None], passage_ids)
        order = np.lexsort((passage_ids, draws, ~is_eligible))
    place = np.empty_like(order)
    np.put_along_axis(place, order, rank, axis=1)
    return np.where(is_eligible, place, NOT_ELIGIBLE)


def as_matrix(lists: pa.ChunkedArray | pa.Array, filler: int | float) -> npt.NDArray:
    """Turn a column of lists into a matrix as wide as the longest list."""
    column = lists.combine_chunks() if isinstance(lists, pa.ChunkedArray) else lists
    lengths = np.diff(column.offsets.to_numpy())
    matrix = np.full((len(column), lengths.max(initial=0)), filler)
    values = column.flatten().to_numpy(zero_copy_only=False)
    matrix = matrix.astype(values.dtype)
    matrix[np.arange(matrix.shape[1]) < lengths[:, None]] = values
    return matrix
