"""Permutations of row numbers by a key: shuffles that need no memory and start anywhere.

A row number below n is written as (left, right) with left < a and right < b, where a = ceil(sqrt n)
and a * b >= n. Six rounds add a keyed hash of one half to the other (Black and Rogaway 2002, the
generalized Feistel network): each round can be undone, so all of them together are a bijection of
[0, a * b). Where the result is n or more, it is encrypted again until it is below n (cycle walking,
the same paper); fewer than a of a * b numbers are, so that is rare.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from catalog.draws import draw
from mining.kernels import kernel

Ids = npt.NDArray[np.int64]
Keys = npt.NDArray[np.uint64]

ROUNDS: Final = 6
# Halves are below 2**16.5 and hashes of 32 bits choose among them: a bias below 2**-15.
MAX_ROWS: Final = 1 << 33

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_FIRST = np.uint64(0xBF58476D1CE4E5B9)
_SECOND = np.uint64(0x94D049BB133111EB)
_ONE, _30, _27, _31, _32 = (np.uint64(bits) for bits in (1, 30, 27, 31, 32))

Number = Any  # in a kernel: always uint64, which numba would make a float beside an int64


@dataclass(frozen=True)
class Nearness:
    """A shuffle whose reads stay near each other: for passes over data that memory cannot hold.

    Shards of ``shard_rows`` follow each other in random order, in each of them blocks of
    ``block_rows``; rows are shuffled among ``buffer_rows`` of such blocks.
    """

    shard_rows: int = 1 << 20
    block_rows: int = 256
    buffer_rows: int = 1 << 16

    def __post_init__(self) -> None:
        if not 1 <= self.block_rows <= self.buffer_rows <= self.shard_rows:
            raise ValueError(
                f"block_rows is {self.block_rows}, buffer_rows {self.buffer_rows}, shard_rows "
                f"{self.shard_rows}: each must be at least 1 and none above the next"
            )


class Shuffles:
    """Endless shuffles of several sources: epoch after epoch, each in an order of its own.

    Order of a source depends on the seed, its name, its number of rows and the epoch alone.
    """

    def __init__(
        self, sizes: Sequence[int], names: Sequence[str], seed: int, near: Nearness | None = None
    ) -> None:
        for name, size in zip(names, sizes, strict=True):
            if not 1 <= size <= MAX_ROWS:
                raise ValueError(f"{name} has {size:,} rows; allowed are 1 to {MAX_ROWS:,}")
        self.sizes = np.asarray(sizes, np.int64)
        self._keys = np.array([draw(seed, f"order:{name}") for name in names], np.uint64)
        self._near = near

    def rows(self, sources: Ids, positions: Ids) -> Ids:
        """Return the row in its source of each position of the sources' endless orders."""
        rows = np.empty(len(positions), np.int64)
        if self._near is None:
            _endless(self._keys, self.sizes, sources, positions, rows)
        else:
            shape = (self._near.shard_rows, self._near.block_rows, self._near.buffer_rows)
            _endless_near(self._keys, self.sizes, sources, positions, shape, rows)
        return rows


class Permutation:
    """A keyed bijection of [0, n)."""

    def __init__(self, n: int, seed: int, purpose: str, epoch: int = 0) -> None:
        self._shuffles = Shuffles([n], [purpose], seed)
        self._n, self._epoch = n, epoch

    def forward(self, indices: Ids) -> Ids:
        """Return the row at each index."""
        if len(indices) and not 0 <= indices.min() <= indices.max() < self._n:
            wrong = indices[(indices < 0) | (indices >= self._n)][0]
            raise IndexError(f"index {wrong} is asked for; the permutation has {self._n:,}")
        return self._shuffles.rows(np.zeros_like(indices), indices + self._epoch * self._n)


@kernel
def mix(value: Number) -> Number:
    """Return one step of splitmix64 (Steele, Lea and Flood 2014), as ``mining.draws`` does."""
    mixed = value + _GOLDEN
    mixed = (mixed ^ (mixed >> _30)) * _FIRST
    mixed = (mixed ^ (mixed >> _27)) * _SECOND
    return mixed ^ (mixed >> _31)


@kernel
def _sides(n: Number) -> tuple[Number, Number]:
    """Return a and b with a * b >= n, both about the root of n."""
    a = np.uint64(np.sqrt(np.float64(n)))
    while a * a < n:
        a += _ONE
    return a, (n + a - _ONE) // a


@kernel
def _below(limit: Number, key: Number, step: int, half: Number) -> Number:
    """Return the hash of a half in one round, as a number below ``limit``."""
    return ((mix(mix(key + np.uint64(step)) ^ half) >> _32) * limit) >> _32


@kernel
def _forward(n: Number, key: Number, row: Number) -> Number:
    """Send a row below n to its place below n."""
    a, b = _sides(n)
    while True:
        left, right = row // b, row % b
        for step in range(0, ROUNDS, 2):
            left = (left + _below(a, key, step, right)) % a
            right = (right + _below(b, key, step + 1, left)) % b
        row = left * b + right
        if row < n:
            return row


@kernel
def _backward(n: Number, key: Number, place: Number) -> Number:
    """Undo ``_forward``."""
    a, b = _sides(n)
    while True:
        left, right = place // b, place % b
        for step in range(ROUNDS - 2, -2, -2):
            right = (right + b - _below(b, key, step + 1, left)) % b
            left = (left + a - _below(a, key, step, right)) % a
        place = left * b + right
        if place < n:
            return place


@kernel
def _endless(keys: Keys, sizes: Ids, sources: Ids, positions: Ids, rows: Ids) -> None:
    for i in range(len(rows)):
        n = np.uint64(sizes[sources[i]])
        position = np.uint64(positions[i])
        key = mix(keys[sources[i]] ^ mix(position // n))
        rows[i] = np.int64(_forward(n, key, position % n))


@kernel
def _part(n: Number, part: Number, key: Number, position: Number) -> tuple[Number, Number]:
    """Shuffle [0, n) in parts of ``part`` rows: the first row of the part here, the place in it.

    The last part is short where n is no multiple; it has a random place among the others.
    """
    parts = (n + part - _ONE) // part
    missing = parts * part - n
    last = _backward(parts, key, parts - _ONE)
    if position >= last * part + (part - missing):
        position += missing  # as if the short part before were whole
    return _forward(parts, key, position // part) * part, position % part


@kernel
def _endless_near(
    keys: Keys, sizes: Ids, sources: Ids, positions: Ids, shape: tuple[int, int, int], rows: Ids
) -> None:
    shard_rows, block_rows, buffer_rows = (
        np.uint64(shape[0]),
        np.uint64(shape[1]),
        np.uint64(shape[2]),
    )
    for i in range(len(rows)):
        n = np.uint64(sizes[sources[i]])
        position = np.uint64(positions[i])
        key = mix(keys[sources[i]] ^ mix(position // n))
        shard, place = _part(n, shard_rows, key, position % n)
        n = min(n - shard, shard_rows)
        key = mix(key ^ mix(shard))
        buffer = place // buffer_rows * buffer_rows
        width = min(n - buffer, buffer_rows)
        place = buffer + _forward(width, mix(key ^ mix(buffer)), place - buffer)
        block, within = _part(n, block_rows, key, place)
        rows[i] = np.int64(shard + block + within)
