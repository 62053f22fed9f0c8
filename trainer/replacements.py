"""Which hard negatives give way, and what takes their place: one check of what was observed.

At the end of a list (``catalog.pack.windows`` has the arithmetic):

- A last window with fewer than n candidates is taken; the places that it lacks stay empty.
- A list without a further candidate is exhausted: its query keeps what it has and is marked, so
  that ``lode mine`` can mine it again. It is not looked at until it has a new list.
- A query that was never mined, or whose list ends before the first window, has no hard negatives;
  there is nothing to replace and nothing to mark.

A negative whose passage was excluded during the run gives way whatever it scored: under v2 by
itself, under the others when no negative of its query is left.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np

from catalog.pack import NONE
from catalog.pack.layout import Ids, Rows
from catalog.pack.windows import window_firsts
from trainer.candidate_lists import CandidateLists
from trainer.negative_rules import (
    Mask,
    NegativeSettings,
    Scores,
    hardest_below_margin,
    is_too_easy,
)
from trainer.negative_state import NegativeState
from trainer.observations import Observed

Score = Callable[[Rows, Rows], Scores]
"""Score passages [m, k] for queries [m] by the current model; the same on every process.

A passage NONE is no text: its score does not count.
"""

REPLACED: Final = "replaced"
EXHAUSTED: Final = "exhausted"
EXCLUDED: Final = "excluded"  # a negative that a revised policy drops gave way
PAIR_EXCLUDED: Final = "pair_excluded"  # the pair itself is dropped
TOO_CLOSE: Final = "too_close"  # no candidate of the pool is below the margin: try the next pool
REFRESHED: Final = "refreshed"
RESCORED_QUERIES: Final = 256  # at a time: 13,000 passages of a pool of 50


@dataclass(frozen=True)
class Decisions:
    """Decisions of one kind, by query and by the pair that was seen last (position of the pack).

    ``rank`` is the place in the list of what came in first, -1: nothing came.
    """

    reason: str
    queries: Ids
    pairs: Ids
    window: Ids
    rank: Ids
    s0: Scores
    s: Scores


def replace_windows(
    state: NegativeState, lists: CandidateLists, seen: Observed, settings: NegativeSettings
) -> list[Decisions]:
    """Move queries whose negatives are too easy to their next window (v1)."""
    q, n = seen.queries, settings.num_negatives
    easy, gone = _due(state, lists, seen, settings)
    window = state.window[q].astype(np.int64)
    first = window_firsts(window + 1, n, len(q))
    has_next = lists.counts(q) > first
    decisions = []
    for due, reason in ((easy, REPLACED), (gone & ~easy, EXCLUDED)):
        at = np.flatnonzero(due & has_next)
        decisions.append(_decide(state, seen, at, reason, window[at] + 1, first[at]))
        state.window[q[at]] += 1
        state.s0[q[at]] = state.s[q[at]] = np.nan
    return [*decisions, _exhaust(state, seen, (easy | gone) & ~has_next)]


def replace_singly(
    state: NegativeState, lists: CandidateLists, seen: Observed, settings: NegativeSettings
) -> list[Decisions]:
    """Give each negative that is too easy the next unused candidate (v2)."""
    q = seen.queries
    ranks = state.ranks[q].astype(np.int64)
    easy = is_too_easy(state.s0[q], state.s[q], settings)
    gone = lists.is_excluded(lists.take(q, ranks)) if lists.exclusions else np.zeros_like(easy)
    counts = lists.counts(q)[:, None]
    due = (easy | gone) & (ranks < counts) & ~state.exhausted[q][:, None]
    wanted = state.following[q].astype(np.int64)[:, None] + np.cumsum(due, axis=1) - 1
    comes = due & (wanted < counts)
    windows = state.window[q].astype(np.int64)[:, None] + np.cumsum(comes, axis=1)
    lacks = due & ~comes
    decisions = []
    for of_reason, reason in ((comes & easy, REPLACED), (comes & ~easy, EXCLUDED)):
        at, slot = np.nonzero(of_reason)
        new = _decide(state, seen, at, reason, windows[at, slot], wanted[at, slot], slot)
        decisions.append(new)
    state.ranks[q] = np.where(comes, wanted, ranks)
    state.following[q] += comes.sum(axis=1).astype(np.int16)
    state.window[q] = windows[:, -1] if len(q) else state.window[q]
    state.s0[q] = np.where(comes, np.float32(np.nan), state.s0[q])
    state.s[q] = np.where(comes, np.float32(np.nan), state.s[q])
    ended = _exhaust(state, seen, np.any(lacks, axis=1), np.argmax(lacks, axis=1))
    return [*decisions, ended]


def replace_rescored(
    state: NegativeState,
    lists: CandidateLists,
    seen: Observed,
    settings: NegativeSettings,
    positives: Rows,
    score: Score,
) -> list[Decisions]:
    """Let the current model choose among the next candidates of queries that are too easy.

    ``positives`` [m] are the passages of the pairs that were seen. A pool is used once: what it
    did not give is passed over, so that no candidate comes twice.
    """
    q = seen.queries
    easy, gone = _due(state, lists, seen, settings)
    first = state.following[q].astype(np.int64)
    has_next = lists.counts(q) > first
    due = np.flatnonzero((easy | gone) & has_next)
    decisions = [_exhaust(state, seen, (easy | gone) & ~has_next)]
    for start in range(0, len(due), RESCORED_QUERIES):
        at = due[start : start + RESCORED_QUERIES]
        pool = first[at][:, None] + np.arange(settings.pool)
        places = _hardest(lists, q[at], pool, positives[at], settings, score)
        found = places >= 0
        comes: Mask = np.any(found, axis=1)
        ranks = np.where(found, np.take_along_axis(pool, np.maximum(places, 0), axis=1), -1)
        state.following[q[at]] = np.minimum(first[at] + settings.pool, lists.counts(q[at]))
        for of_reason, reason in (
            (comes & easy[at], REPLACED), (comes & ~easy[at], EXCLUDED), (~comes, TOO_CLOSE),
        ):  # fmt: skip
            here = at[of_reason]
            window = state.window[q[here]].astype(np.int64) + comes[of_reason]
            decisions.append(_decide(state, seen, here, reason, window, ranks[of_reason, 0]))
        state.ranks[q[at[comes]]] = ranks[comes]
        state.window[q[at[comes]]] += 1
        state.s0[q[at[comes]]] = state.s[q[at[comes]]] = np.nan
    return decisions


def _hardest(
    lists: CandidateLists,
    queries: Ids,
    pool: Ids,
    positives: Rows,
    settings: NegativeSettings,
    score: Score,
) -> Ids:
    """Return the places in the pool [m, n] of the hardest candidates; -1 after the last."""
    passages = lists.take(queries, pool)
    passages[lists.is_excluded(passages)] = NONE
    scores = score(queries.astype(np.uint32), np.concatenate([positives[:, None], passages], 1))
    scores = np.asarray(scores, np.float32)
    candidates = np.where(passages == NONE, np.float32(np.nan), scores[:, 1:])
    n = settings.num_negatives
    return hardest_below_margin(candidates, scores[:, 0], n, settings.relative_margin)


def _due(
    state: NegativeState, lists: CandidateLists, seen: Observed, settings: NegativeSettings
) -> tuple[Mask, Mask]:
    """Say of each query whether its negatives are too easy, and whether all were excluded."""
    q = seen.queries
    may = ~state.exhausted[q]
    easy = is_too_easy(state.s0[q, 0], state.s[q, 0], settings) & may
    if lists.exclusions is None:
        return easy, np.zeros_like(easy)
    passages = state.negatives(lists, q, settings.num_negatives)
    is_there = passages != NONE
    left = is_there & ~lists.is_excluded(passages)
    return easy, is_there.any(axis=1) & ~left.any(axis=1) & may


def _exhaust(
    state: NegativeState,
    seen: Observed,
    ends: Mask,
    slot: Ids | None = None,
) -> Decisions:
    """Mark queries whose lists have ended."""
    at = np.flatnonzero(ends)
    q = seen.queries[at]
    state.exhausted[q] = True
    slots = None if slot is None else slot[at]
    window = state.window[q].astype(np.int64)
    return _decide(state, seen, at, EXHAUSTED, window, np.full(len(at), -1), slots)


def _decide(
    state: NegativeState,
    seen: Observed,
    at: Ids,
    reason: str,
    window: Ids,
    rank: Ids,
    slot: Ids | None = None,
) -> Decisions:
    q = seen.queries[at]
    column = np.zeros(len(at), np.int64) if slot is None else slot
    s0, s = state.s0[q, column], state.s[q, column]
    return Decisions(reason, q, seen.pairs[at], window, rank, s0, s)
