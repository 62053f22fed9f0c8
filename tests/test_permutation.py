"""Permutations: bijections by a key that mix well, near and far."""

from math import isqrt

import numpy as np
import numpy.typing as npt
import pytest

from catalog.draws import draw
from trainer.permutation import ROUNDS, Nearness, Permutation, Shuffles

Ids = npt.NDArray[np.int64]
BIG = 750_000_000
NEAR = Nearness(shard_rows=50, block_rows=4, buffer_rows=12)


def test_every_row_has_one_place() -> None:
    for n in range(1, 301):
        assert np.array_equal(np.sort(order(n)), np.arange(n)), n


def test_every_row_has_one_place_where_reads_stay_near() -> None:
    for n in range(1, 301):
        for near in (NEAR, Nearness(1, 1, 1), Nearness(64, 8, 32)):
            assert np.array_equal(np.sort(order(n, near=near)), np.arange(n)), (n, near)


def test_an_epoch_of_an_endless_order_is_the_permutation_of_that_epoch() -> None:
    shuffles = Shuffles([10, 7], ["a", "b"], seed=3)
    sources = np.repeat([0, 1], 14)
    positions = np.tile(np.arange(14), 2)
    rows = shuffles.rows(sources, positions)
    assert rows[:10].tolist() == Permutation(10, 3, "a").forward(np.arange(10)).tolist()
    assert rows[10:14].tolist() == Permutation(10, 3, "a", 1).forward(np.arange(4)).tolist()
    assert rows[14:21].tolist() == Permutation(7, 3, "b").forward(np.arange(7)).tolist()
    assert rows[21:].tolist() == Permutation(7, 3, "b", 1).forward(np.arange(7)).tolist()


def test_a_permutation_is_the_network_written_out() -> None:
    for n in (1, 2, 10, 99, 1000):
        fast = Permutation(n, 11, "written out", epoch=5).forward(np.arange(n))
        assert fast.tolist() == [slow(n, 11, "written out", 5, row) for row in range(n)]


def test_seed_purpose_and_epoch_each_give_another_order() -> None:
    indices = np.arange(1000)
    orders = {
        tuple(Permutation(BIG, seed, purpose, epoch).forward(indices).tolist())
        for seed in (0, 1, -1)
        for purpose in ("a", "b")
        for epoch in (0, 1, 2)
    }
    assert len(orders) == 18


def test_the_order_never_changes_between_versions() -> None:
    # A run is resumed with its order: whoever changes these numbers breaks every run.
    found = Permutation(BIG, 7, "golden", epoch=2).forward(np.array([0, 1, 2, BIG - 1]))
    assert found.tolist() == [547084301, 199571156, 380083336, 419650990]
    near = Shuffles([1_000_003], ["golden"], 7, Nearness(1000, 10, 100))
    rows = near.rows(np.zeros(4, np.int64), np.array([0, 1, 2, 5_000_000]))
    assert rows.tolist() == [134181, 134493, 134045, 64453]


def test_neighbors_are_strangers_afterwards() -> None:
    rows = Permutation(BIG, 0, "lags").forward(np.arange(400_000)).astype(float)
    for lag in (1, 2, 3, 100, isqrt(BIG) + 1):
        # Four standard errors of 400,000 independent draws.
        assert abs(np.corrcoef(rows[:-lag], rows[lag:])[0, 1]) < 4 / np.sqrt(400_000)


def test_every_row_is_at_every_place_equally_often() -> None:
    n, epochs = 50, 4000
    zeros = np.zeros(n * epochs, np.int64)
    rows = Shuffles([n], ["chi"], 0).rows(zeros, np.arange(n * epochs))
    counts = np.bincount(np.tile(np.arange(n), epochs) * n + rows, minlength=n * n)
    expected, freedom = epochs / n, (n - 1) ** 2
    chi_square = ((counts - expected) ** 2 / expected).sum()
    assert abs(chi_square - freedom) < 4 * np.sqrt(2 * freedom)


def test_reads_stay_in_one_shard_at_a_time_and_in_a_buffer_of_blocks() -> None:
    rows = order(1000, near=Nearness(shard_rows=200, block_rows=10, buffer_rows=40))
    assert [len(set(part // 200)) for part in rows.reshape(5, 200)] == [1] * 5
    assert {len(set(part // 10)) for part in rows.reshape(25, 40)} == {4}
    assert (np.diff(rows) != 1).mean() > 0.9


def test_a_short_last_shard_and_block_come_at_any_place() -> None:
    near = Nearness(shard_rows=20, block_rows=5, buffer_rows=5)
    places = {
        int(np.flatnonzero(order(43, seed=seed, near=near) >= 40)[0] // 20) for seed in range(40)
    }
    assert places == {0, 1, 2}


def test_an_index_that_does_not_exist_is_refused() -> None:
    for wrong in (-1, 10):
        with pytest.raises(IndexError, match=f"index {wrong} is asked for; the permutation has 10"):
            Permutation(10, 0, "a").forward(np.array([0, wrong]))


def test_sizes_that_cannot_be_shuffled_are_refused() -> None:
    with pytest.raises(ValueError, match="a has 0 rows; allowed are 1 to"):
        Permutation(0, 0, "a")
    with pytest.raises(ValueError, match="block_rows is 8, buffer_rows 4, shard_rows 16"):
        Nearness(shard_rows=16, block_rows=8, buffer_rows=4)


def order(n: int, seed: int = 0, near: Nearness | None = None) -> Ids:
    return Shuffles([n], ["rows"], seed, near).rows(np.zeros(n, np.int64), np.arange(n))


def mix(value: int) -> int:
    mixed = (value + 0x9E3779B97F4A7C15) % 2**64
    mixed = (mixed ^ mixed >> 30) * 0xBF58476D1CE4E5B9 % 2**64
    mixed = (mixed ^ mixed >> 27) * 0x94D049BB133111EB % 2**64
    return mixed ^ mixed >> 31


def slow(n: int, seed: int, purpose: str, epoch: int, row: int) -> int:
    key = mix(int(draw(seed, f"order:{purpose}")) ^ mix(epoch))
    a = isqrt(n - 1) + 1
    b = -(-n // a)
    while True:
        halves, sides = [row // b, row % b], (a, b)
        for step in range(ROUNDS):
            this, other = step % 2, 1 - step % 2
            hashed = mix(mix((key + step) % 2**64) ^ halves[other]) >> 32
            halves[this] = (halves[this] + (hashed * sides[this] >> 32)) % sides[this]
        row = halves[0] * b + halves[1]
        if row < n:
            return row
