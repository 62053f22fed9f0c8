"""Which texts to compare: those that share a band key, all pairs of few and some pairs of many.

The members of a bucket stand in the order of their ids. Each of the first ``all_pairs_max`` is
compared with all before it; every later one with the bucket's first ``leaders`` and with the
``recent`` just before it. So a bucket of a million texts costs a million times 64, not its square.
What that misses is little: texts that are alike share several bands, and those that hold something
of their own fall into small buckets in some of them; texts that are in huge buckets in all of their
bands come from one template and match its leaders. ``neighbors`` then adds pairs among them.

Leaders are the first members, not those that matched nothing so far. So whether two texts are
compared is a function of the ids before them: it needs no text, and stays when texts are added.
"""

from collections.abc import Iterable, Iterator
from typing import Final

import numpy as np
import numpy.typing as npt

from curation.duplicates.pairs import Ids, Packed, Pairs, unique_pairs, unpack_pairs
from curation.duplicates.settings import DuplicateSettings
from curation.minhash import Hashes
from curation.texts import Flags, kernel

# Pairs made at a time: 16 bytes each, and as much again to sort them.
RUN_PAIRS: Final = 8_000_000

# What is known of a slot of the table that buckets are looked for with.
_SEEN: Final = 1
_SHARED: Final = 2
_NEW: Final = 4


def candidate_pairs(
    bands: Iterable[tuple[Hashes, Ids]], settings: DuplicateSettings, new_from: int = 0
) -> Pairs:
    """Choose the pairs to compare from the (band key, id) rows of each band."""
    return unique_pairs(
        [run for keys, ids in bands for run in bucket_pairs(keys, ids, settings, new_from)]
    )


def bucket_pairs(
    keys: Hashes, ids: Ids, settings: DuplicateSettings, new_from: int = 0, run: int = RUN_PAIRS
) -> Iterator[Pairs]:
    """Choose the pairs to compare among the texts of one band, in lists of about ``run`` pairs.

    Ids from ``new_from`` on are new: a pair has at least one of them.
    """
    ids, bounds = _find_buckets(keys, ids, new_from)
    ascending = np.sort(ids)
    rows = np.searchsorted(ascending, ids)
    first_new = int(np.searchsorted(ascending, new_from))
    limits = np.array([settings.all_pairs_max, settings.leaders, settings.recent])
    counts = _count_pairs(bounds, rows, first_new, limits)
    for begin, end in _cut(counts, run):
        packed = np.empty(int(counts[begin:end].sum()), np.uint64)
        _write_pairs(bounds[begin : end + 1], rows, first_new, limits, packed)
        if len(packed):
            yield unpack_pairs(packed, ascending)


def _cut(counts: npt.NDArray[np.int64], most: int) -> Iterator[tuple[int, int]]:
    """Cut rows into stretches whose counts sum to at most ``most``, but for single large rows."""
    total = np.cumsum(counts)
    begin = 0
    while begin < len(counts):
        before = int(total[begin - 1]) if begin else 0
        end = max(int(np.searchsorted(total, before + most, side="right")), begin + 1)
        yield begin, end
        begin = end


def _find_buckets(keys: Hashes, ids: Ids, new_from: int) -> tuple[Ids, Ids]:
    """Group rows by key; bucket i is ids[bounds[i]:bounds[i + 1]], in the order of the ids.

    Most keys are unique. A table of bytes, some slots a row, tells most of those apart, so that
    few rows have to be sorted; different keys that met in a slot are told apart by the sort.
    """
    bits = max(10, int(4 * len(keys)).bit_length())
    shared = _shared(keys, ids, new_from, np.zeros(1 << bits, np.uint8))
    keys, ids = keys[shared], ids[shared]
    order = np.argsort(keys)
    keys, ids = keys[order], ids[order]
    follows = np.zeros(len(keys), np.bool_)
    follows[1:] = keys[1:] == keys[:-1]
    several = follows.copy()
    several[:-1] |= follows[1:]
    keys, ids = keys[several], ids[several]
    ids = ids[np.lexsort((ids, keys))]
    starts = np.flatnonzero(~follows[several])
    return ids, np.append(starts, len(ids))


@kernel
def _shared(keys: Hashes, ids: Ids, new_from: int, slots: npt.NDArray[np.uint8]) -> Flags:
    mask = np.uint64(len(slots) - 1)
    for row in range(len(keys)):
        slot = keys[row] & mask
        state = slots[slot] | _SEEN | (_SHARED if slots[slot] else 0)
        slots[slot] = state | (_NEW if ids[row] >= new_from else 0)
    out = np.empty(len(keys), np.bool_)
    for row in range(len(keys)):
        out[row] = slots[keys[row] & mask] == _SEEN | _SHARED | _NEW
    return out


@kernel
def _count_pairs(bounds: Ids, rows: Ids, first_new: int, limits: Ids) -> Ids:
    """Count the pairs of each bucket; bucket i is rows[bounds[i]:bounds[i + 1]]."""
    all_pairs_max, later = limits[0], limits[1] + limits[2]
    out = np.zeros(len(bounds) - 1, np.int64)
    for bucket in range(len(bounds) - 1):
        for at in range(bounds[bucket], bounds[bucket + 1]):
            member = at - bounds[bucket]
            if rows[at] >= first_new:
                out[bucket] += member if member < all_pairs_max else later
    return out


@kernel
def _write_pairs(bounds: Ids, rows: Ids, first_new: int, limits: Ids, out: Packed) -> None:
    all_pairs_max, leaders, recent = limits[0], limits[1], limits[2]
    put = 0
    for bucket in range(len(bounds) - 1):
        start = bounds[bucket]
        for at in range(start, bounds[bucket + 1]):
            if rows[at] < first_new:
                continue
            few = at - start < all_pairs_max
            for other in range(start, at if few else start + leaders):
                out[put] = (np.uint64(rows[other]) << np.uint64(32)) | np.uint64(rows[at])
                put += 1
            for other in range(at if few else at - recent, at):
                out[put] = (np.uint64(rows[other]) << np.uint64(32)) | np.uint64(rows[at])
                put += 1
