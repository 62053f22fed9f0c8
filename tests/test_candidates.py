"""Removed candidates have every reason that holds, and none that does not."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from catalog.draws import draw
from catalog.ranges import as_matrix, check_range, preferences
from mining.candidates import (
    CANDIDATES,
    FilterSettings,
    Known,
    Reason,
    candidate_rows,
    judge,
    lowest_scores,
    reason_names,
)
from mining.search import NO_PASSAGE

NO_RULES = FilterSettings(relative_margin=None)


def known(positives, same_text=None, clusters=None):
    """Make Known from lists: positives of each query, and a cluster of each clustered passage."""
    clusters = clusters or {}
    return Known(
        np.cumsum([0, *map(len, positives)]),
        np.array([p for own in positives for p in sorted(own)], np.int64),
        np.array(same_text or [NO_PASSAGE] * len(positives), np.int64),
        np.array(sorted(clusters), np.int64),
        np.array([clusters[p] for p in sorted(clusters)], np.int64),
    )


def judge_scores(scores, positive_score, rules):
    scores = np.array([scores], np.float32)
    ids = np.arange(scores.size)[None, :]
    return judge(ids, scores, known([[]]), np.array([positive_score], np.float32), rules)[0]


def test_positives_own_text_and_cluster_mates_are_removed_with_their_reasons():
    ids = np.array([[10, 20, 30, 40, 50], [10, 20, 30, 40, NO_PASSAGE]])
    catalog = known([[20, 50], []], same_text=[30, 20], clusters={10: 1, 20: 1, 40: 2, 50: 3})
    flags = judge(
        ids, np.zeros((2, 5), np.float32), catalog, np.full(2, np.nan, np.float32), NO_RULES
    )
    both = Reason.POSITIVE | Reason.NEAR_DUPLICATE
    assert flags.tolist() == [
        [Reason.NEAR_DUPLICATE, both, Reason.SAME_TEXT, 0, both],
        [0, Reason.SAME_TEXT, 0, 0, 0],
    ]
    assert reason_names(int(both)) == ["positive", "near-duplicate"]
    assert reason_names(0) == []


def test_a_negative_must_score_below_its_share_of_the_positive():
    rules = FilterSettings(relative_margin=0.95)
    flags = judge_scores([0.9, 0.7601, 0.7599, -0.5], 0.8, rules)
    assert flags.tolist() == [Reason.RELATIVE_MARGIN, Reason.RELATIVE_MARGIN, 0, 0]


def test_the_relative_margin_of_a_negative_score_is_below_it():
    # Without the correction 0.95 · -0.8 = -0.76 would allow what scores higher than the positive.
    flags = judge_scores(
        [-0.77, -0.8, -0.8399, -0.8401], -0.8, FilterSettings(relative_margin=0.95)
    )
    assert flags.tolist() == [Reason.RELATIVE_MARGIN] * 3 + [0]


def test_a_margin_of_one_removes_what_scores_as_much_as_the_positive():
    flags = judge_scores([0.81, 0.8, np.nextafter(np.float32(0.8), np.float32(0))], 0.8,
                         FilterSettings(relative_margin=1.0))  # fmt: skip
    assert flags.tolist() == [Reason.RELATIVE_MARGIN, Reason.RELATIVE_MARGIN, 0]
    assert judge_scores([0.1, 0.0, -0.1], 0.0, FilterSettings()).tolist() == [8, 8, 0]


def test_every_rule_adds_its_own_reason():
    rules = FilterSettings(relative_margin=0.9, absolute_margin=0.25, max_score=0.85)
    flags = judge_scores([0.9, 0.8, 0.6, 0.5], 0.8, rules)
    margins = Reason.RELATIVE_MARGIN | Reason.ABSOLUTE_MARGIN
    assert flags.tolist() == [margins | Reason.MAX_SCORE, margins, Reason.ABSOLUTE_MARGIN, 0]


def test_a_query_without_positives_has_no_margins():
    rules = FilterSettings(relative_margin=0.95, absolute_margin=0.1, max_score=0.9)
    assert judge_scores([0.95, 0.9, 0.1], np.nan, rules).tolist() == [Reason.MAX_SCORE, 0, 0]


def test_a_cross_encoder_removes_what_it_calls_relevant():
    ids = np.array([[1, 2, NO_PASSAGE]])
    scores = np.array([[0.5, 0.4, -np.inf]], np.float32)
    relevant = np.array([[True, False, True]])
    flags = judge(ids, scores, known([[]]), np.array([np.nan], np.float32), NO_RULES, relevant)
    assert flags.tolist() == [[Reason.CROSS_ENCODER, 0, 0]]


def test_the_margin_is_that_of_the_lowest_positive():
    scores = np.array([0.9, 0.4, 0.7], np.float32)
    lowest = lowest_scores(np.array([0, 2, 2, 3]), scores)
    np.testing.assert_array_equal(lowest, np.array([0.4, np.nan, 0.7], np.float32))
    assert np.isnan(lowest_scores(np.array([0, 0]), scores[:0])).all()


PASSAGES = st.integers(0, 30)


@settings(deadline=None, max_examples=60)
@given(
    ids=st.lists(st.lists(PASSAGES, min_size=8, max_size=8, unique=True), min_size=1, max_size=6),
    positives=st.lists(st.sets(PASSAGES, max_size=4), min_size=6, max_size=6),
    same_text=st.lists(st.integers(-1, 30), min_size=6, max_size=6),
    clusters=st.dictionaries(PASSAGES, st.integers(0, 5)),
)
def test_no_kept_candidate_is_a_positive_the_query_itself_or_a_cluster_mate(
    ids, positives, same_text, clusters
):
    queries = len(ids)
    catalog = known(positives[:queries], same_text[:queries], clusters)
    nothing = np.full(queries, np.nan, np.float32)
    flags = judge(np.array(ids), np.zeros((queries, 8), np.float32), catalog, nothing, NO_RULES)
    for query in range(queries):
        own = {clusters[p] for p in positives[query] if p in clusters}
        for passage, found in zip(ids[query], flags[query], strict=True):
            expected = (
                Reason.POSITIVE * (passage in positives[query])
                | Reason.SAME_TEXT * (passage == same_text[query])
                | Reason.NEAR_DUPLICATE * (clusters.get(passage) in own)
            )
            assert found == expected


def test_impossible_margins_are_refused():
    with pytest.raises(ValueError, match=r"relative_margin is 95; .* for example 0\.95"):
        FilterSettings(relative_margin=95)
    with pytest.raises(ValueError, match="absolute_margin is -1"):
        FilterSettings(absolute_margin=-1)


def test_rows_of_the_table_hold_short_lists_and_come_back_as_matrices():
    ids = np.array([[7, 5, 3], [9, NO_PASSAGE, NO_PASSAGE], [NO_PASSAGE] * 3])
    scores = np.array([[0.9, 0.8, 0.7], [0.6, -np.inf, -np.inf], [-np.inf] * 3], np.float32)
    flags = np.array([[1, 0, 8], [0, 0, 0], [0, 0, 0]], np.uint8)
    positive = np.array([0.9, np.nan, np.nan], np.float32)
    rows = candidate_rows("run", np.array([100, 200, 300]), ids, scores, flags, positive)
    assert rows.schema == CANDIDATES
    assert rows["passage_ids"].to_pylist() == [[7, 5, 3], [9], []]
    assert rows["filtered_by"].to_pylist() == [[1, 0, 8], [0], []]
    assert rows["positive_score"].to_pylist() == [pytest.approx(0.9), None, None]
    np.testing.assert_array_equal(as_matrix(rows["passage_ids"], NO_PASSAGE), ids)
    np.testing.assert_array_equal(as_matrix(rows["filtered_by"], 0), flags)
    np.testing.assert_array_equal(as_matrix(rows["scores"][1:], -np.inf), scores[1:, :1])


def sampled(query_ids, ids, flags, ranks=(2, 12), n=4, seed=1):
    """Draw up to n of each query's candidates; they stay in order of rank, short rows filled up."""
    ids = np.array(ids)
    places = preferences(np.array(query_ids), ids, np.array(flags, np.uint8), ranks, seed)
    is_drawn = (places >= 0) & (places < n)
    rows = [row[drawn].tolist() for row, drawn in zip(ids, is_drawn, strict=True)]
    return np.array([row + [NO_PASSAGE] * (n - len(row)) for row in rows])


def test_a_sample_is_of_kept_candidates_of_the_range_in_order_of_rank():
    rng = np.random.default_rng(0)
    ids = np.array([rng.permutation(40)[:20] for _ in range(50)])
    flags = (rng.random((50, 20)) < 0.3).astype(np.uint8)
    for row, drawn in enumerate(sampled(np.arange(50), ids, flags)):
        allowed = [p for p, f in zip(ids[row, 2:12], flags[row, 2:12], strict=True) if f == 0]
        chosen = [p for p in drawn if p != NO_PASSAGE]
        assert len(chosen) == min(4, len(allowed))
        assert chosen == [p for p in allowed if p in chosen]


def test_a_sample_depends_on_its_own_query_and_passages_alone():
    ids = np.arange(20)[None, :].repeat(3, axis=0)
    flags = np.zeros_like(ids)
    three = sampled([5, 6, 7], ids, flags)
    alone = sampled([6], ids[:1], flags[:1])
    np.testing.assert_array_equal(three[1:2], alone)
    assert len({tuple(row) for row in three.tolist()}) == 3
    assert sampled([6], ids[:1], flags[:1], seed=2).tolist() != alone.tolist()
    # Frozen: exports of this sample exist.
    assert alone.tolist() == [[3, 6, 7, 9]]


def test_samples_are_spread_evenly():
    ids = np.arange(20)[None, :].repeat(5000, axis=0)
    drawn = sampled(np.arange(5000), ids, np.zeros_like(ids))
    counts = np.bincount(drawn.ravel(), minlength=20)
    assert counts[:2].sum() == counts[12:].sum() == 0
    # 5,000 draws of 4 from 10: 2,000 each, standard deviation 35.
    assert (np.abs(counts[2:12] - 2000) < 4 * 35).all()


def test_short_and_empty_ranges_fill_up_with_no_passage():
    ids = np.array([[3, 4, 5]])
    assert sampled([1], ids, np.zeros((1, 3))).tolist() == [[5, -1, -1, -1]]
    assert sampled([1], ids, np.zeros((1, 3)), ranks=(5, 9)).tolist() == [[-1] * 4]
    with pytest.raises(ValueError, match="ranks 5-5"):
        check_range((5, 5), 4)


def test_draws_of_neighboring_seeds_and_ids_share_nothing():
    ids = np.arange(1000)
    streams = [draw(seed, "a", ids) for seed in range(5)] + [draw(0, "b", ids)]
    assert len(np.unique(np.concatenate(streams))) == 6000
    bits = np.unpackbits(draw(0, "a", ids).view(np.uint8))
    assert abs(bits.mean() - 0.5) < 0.01
