"""Mixtures: exact at every moment, from the number of the draw alone."""

import numpy as np
import pytest

from trainer.mixture import MAX_WEIGHT, Mixture, whole_weights


def test_a_source_never_has_two_draws_more_or_less_than_its_share() -> None:
    random = np.random.default_rng(0)
    draws = np.arange(2000)
    for _ in range(100):
        weights = (random.pareto(0.7, random.integers(1, 30)) * 100 + 1).astype(int).clip(1, 10**6)
        sources, _ = Mixture(weights.tolist()).split(draws)
        drawn = np.cumsum(sources[:, None] == np.arange(len(weights)), axis=0)
        due = np.outer(draws + 1, weights / weights.sum())
        assert np.abs(drawn - due).max() < 2


def test_draws_of_a_source_are_counted_without_a_gap() -> None:
    sources, earlier = Mixture([5, 1, 3, 3]).split(np.arange(1000))
    for source in range(4):
        assert earlier[sources == source].tolist() == list(range((sources == source).sum()))


def test_after_as_many_draws_as_all_weights_each_source_had_its_weight() -> None:
    weights = [90, 30, 25, 1]
    sources, _ = Mixture(weights).split(np.arange(3 * 146, 4 * 146))
    assert np.bincount(sources).tolist() == weights


def test_a_draw_is_found_without_those_before_it() -> None:
    mixture = Mixture([7, 2, 2, 1])
    far = 10**15
    cycles, rest = divmod(far, 12)
    sources, earlier = mixture.split(np.arange(far, far + 24))
    near_sources, near_earlier = mixture.split(np.arange(rest, rest + 24))
    assert sources.tolist() == near_sources.tolist()
    weights = np.array(mixture.weights)
    assert earlier.tolist() == (near_earlier + cycles * weights[sources]).tolist()


def test_the_largest_weights_do_not_overflow() -> None:
    mixture = Mixture([MAX_WEIGHT - 1, 1])
    sources, earlier = mixture.split(np.arange(5 * MAX_WEIGHT, 5 * MAX_WEIGHT + 3))
    assert sources.tolist() == [0, 0, 0]
    assert earlier[0] == 5 * (MAX_WEIGHT - 1)


def test_shares_become_whole_numbers_as_they_are_written() -> None:
    assert whole_weights([0.3, 0.7]) == [3, 7]
    assert whole_weights([3, 1]) == [3, 1]
    thirds = whole_weights([1 / 3, 2 / 3, 1e-15])
    assert min(thirds) == 1
    assert thirds[1] / thirds[0] == pytest.approx(2, rel=1e-8)


@pytest.mark.parametrize("weights", [[], [0, 1], [MAX_WEIGHT, 1]])
def test_weights_that_cannot_be_split_are_refused(weights: list[int]) -> None:
    with pytest.raises(ValueError, match="give at least one, each at least 1"):
        Mixture(weights)
