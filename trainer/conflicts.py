"""Conflicts: two rows of a batch that are the same thing, and so no negatives of each other.

They are found by identity: the query, the passage, the passage's near-duplicate cluster, the class
of a classification pair. A plan moves such rows apart where it can; the loss must mask the rest.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np

from catalog.pack import NONE, Pack
from catalog.pack.layout import Integers
from catalog.schema import TASKS
from mining.kernels import kernel
from trainer.permutation import Ids

UNKNOWN: Final = -1  # an identity that equals nothing
# Other slots that are looked at for a row in conflict; a bound on time where most rows conflict.
MAX_TRIES: Final = 64


@dataclass(frozen=True)
class Identities:
    """What the rows of a batch are; equal numbers are the same thing, -1 equals nothing.

    ``query`` and ``passage`` are rows of the pack and ``cluster`` is the smallest passage row of
    the near-duplicate cluster. ``label_class`` joins source and label of classification pairs.
    """

    query: Ids
    passage: Ids
    cluster: Ids
    label_class: Ids

    def of_passages(self) -> Ids:
        """Return the identities of the positives [b, 3], in the order of ``passage_identities``."""
        return np.stack([self.passage, self.cluster, self.label_class], axis=1)


def identify(pack: Pack, positions: Integers) -> Identities:
    """Look up what the pairs at some positions of a pack are."""
    pairs = pack.pairs()
    passage = pairs.passage[positions]
    label_class = np.full(len(positions), UNKNOWN, np.int64)
    first, end = pack.manifest.tasks.get(TASKS[2], (0, 0))
    is_class = (positions >= first) & (positions < end)
    if is_class.any():
        label, source = pairs.label[positions], pairs.source[positions]
        is_class &= ~np.isnan(label)
        bits = (label + np.float32(0)).view(np.uint32)  # + 0: -0.0 is the class 0.0
        label_class[is_class] = (source.astype(np.int64) << 32 | bits)[is_class]
    return Identities(
        query=pairs.query[positions].astype(np.int64),
        passage=passage.astype(np.int64),
        cluster=pack.clusters[passage].astype(np.int64),
        label_class=label_class,
    )


def passage_identities(pack: Pack, rows: Integers) -> Ids:
    """Return the identities of passages [..., 3]: passage, cluster, and no class.

    The fill of a short window (``NONE``) is nothing.
    """
    identities = np.full((*rows.shape, 3), UNKNOWN, np.int64)
    is_there = rows != NONE
    identities[is_there, 0] = rows[is_there]
    identities[is_there, 1] = pack.clusters[rows[is_there]]
    return identities


def move_apart(first: Ids, second: Ids, kinds: Ids, batch_size: int) -> Ids:
    """Return which row each slot of some batches takes, so that few batches hold conflicts.

    Two rows conflict where their ``first`` or their ``second`` identity is equal. A row changes
    places with one of another batch, and only within a kind: of each kind, every batch keeps as
    many rows as it had, and all batches together keep the same rows.
    """
    order = np.argsort(kinds, kind="stable")
    begins = np.flatnonzero(np.diff(kinds[order], prepend=kinds[order[0]] - 1))
    counts = np.diff(begins, append=len(kinds))
    run = np.repeat(np.arange(len(begins)), counts)
    place = np.empty_like(order)
    place[order] = np.arange(len(order))
    taken = np.arange(len(kinds))
    begin, count = begins[run[place]], counts[run[place]]
    _swap(_numbered(first), _numbered(second), order, place, begin, count, batch_size, taken)
    return taken


def _numbered(identity: Ids) -> Ids:
    """Replace identities by their places in order, to count in tables."""
    numbers: Ids = np.unique(identity, return_inverse=True)[1]
    return numbers


@kernel
def _swap(  # noqa: PLR0913 - a kernel takes arrays, not objects
    first: Ids,
    second: Ids,
    order: Ids,
    place: Ids,
    begins: Ids,
    counts: Ids,
    batch_size: int,
    taken: Ids,
) -> None:
    """Move rows apart greedily. A kind's slots are ``order[begin : begin + count]``."""
    batches = len(taken) // batch_size
    with_first = np.zeros((batches, first.max() + 1), np.int32)
    with_second = np.zeros((batches, second.max() + 1), np.int32)
    for slot in range(len(taken)):
        with_first[slot // batch_size, first[slot]] += 1
        with_second[slot // batch_size, second[slot]] += 1
    for slot in range(len(taken)):
        here, row = slot // batch_size, taken[slot]
        if with_first[here, first[row]] < 2 and with_second[here, second[row]] < 2:
            continue
        begin, count = begins[slot], counts[slot]
        # A stride near the golden ratio spreads the tries over all batches.
        stride = count * 618 // 1000 | 1
        at = place[slot] - begin
        for _ in range(min(count - 1, MAX_TRIES)):
            at = (at + stride) % count
            other = order[begin + at]
            there, partner = other // batch_size, taken[other]
            # Another row of the same batch never passes: this one conflicts there too.
            same_first = 1 if first[row] == first[partner] else 0
            same_second = 1 if second[row] == second[partner] else 0
            if (
                with_first[there, first[row]] > same_first
                or with_second[there, second[row]] > same_second
                or with_first[here, first[partner]] > same_first
                or with_second[here, second[partner]] > same_second
            ):
                continue
            with_first[here, first[row]] -= 1
            with_first[there, first[row]] += 1
            with_second[here, second[row]] -= 1
            with_second[there, second[row]] += 1
            with_first[there, first[partner]] -= 1
            with_first[here, first[partner]] += 1
            with_second[there, second[partner]] -= 1
            with_second[here, second[partner]] += 1
            taken[slot], taken[other] = partner, row
            break
