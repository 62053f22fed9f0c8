"""What a run knows of every query's hard negatives: which they are, and what they scored.

The candidates and the score of a negative depend on the query alone, so pairs that share a query
share one row of the state: whichever of them is seen is an observation.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from catalog.draws import draw
from catalog.pack.layout import Ids, Integers, Rows
from catalog.pack.windows import SKIPPED
from trainer.candidate_lists import CandidateLists
from trainer.negative_rules import NegativeSettings, Scores
from trainer.observations import Observed

BY_RANK: Final = (
    "v2",
    "rescored",
    "sampled",
)  # rules whose negatives are not neighbors in the list
MAX_RANKS: Final = np.iinfo(np.int16).max
PURPOSE: Final = "sampled negatives"


@dataclass
class NegativeState:
    """One row a query. k is num_negatives for v2, which decides on each, and 1 for the others.

    ``window`` counts from 1 and up with every replacement. ``s0`` [q, k] is the first score since
    the last one, ``s`` the newest of a later step; NaN: not seen. ``observed`` is the step of the
    last observation, -1 before it. ``ranks`` [q, n] are the places of the negatives in the list
    and ``following`` is the first place that was not used; both have no rows where windows say it.
    """

    window: npt.NDArray[np.int16]
    s0: Scores
    s: Scores
    observed: npt.NDArray[np.int32]
    exhausted: npt.NDArray[np.bool_]
    ranks: npt.NDArray[np.int16]
    following: npt.NDArray[np.int16]

    @classmethod
    def start(cls, queries: int, settings: NegativeSettings) -> "NegativeState":
        """Begin with window 1 of every query."""
        n = settings.num_negatives
        k = n if settings.rule == "v2" else 1
        placed = queries if settings.rule in BY_RANK else 0
        return cls(
            window=np.ones(queries, np.int16),
            s0=np.full((queries, k), np.nan, np.float32),
            s=np.full((queries, k), np.nan, np.float32),
            observed=np.full(queries, -1, np.int32),
            exhausted=np.zeros(queries, np.bool_),
            ranks=np.tile(_first_ranks(n), (placed, 1)),
            following=np.full(placed, SKIPPED + n, np.int16),
        )

    def negatives(self, lists: CandidateLists, queries: Integers, n: int) -> Rows:
        """Return the passages that stand against the queries [b, n], excluded ones among them."""
        if len(self.ranks):
            return lists.take(queries, self.ranks[queries].astype(np.int64))
        return lists.window(queries, self.window[queries].astype(np.int64), n)

    def record(self, seen: Observed, *, is_second_needed: bool) -> None:
        """Take up new scores; the first becomes s0, and s as well where no second is needed."""
        q = seen.queries
        s0, s = self.s0[q], self.s[q]
        is_first = np.isnan(s0)
        is_new = ~np.isnan(seen.last)
        self.s0[q] = np.where(is_first, seen.first, s0)
        counts = ~is_first | seen.several if is_second_needed else np.ones_like(is_first)
        self.s[q] = np.where(is_new & counts, seen.last, s)
        self.observed[q[is_new.any(axis=1)]] = seen.steps[is_new.any(axis=1)]

    def restart(self, queries: Integers) -> None:
        """Begin again with window 1: the queries have new lists."""
        self.window[queries] = 1
        self.s0[queries] = self.s[queries] = np.nan
        self.exhausted[queries] = False
        if len(self.ranks):
            self.ranks[queries] = _first_ranks(self.ranks.shape[1])
            self.following[queries] = SKIPPED + self.ranks.shape[1]

    def to_arrays(self) -> dict[str, npt.NDArray[Any]]:
        """Return the columns by name."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    def load_arrays(self, arrays: Mapping[str, npt.NDArray[Any]]) -> None:
        """Take up columns of the same shapes, as ``to_arrays`` gave them."""
        for field in fields(self):
            own, saved = getattr(self, field.name), arrays[field.name]
            if own.shape != saved.shape or own.dtype != saved.dtype:
                raise ValueError(
                    f"saved negatives: {field.name} is {saved.dtype} of shape {saved.shape}, this "
                    f"run has {own.dtype} of shape {own.shape}; resume with the pack and the "
                    "settings that the run began with"
                )
            setattr(self, field.name, saved.copy())


def draw_ranks(query_ids: Ids, counts: Ids, settings: NegativeSettings) -> npt.NDArray[np.int16]:
    """Draw num_negatives places [q, n] of each query's list within the settings' range.

    ``counts`` are the lengths of the lists: a shorter range gives all of its places, and then
    places after the end, where nothing is. A draw depends on query and place alone: a list that
    grows keeps what was drawn of its beginning, unless a new place was drawn before it.
    """
    places = np.arange(settings.ranks_from, settings.ranks_to)
    draws = draw(settings.draw_seed, PURPOSE, np.asarray(query_ids)[:, None], places)
    is_missing = places >= counts[:, None]
    order = np.lexsort((np.broadcast_to(places, draws.shape), draws, is_missing))
    chosen = order[:, : settings.num_negatives]
    is_there = ~np.take_along_axis(is_missing, chosen, axis=1)
    return np.where(is_there, places[chosen], MAX_RANKS - 1).astype(np.int16)


def _first_ranks(n: int) -> npt.NDArray[np.int16]:
    return np.arange(SKIPPED, SKIPPED + n, dtype=np.int16)
