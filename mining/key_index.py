"""Where the vector of a text is: 128-bit keys, sorted over many shards, in a mapped file.

An index is a file of three rows of numbers, sorted by key: upper halves, lower halves, places.
"""

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from catalog.records import process_name, writing

Keys = npt.NDArray[np.uint64]  # n x 2: the upper and the lower half of 128 bits
Index = npt.NDArray[np.uint64]  # 3 x n
Places = npt.NDArray[np.int64]

ABSENT: Final = -1
_SHARD_BITS: Final = 32  # a place is shard << 32 | row
# Keys that are sorted at once while an index is made: 24 bytes each, and as much again for sorting.
BLOCK_KEYS: Final = 8_000_000


def keys_of(column: pa.Array | pa.ChunkedArray) -> Keys:
    """Turn a column of text keys (``pa.uuid()``) into numbers; nulls are not allowed."""
    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    if array.null_count:
        raise ValueError(f"{array.null_count} of {len(array)} text keys are null")
    storage = array.storage if isinstance(array, pa.ExtensionArray) else array
    if storage.type != pa.binary(16):
        raise ValueError(f"text keys are {array.type}; they must be uuid")
    data = storage.buffers()[1]
    numbers = np.frombuffer(data, ">u8") if data is not None else np.empty(0, ">u8")
    first = 2 * storage.offset
    return numbers[first : first + 2 * len(storage)].astype(np.uint64).reshape(-1, 2)


def shards_of(places: Places) -> Places:
    """Return the numbers of the shards that places are in."""
    return places >> _SHARD_BITS


def rows_of(places: Places) -> Places:
    """Return the rows of places in their shards."""
    return places & ((1 << _SHARD_BITS) - 1)


def find(index: Index, keys: Keys) -> Places:
    """Return the place of each key, or ABSENT."""
    places = np.full(len(keys), ABSENT, np.int64)
    if not index.shape[1] or not len(keys):
        return places
    upper, lower, stored = index
    asked = np.ascontiguousarray(keys[:, 0])
    order = np.argsort(asked)  # neighbors in the index are neighbours in memory
    at = np.empty(len(keys), np.int64)
    at[order] = np.searchsorted(upper, asked[order])
    waiting = np.arange(len(keys))
    # Different keys with an equal upper half are rare: one round is nearly always enough.
    while len(waiting):
        waiting = waiting[at[waiting] < len(upper)]
        waiting = waiting[upper[at[waiting]] == keys[waiting, 0]]
        is_hit = lower[at[waiting]] == keys[waiting, 1]
        places[waiting[is_hit]] = stored[at[waiting[is_hit]]].astype(np.int64)
        waiting = waiting[~is_hit]
        at[waiting] += 1
    return places


def build_index(path: Path, shards: Sequence[Keys]) -> None:
    """Sort the keys of all shards, a range of them at a time, so that memory stays bounded.

    A key that several shards hold is found in the first of them.
    """
    total = sum(len(keys) for keys in shards)
    aside = path.with_name(f".{path.name}.{process_name()}.tmp")
    with writing(path.parent):
        index = np.lib.format.open_memmap(aside, "w+", np.uint64, (3, total))  # type: ignore[no-untyped-call]
        filled = 0
        for low, high in _key_ranges(total):
            part = np.concatenate(
                [_select(keys, shard, low, high) for shard, keys in enumerate(shards)]
            )
            part = part[np.lexsort((part[:, 2], part[:, 1], part[:, 0]))]
            index[:, filled : filled + len(part)] = part.T
            filled += len(part)
        index.flush()
        del index
        aside.rename(path)


def open_index(path: Path, keys: int) -> Index:
    """Map an index; raise ValueError where it is not one of so many keys."""
    index: Index = np.load(path, mmap_mode="r")
    if index.shape != (3, keys) or index.dtype != np.uint64:
        raise ValueError(f"{path} is not an index of {keys:,} keys")
    return index


def _select(keys: Keys, shard: int, low: int, high: int) -> npt.NDArray[np.uint64]:
    """Return (upper, lower, place) of the keys whose upper half is in a range."""
    rows = np.flatnonzero((keys[:, 0] >= np.uint64(low)) & (keys[:, 0] <= np.uint64(high)))
    places = (np.uint64(shard) << np.uint64(_SHARD_BITS)) | rows.astype(np.uint64)
    return np.column_stack([keys[rows], places])


def _key_ranges(keys: int) -> Iterator[tuple[int, int]]:
    """Cut the upper halves into inclusive ranges of about BLOCK_KEYS: hashes are uniform."""
    parts = max(1, -(-keys // BLOCK_KEYS))
    edges = [(part << 64) // parts for part in range(parts + 1)]
    for low, end in itertools.pairwise(edges):
        yield low, end - 1
