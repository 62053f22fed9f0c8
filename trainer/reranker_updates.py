"""The lists of one step of a reranker: each pair's query with its positive and its negatives.

What is made here needs no weights, so that a thread makes the next update meanwhile.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from catalog.draws import draw
from catalog.pack import NONE, Pack
from catalog.pack.layout import Ids, Integers, Rows
from trainer.batches import Plan
from trainer.reranker import PairTokens
from trainer.reranker_settings import TASK, RerankSettings
from trainer.teacher import Scores, teacher_scores
from trainer.updates import fill_given

Places = npt.NDArray[np.int64]
TokenizePairs = Callable[[Sequence[str], Sequence[str]], PairTokens]
ABSENT = -1


@dataclass(frozen=True)
class RerankUpdate:
    """All that one process computes of a step, counted from 0.

    ``places`` [n, 1 + k] say where each query's passages are among ``pairs``, the positive first,
    ABSENT where a list is short; ``teacher`` [n, 1 + k] are stored scores where they are distilled.
    """

    step: int
    pairs: PairTokens
    places: Places
    teacher: Scores | None

    @property
    def num_lists(self) -> int:
        """Count the queries."""
        return len(self.places)

    @property
    def num_pairs(self) -> int:
        """Count the texts that are read."""
        return len(self.pairs.ids)

    def micro_batches(self, budget: int) -> Iterator[Integers]:
        """Cut the lists into micro-batches of about equal length, the longest first.

        All passages of a list are in one. ``budget`` bounds its tokens, padding included; a list
        that is longer is a micro-batch of its own.
        """
        lengths = self.pairs.lengths[np.maximum(self.places, 0)]
        longest = np.where(self.places == ABSENT, 0, lengths).max(axis=1)
        sizes = (self.places != ABSENT).sum(axis=1)
        order = np.argsort(-longest, kind="stable")
        start = 0
        while start < len(order):
            tokens = np.cumsum(sizes[order[start:]]) * longest[order[start]]
            stop = start + max(1, int(np.searchsorted(tokens, budget, "right")))
            yield order[start:stop]
            start = stop


@dataclass
class RerankUpdateMaker:
    """Makes the updates of a process out of plan and pack."""

    settings: RerankSettings
    pack: Pack
    plan: Plan
    tokenize: TokenizePairs
    process: int = 0

    def make(self, step: int) -> RerankUpdate:
        """Return the update of a step."""
        positions = self.plan.rows(step, self.process)[TASK]
        pairs = self.pack.pairs()
        negatives = choose_negatives(self.pack, positions, self.settings, step)
        rows = np.concatenate([pairs.passage[positions][:, None], negatives], axis=1)
        is_there = rows != NONE
        places = np.full(rows.shape, ABSENT, np.int64)
        places[is_there] = np.arange(int(is_there.sum()))
        queries = np.broadcast_to(pairs.query[positions][:, None], rows.shape)[is_there]
        tokens = self.tokenize(
            self.pack.texts("query", queries), self.pack.texts("passage", rows[is_there])
        )
        teacher = None
        if self.settings.distillation:
            teacher = teacher_scores(self.pack, positions, negatives)
        return RerankUpdate(step, tokens, places, teacher)


def choose_negatives(pack: Pack, positions: Integers, settings: RerankSettings, step: int) -> Rows:
    """Draw the negatives [n, k] of pairs at a step, NONE where a query has fewer.

    A draw is a hash of seed, pair, step and rank, so that the number of processes changes nothing.
    """
    pairs = pack.pairs()
    first, end = settings.candidate_ranks
    listed, _ = pack.candidates.best(pairs.query[positions], min(end, pack.candidates.width))
    listed = listed[:, first:]
    ids, ranks = pairs.pair_id[positions][:, None], np.arange(listed.shape[1])[None]
    keys = draw(settings.seed, "reranker negatives", ids, np.array(step), ranks)
    keys = np.where(listed == NONE, np.iinfo(np.uint64).max, keys)
    order = np.argsort(keys, axis=1, kind="stable")[:, : settings.num_negatives]
    chosen = np.full((len(positions), settings.num_negatives), NONE, np.uint32)
    chosen[:, : order.shape[1]] = np.take_along_axis(listed, order, axis=1)
    return fill_given(chosen, *pack.negatives(positions))


def trainable_pairs(pack: Pack, settings: RerankSettings) -> Ids:
    """Return the positions of the pairs with a positive and at least one negative."""
    pairs = pack.pairs(TASK)
    is_positive = np.isnan(pairs.label) | (pairs.label > 0)
    positions = np.arange(pairs.first, pairs.first + len(pairs))[is_positive]
    counts = pack.candidates.counts(pack.pairs().query[positions])
    given = np.diff(pack.negatives(positions)[1])
    return positions[(counts > settings.candidate_ranks[0]) | (given > 0)]
