"""Conflicts: found by identity, moved apart without losing a row or a batch's balance."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.conflicts import move_apart

ONE_KIND = np.zeros(12, np.int64)


def conflicts(identity: np.ndarray, batch_size: int) -> int:
    batches = identity.reshape(-1, batch_size)
    return sum(batch_size - len(np.unique(batch)) for batch in batches)


def test_rows_of_one_query_or_one_cluster_go_to_different_batches() -> None:
    query = np.array([0, 0, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11])
    cluster = np.array([0, 1, 2, 3, 4, 4, 6, 7, 8, 9, 10, 11])
    taken = move_apart(query, cluster, ONE_KIND, batch_size=4)
    assert conflicts(query[taken], 4) == conflicts(cluster[taken], 4) == 0
    assert conflicts(query, 4) == conflicts(cluster, 4) == 1


def test_rows_stay_where_nothing_conflicts() -> None:
    distinct = np.arange(12)
    assert move_apart(distinct, distinct, ONE_KIND, 4).tolist() == distinct.tolist()


def test_a_row_without_a_free_place_stays() -> None:
    same = np.zeros(12, np.int64)
    assert move_apart(same, np.arange(12), ONE_KIND, 4).tolist() == list(range(12))


def test_rows_move_only_within_their_kind() -> None:
    query = np.array([0, 0, 2, 3, 4, 5, 6, 7])
    kinds = np.array([1, 1, 2, 2, 2, 2, 2, 2])
    assert conflicts(query[move_apart(query, query, kinds, 4)], 4) == 1
    kinds[6] = 1
    assert conflicts(query[move_apart(query, query, kinds, 4)], 4) == 0


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 2**32), st.integers(1, 6), st.integers(1, 8), st.integers(1, 40))
def test_moving_keeps_all_rows_and_what_each_batch_has_of_a_kind(
    seed: int, batches: int, batch_size: int, identities: int
) -> None:
    random = np.random.default_rng(seed)
    size = batches * batch_size
    first, second = random.integers(0, identities, (2, size))
    kinds = random.integers(0, 3, size)
    taken = move_apart(first, second, kinds, batch_size)
    assert np.array_equal(np.sort(taken), np.arange(size))
    assert np.array_equal(kinds[taken], kinds)
    before = conflicts(first, batch_size) + conflicts(second, batch_size)
    assert conflicts(first[taken], batch_size) + conflicts(second[taken], batch_size) <= before
