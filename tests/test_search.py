"""Exact search equals brute force, whatever the sizes, the precision and the order of the data."""

import os

import numpy as np
import pytest
import torch

from mining import canonical, survivors_cuda, topk
from mining.hard_queries import HardQueries
from mining.passages import Passages
from mining.search import (
    NO_PASSAGE,
    _search_block_cuda,
    score_listed,
    search,
    search_blocks,
)
from mining.search_plan import Plan, SearchSettings, make_plan
from mining.search_threads import Threads
from mining.survivors import Listed, Tiles
from mining.vectors import Vectors

ONE_MB = SearchSettings(memory_mb=1, threads=2)


def unit(rng, rows, width, dtype=np.float32):
    vectors = rng.standard_normal((rows, width))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(dtype)


def brute_force(queries, passages, k):
    scores = (queries.astype(np.float64) @ passages.astype(np.float64).T).astype(np.float32)
    order = np.lexsort((np.broadcast_to(np.arange(len(passages)), scores.shape), -scores))[:, :k]
    return order, np.take_along_axis(scores, order, axis=1)


def assert_finds(queries, passages, k, settings):
    rows, scores = search(queries, passages, k, settings)
    expected_rows, expected_scores = brute_force(queries, passages, k)
    np.testing.assert_array_equal(rows, expected_rows)
    np.testing.assert_array_equal(scores, expected_scores)


@pytest.mark.parametrize("product", ["bf16", "fp32"])
@pytest.mark.parametrize("width", [3, 64, 100])
def test_it_finds_what_brute_force_finds(product, width):
    rng = np.random.default_rng(width)
    queries, passages = unit(rng, 50, width), unit(rng, 3000, width, np.float16)
    assert_finds(queries, passages, 20, SearchSettings(product=product))


@pytest.mark.parametrize("product", ["bf16", "fp32"])
def test_scores_closer_than_bfloat16_can_tell_are_ordered_exactly(product):
    # All cosines above 0.99: sixteen steps of bfloat16 for three thousand passages.
    rng = np.random.default_rng(1)
    centre = unit(rng, 1, 96)
    queries, passages = centre + unit(rng, 40, 96) * 0.05, centre + unit(rng, 3000, 96) * 0.05
    assert_finds(queries, passages, 50, SearchSettings(product=product))


def rounding_against_the_best():
    """Return a query and passages, +p and -p in turn, where rounding costs the best one 0.25.

    0.49 of a bfloat16 step is rounded down and 0.51 up, so that every product errs the same way.
    """
    step = 2.0**-7
    down, up = np.full(32, 1 + 0.49 * step), np.full(32, 1 + 0.51 * step)
    best = np.concatenate([[1.1], down, up])
    others = [np.concatenate([[1 + i * 1e-4], up, down]) for i in range(50)]
    passages = np.array([sign * p for p in [*others, best] for sign in (1, -1)], np.float32)
    return np.array([[1] * 33 + [-1] * 32], np.float32), passages


def test_rounding_that_goes_one_way_loses_nothing():
    query, passages = rounding_against_the_best()
    rounded = torch.from_numpy(passages).bfloat16().float().numpy()
    assert brute_force(query, passages, 1)[0] == 100
    assert 100 not in brute_force(query, rounded, 50)[0]  # the trap works
    assert_finds(query, passages, 3, SearchSettings(product="bf16"))
    corpus = Passages(Vectors(passages), block_rows=64)
    on_gpu = survivors_cuda.select(query, corpus, 3, Tiles(8, 256, torch.bfloat16), "cpu")
    assert 100 in on_gpu.positions


def test_lengths_of_vectors_may_differ_a_thousandfold():
    rng = np.random.default_rng(2)
    lengths = 10.0 ** rng.uniform(-2, 1, (3000, 1))
    queries, passages = unit(rng, 30, 32), (unit(rng, 3000, 32) * lengths).astype(np.float32)
    assert_finds(queries, passages, 30, SearchSettings())


@pytest.mark.parametrize("order", ["rising", "falling"])
def test_a_corpus_sorted_by_score_is_searched_exactly(order):
    # Rising: every passage beats all before it, so that the buffers fill again and again.
    rng = np.random.default_rng(3)
    query, passages = unit(rng, 1, 48), unit(rng, 4000, 48)
    best_last = np.argsort(passages @ query[0])
    assert_finds(query, passages[best_last if order == "rising" else best_last[::-1]], 40, ONE_MB)


def test_equal_scores_are_ordered_by_row():
    passages = np.tile(unit(np.random.default_rng(4), 1, 16), (5000, 1))
    rows, scores = search(passages[:3], passages, 10, ONE_MB)
    np.testing.assert_array_equal(rows, np.tile(np.arange(10), (3, 1)))
    assert len(np.unique(scores)) == 1


def test_ties_at_the_last_rank_go_to_the_lowest_rows():
    rng = np.random.default_rng(5)
    query = unit(rng, 1, 16)
    passages = unit(rng, 3000, 16)
    passages[rng.permutation(3000)[:1500]] = query  # 1,500 equal best
    assert_finds(query, passages, 100, ONE_MB)


def test_the_result_does_not_depend_on_block_size_or_threads():
    rng = np.random.default_rng(6)
    queries, passages = unit(rng, 400, 64), unit(rng, 3000, 64, np.float16)
    whole = search(queries, passages, 10, SearchSettings(memory_mb=512, threads=1))
    assert len(list(search_blocks(queries, passages, 10, ONE_MB))) > 1
    for settings in (ONE_MB, SearchSettings(memory_mb=2, threads=3)):
        for expected, found in zip(whole, search(queries, passages, 10, settings), strict=True):
            np.testing.assert_array_equal(found, expected)


def test_shards_and_files_are_searched_like_one_array(tmp_path):
    rng = np.random.default_rng(7)
    queries, passages = unit(rng, 20, 32), unit(rng, 2000, 32, np.float16)
    passages[:700].tofile(tmp_path / "shard")
    shard = np.memmap(tmp_path / "shard", np.float16, "r", shape=(700, 32))
    shards = [shard, passages[700:700], passages[700:1999], passages[1999:]]
    for expected, found in zip(
        search(queries, passages, 9), search(queries, shards, 9, ONE_MB), strict=True
    ):
        np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(Vectors(shards).read(650, 750), passages[650:750])


def test_rows_picked_from_a_file_are_those_of_the_array(tmp_path):
    rows = np.arange(40, dtype=np.float32).reshape(10, 4)
    np.save(tmp_path / "rows.npy", rows)
    part = np.load(tmp_path / "rows.npy", mmap_mode="r")
    for chosen in ([], [0], [9], [0, 1, 2, 5, 7, 8], range(10)):
        picked = np.array(chosen, np.int64)
        np.testing.assert_array_equal(Vectors([rows, part]).take(picked + 10), rows[picked])
        np.testing.assert_array_equal(Vectors(part).take(picked), rows[picked])


def test_a_file_that_was_cut_short_is_named(tmp_path):
    np.save(tmp_path / "rows.npy", np.ones((10, 4), np.float32))
    vectors = Vectors(np.load(tmp_path / "rows.npy", mmap_mode="r"))
    os.truncate(tmp_path / "rows.npy", (tmp_path / "rows.npy").stat().st_size - 4)
    with pytest.raises(ValueError, match=r"rows.npy ends before row 9; write it again"):
        vectors.take(np.array([3, 9]))


def test_a_tile_of_scores_on_a_gpu_stays_below_what_torch_can_select_from(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    settings = SearchSettings(memory_mb=130_000, device="cuda")
    queries, passages = (
        Vectors(np.broadcast_to(np.zeros(1, np.float16), (rows, 1024)))
        for rows in (2_300_000, 400_000_000)
    )
    tiles = make_plan(queries, passages, 200, settings).tiles
    widest = max(s.stop - s.start for s in survivors_cuda._growing(10**8, 10**7, tiles))
    assert 2**29 < tiles.query_rows * widest <= 2**30


def nearly_equal(rng, width=200):
    """Return queries and passages whose scores float32 products cannot put in order."""
    centre = unit(rng, 1, width)
    passages = centre + unit(rng, 3000, width) * 2e-6
    return unit(rng, 20, width), passages


def test_hard_queries_are_ordered_as_exactly_as_others():
    queries, passages = nearly_equal(np.random.default_rng(14))
    with Threads(2) as workers:
        hard = HardQueries(queries, 50, workers)
        hard.take_block(0, passages[:1700])
        hard.take_block(1700, passages[1700:])
        rows, scores = hard.best()
    expected_rows, expected_scores = brute_force(queries, passages, 50)
    np.testing.assert_array_equal(rows, expected_rows)
    np.testing.assert_array_equal(scores, expected_scores)


@pytest.mark.parametrize("product", [torch.bfloat16, torch.float32])
def test_what_is_too_close_to_call_for_a_gpu_is_searched_all_the_same(product):
    # On the CPU: the operations are torch's. Half of the queries see scores that can be told apart.
    rng = np.random.default_rng(15)
    queries, passages = nearly_equal(rng)
    passages[::3] = unit(rng, 1000, 200)
    plan = Plan(len(queries), 1100, Tiles(8, 256, product), "cpu")
    with Threads(1) as workers:
        rows, scores = _search_block_cuda(
            queries, Passages(Vectors(passages), 1100), 40, plan, plan.workspace(200), workers
        )
    expected_rows, expected_scores = brute_force(queries, passages, 40)
    np.testing.assert_array_equal(rows, expected_rows)
    np.testing.assert_array_equal(scores, expected_scores)


def test_k_larger_than_the_corpus_fills_up_with_no_passage():
    vectors = unit(np.random.default_rng(8), 3, 8)
    rows, scores = search(vectors, vectors, 5)
    assert (rows[:, 3:] == NO_PASSAGE).all()
    assert (scores[:, 3:] == -np.inf).all()
    np.testing.assert_array_equal(rows[:, :3], brute_force(vectors, vectors, 3)[0])


@pytest.mark.parametrize(("num_queries", "num_passages"), [(0, 5), (4, 0), (0, 0)])
def test_nothing_to_search_is_no_error(num_queries, num_passages):
    queries, passages = (
        np.ones((num_queries, 8), np.float32),
        np.ones((num_passages, 8), np.float32),
    )
    rows, _ = search(queries, passages, 3)
    assert rows.shape == (num_queries, 3)
    assert (rows == (NO_PASSAGE if num_passages == 0 else 0)).all()


def test_a_query_of_zeros_finds_the_first_passages():
    passages = unit(np.random.default_rng(9), 2000, 16)
    assert_finds(np.zeros((1, 16), np.float32), passages, 7, ONE_MB)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_vector_that_is_not_finite_is_named(bad):
    rng = np.random.default_rng(10)
    queries, passages = unit(rng, 4, 8), unit(rng, 2000, 8)
    passages[1234, 5] = bad
    with pytest.raises(ValueError, match="passage 1234 has a value that is not finite"):
        search(queries, passages, 3)
    queries[2, 0] = bad
    with pytest.raises(ValueError, match="query 2 has a value that is not finite"):
        search(queries, queries[:2], 3)


def test_wrong_shapes_and_settings_are_refused():
    with pytest.raises(ValueError, match="queries have 8 dimensions and passages 9"):
        search(np.ones((1, 8), np.float32), np.ones((1, 9), np.float32), 3)
    with pytest.raises(ValueError, match="k is 0"):
        search(np.ones((1, 8), np.float32), np.ones((1, 8), np.float32), 0)
    with pytest.raises(ValueError, match="must be float16 or float32"):
        search(np.ones((1, 8)), np.ones((1, 8)), 1)
    with pytest.raises(ValueError, match="parts of different widths"):
        Vectors([np.ones((1, 8), np.float32), np.ones((1, 9), np.float32)])
    with pytest.raises(ValueError, match="memory_mb is 1; k=100000 needs at least"):
        search(np.ones((1, 8), np.float32), np.ones((1, 8), np.float32), 100_000, ONE_MB)
    with pytest.raises(ValueError, match="allowed are 'bf16' and 'fp32'"):
        SearchSettings(product="fp8")
    with pytest.raises(ValueError, match="allowed are 'cpu', 'cuda'"):
        SearchSettings(device="meta")


def test_a_score_is_the_same_alone_and_in_a_batch():
    rng = np.random.default_rng(11)
    queries, passages = unit(rng, 6, 70), unit(rng, 300, 70, np.float16)
    offsets = np.arange(7) * 300
    positions = np.tile(np.arange(300), 6)
    together = score_listed(queries, passages, offsets, positions)
    sums = np.empty(canonical.LANES)
    alone = [canonical.dot(q, p, sums) for q in queries for p in passages.astype(np.float32)]
    np.testing.assert_array_equal(together, alone)
    exact = queries.astype(np.float64) @ passages.astype(np.float64).T
    np.testing.assert_array_equal(together, exact.ravel().astype(np.float32))


def test_torch_keeps_its_own_number_of_threads():
    torch.set_num_threads(2)
    search(np.eye(4, dtype=np.float32), np.eye(4, dtype=np.float32), 2, SearchSettings(threads=1))
    assert torch.get_num_threads() == 2


@pytest.mark.parametrize("product", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("spread", [1.0, 0.05])
def test_the_gpu_algorithm_finds_the_same_bits(product, spread):
    # Run on the CPU: the operations are torch's, whatever the device.
    rng = np.random.default_rng(12)
    centre = unit(rng, 1, 70)
    queries = unit(rng, 30, 70)
    passages = (centre * (1 - spread) + unit(rng, 4000, 70) * spread).astype(np.float16)
    corpus = Passages(Vectors(passages), block_rows=1500)
    tiles = Tiles(16, 256, product, scores=16 * 300)
    listed = survivors_cuda.select(queries, corpus, 40, tiles, "cpu")
    assert len(listed.overflowed) == 0
    scores = survivors_cuda.score(queries, corpus, listed, "cpu")
    rows, best = np.empty((30, 40), np.int64), np.empty((30, 40), np.float32)
    topk.rank(listed.offsets, listed.positions, scores, rows, best)
    expected_rows, expected_scores = brute_force(queries, passages, 40)
    np.testing.assert_array_equal(rows, expected_rows)
    np.testing.assert_array_equal(best, expected_scores)


def test_the_gpu_algorithm_gives_up_where_all_is_tied():
    passages = np.tile(unit(np.random.default_rng(13), 1, 16), (2000, 1))
    corpus = Passages(Vectors(passages), block_rows=700)
    listed = survivors_cuda.select(passages[:2], corpus, 5, Tiles(8, 256, torch.float32), "cpu")
    assert isinstance(listed, Listed)
    assert listed.overflowed.tolist() == [0, 1]
    assert len(listed.positions) == 0
