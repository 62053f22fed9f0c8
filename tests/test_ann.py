"""Approximate search: its scores are exact search's, and what it misses is measured."""

import faiss
import numpy as np
import pytest

from mining import ann, fusion
from mining.ann import AnnSettings, AnnUnavailableError
from mining.search import NO_PASSAGE, search
from mining.search_plan import SearchSettings

SMALL = SearchSettings(memory_mb=64, threads=2)
SETTINGS = {
    "ivf": AnnSettings("ivf", lists=8, probes=8, fetched_per_k=1.0),
    "ivf-sq8": AnnSettings("ivf-sq8", lists=8, probes=8, fetched_per_k=2.0),
    "ivf-pq": AnnSettings("ivf-pq", lists=2, probes=2, code_bytes=2, fetched_per_k=40.0),
    "hnsw": AnnSettings("hnsw", neighbors=16, search_breadth=200),
}


@pytest.fixture(scope="module")
def vectors():
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((1540, 32))
    rows = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float16)
    return rows[:40], rows[40:]


@pytest.mark.parametrize("kind", ann.KINDS)
def test_an_index_finds_most_of_what_exact_search_finds(vectors, kind):
    queries, passages = vectors
    index = ann.build_index(passages, SETTINGS[kind])
    rows, scores = ann.search_index(index, queries, passages, 10, SETTINGS[kind], SMALL)
    exact_rows, exact_scores = search(queries, passages, 10, SMALL)
    recall = ann.recall(rows, exact_rows)
    assert recall == ann.measure_recall(index, queries, passages, 10, SETTINGS[kind], SMALL)
    assert recall > 0.9
    # Same passage, same score, to the last bit; and all probes of a flat index miss nothing.
    same = rows == exact_rows
    np.testing.assert_array_equal(scores[same], exact_scores[same])
    assert kind != "ivf" or same.all()


@pytest.mark.parametrize("kind", ["ivf-sq8", "hnsw"])
def test_an_index_is_the_same_every_time_and_after_it_was_saved(vectors, kind, tmp_path):
    queries, passages = vectors
    first = ann.build_index(passages, SETTINGS[kind])
    ann.save_index(ann.build_index(passages, SETTINGS[kind]), tmp_path / "sub" / "index")
    again = ann.load_index(tmp_path / "sub" / "index", SETTINGS[kind])
    results = [
        ann.search_index(i, queries, passages, 7, SETTINGS[kind], SMALL) for i in (first, again)
    ]
    np.testing.assert_array_equal(results[0][0], results[1][0])
    assert [path.name for path in (tmp_path / "sub").iterdir()] == ["index"]


def test_k_larger_than_what_is_found_fills_up(vectors):
    queries, passages = vectors
    settings = AnnSettings("ivf", lists=8, probes=1)
    index = ann.build_index(passages[:50], settings)
    rows, scores = ann.search_index(index, queries, passages[:50], 60, settings, SMALL)
    missing = rows == NO_PASSAGE
    assert missing[:, -10:].all()
    assert (scores[missing] == -np.inf).all()
    assert all(len(set(r[r >= 0])) == (r >= 0).sum() for r in rows)


def test_what_the_installed_faiss_cannot_do_is_refused_with_what_to_install():
    if hasattr(faiss, "StandardGpuResources"):
        pytest.skip("this faiss has GPU support")
    with pytest.raises(AnnUnavailableError, match="pip install faiss-gpu-cu12"):
        AnnSettings("ivf", device="cuda")


def test_wrong_settings_are_refused(vectors):
    passages = vectors[1]
    with pytest.raises(ValueError, match="allowed are ivf, ivf-sq8, ivf-pq, hnsw"):
        AnnSettings("annoy")
    with pytest.raises(ValueError, match=r"probes is 9; it must be at most lists \(8\)"):
        AnnSettings("ivf", lists=8, probes=9)
    with pytest.raises(ValueError, match="lists is 2000 for 1500 passages"):
        ann.build_index(passages, AnnSettings("ivf", lists=2000))
    with pytest.raises(ValueError, match="code_bytes is 5; it must divide the width 32"):
        ann.build_index(passages, AnnSettings("ivf-pq", code_bytes=5))
    with pytest.raises(ValueError, match="at least 256 passages"):
        ann.build_index(passages[:100], AnnSettings("ivf-pq", code_bytes=4))
    with pytest.raises(ValueError, match="the corpus is empty"):
        ann.build_index(passages[:0], AnnSettings("ivf"))
    index = ann.build_index(passages, SETTINGS["ivf"])
    with pytest.raises(ValueError, match="holds 1500 passages of 32 dimensions"):
        ann.search_index(index, passages, passages[:9], 3, SETTINGS["ivf"], SMALL)


@pytest.mark.parametrize("kind", ann.KINDS)
@pytest.mark.parametrize("rows", [20, 3000, 10_000_000])
def test_sizes_chosen_for_a_corpus_are_allowed(kind, rows):
    settings = AnnSettings.for_corpus(kind, rows, 384)
    assert settings.probes <= settings.lists <= rows
    assert 384 % settings.code_bytes == 0


def test_recall_counts_shared_passages_and_ignores_empty_places():
    found = np.array([[3, 1, NO_PASSAGE], [7, 8, 9]])
    exact = np.array([[1, 2, NO_PASSAGE], [9, 8, 7]])
    assert ann.recall(found, exact) == 4 / 5
    assert ann.recall(found[:, :0], exact[:, :0]) == 1.0


def test_shards_merge_to_what_one_search_finds(vectors):
    queries, passages = vectors
    passages = passages.copy()
    passages[700] = passages[3]  # a tie across shards
    whole = search(queries, passages, 9, SMALL)
    parts = []
    for start in range(0, len(passages), 600):
        rows, scores = search(queries, passages[start : start + 600], 9, SMALL)
        parts.append((rows + start, scores))
    for expected, merged in zip(whole, fusion.merge(parts, 9), strict=True):
        np.testing.assert_array_equal(merged, expected)


def test_reciprocal_ranks_are_summed_and_ties_go_to_the_lower_id():
    first = np.array([[5, 2, 9]]), np.array([[0.9, 0.8, 0.7]], np.float32)
    second = np.array([[2, 5, NO_PASSAGE]]), np.array([[30, 20, -np.inf]], np.float32)
    ids, scores = fusion.reciprocal_rank([first, second], 5, constant=60)
    assert ids.tolist() == [[2, 5, 9, NO_PASSAGE, NO_PASSAGE]]
    np.testing.assert_allclose(scores[0, :3], [1 / 61 + 1 / 62, 1 / 61 + 1 / 62, 1 / 63], rtol=1e-6)


def test_fusion_equals_a_dictionary_of_sums():
    rng = np.random.default_rng(1)
    lists = []
    for _ in range(3):
        ids = np.array([rng.permutation(30)[:12] for _ in range(20)])
        ids[:, 9:][rng.random((20, 3)) < 0.3] = NO_PASSAGE
        ids = np.array([[*row[row >= 0], *row[row < 0]] for row in ids])
        lists.append((ids, np.zeros(ids.shape, np.float32)))
    fused, _ = fusion.reciprocal_rank(lists, 15, constant=7)
    for query in range(20):
        sums: dict[int, float] = {}
        for ids, _ in lists:
            for rank, passage in enumerate(ids[query], start=1):
                if passage != NO_PASSAGE:
                    sums[int(passage)] = sums.get(int(passage), 0.0) + 1 / (7 + rank)
        expected = sorted(sums, key=lambda p: (-np.float32(sums[p]), p))[:15]
        assert [p for p in fused[query] if p >= 0] == expected


def test_lists_that_do_not_fit_together_are_refused():
    good = np.zeros((2, 3), np.int64), np.zeros((2, 3), np.float32)
    with pytest.raises(ValueError, match="there are no lists"):
        fusion.merge([], 3)
    with pytest.raises(ValueError, match="one row a query"):
        fusion.reciprocal_rank([good, (good[0][:1], good[1][:1])], 3)
    with pytest.raises(ValueError, match="constant is -1"):
        fusion.reciprocal_rank([good], 3, constant=-1)
