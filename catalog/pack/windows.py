"""The replacement windows of dynamic hard negatives: which ranks the i-th replacement takes.

The i-th window of n negatives (i from 1) is the kept candidates at positions
``[(i - 1) * n + 10, i * n + 10)``, counted from 0 in rank order (Conan-embedding v1, arXiv
2408.15710): the ten best candidates are skipped, as they are the likeliest false negatives.

- Kept means what the miner did not remove; removed candidates take no position.
- A list that ends inside a window gives the candidates that are left: fewer than n.
- An exhausted list, which ends before the window, gives none, and so does a query that was never
  mined. What to do then is the trainer's decision: keep the last window, mark the query for mining.
  Of 100 candidates and n = 7 the 12th window is the last whole one, the 14th the first empty one.
- Two windows of one query never share a candidate.
"""

from collections.abc import Sequence
from typing import Final, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from catalog.lake import Catalog
from catalog.pack.layout import Integers, PackError, Rows

T = TypeVar("T")
SKIPPED: Final = 10


class Window(NamedTuple):
    """A window of every query of a batch: rows [b, n], NONE after the first ``counts`` [b]."""

    rows: Rows
    counts: npt.NDArray[np.int64]


def window_span(i: int, n: int) -> tuple[int, int]:
    """Return the positions ``[first, end)`` of the i-th window of n candidates."""
    if i < 1 or n < 1:
        raise ValueError(f"window {i} of {n} candidates: both numbers start at 1")
    return (i - 1) * n + SKIPPED, i * n + SKIPPED


def window_firsts(i: int | Integers, n: int, queries: int) -> npt.NDArray[np.int64]:
    """Return the first position of every query's window; ``i`` is one number or one a query."""
    windows = np.broadcast_to(np.asarray(i, dtype=np.int64), (queries,))
    if n < 1 or (queries and windows.min() < 1):
        raise ValueError(f"window {windows.min(initial=1)} of {n} candidates: both start at 1")
    return (windows - 1) * n + SKIPPED


def window(kept: Sequence[T], i: int, n: int) -> Sequence[T]:
    """Cut the i-th window out of one query's kept candidates."""
    first, end = window_span(i, n)
    return kept[first:end]


def lake_window(catalog: Catalog, run: str, query_id: int, i: int, n: int) -> list[int]:
    """Read one query's window from the lake: passage ids, best first. For people, not for steps."""
    first, end = window_span(i, n)
    with catalog.reader() as connection:
        found = connection.execute(
            """
            select [p for p, place in passage_ids if filtered_by[place] = 0][?:?]
            from candidates where run = ? and query_id = ?
            """,
            [first + 1, end, run, query_id],
        ).fetchone()
    if found is None:
        raise PackError(f"run {run!r} has no candidates of query {query_id}; run: lode mine")
    return list(found[0])
