import itertools

import numpy as np
import pyarrow as pa
import pytest

from curation.duplicates import (
    DuplicateSettings,
    bucket_pairs,
    candidate_pairs,
    clusters,
    edges,
    near_duplicates,
    neighbor_pairs,
    unique_pairs,
    verify,
)
from curation.duplicates.pairs import subtract
from curation.duplicates.shingles import jaccard, shingle
from curation.minhash import band_keys
from curation.texts import Texts, from_strings

SMALL = DuplicateSettings(all_pairs_max=6, leaders=2, recent=3)


def random_text(rng: np.random.Generator, chars: int) -> str:
    return "".join(chr(code) for code in rng.integers(0x4E00, 0x9000, chars))


def family(rng: np.random.Generator, size: int, chars: int = 120, edits: int = 3) -> list[str]:
    """Texts of one template: each replaces a few runs of it, so that similarities vary."""
    template = random_text(rng, chars)
    texts = []
    for _ in range(size):
        text = template
        for _ in range(int(rng.integers(0, edits + 1))):
            at = int(rng.integers(0, chars - 8))
            text = text[:at] + random_text(rng, int(rng.integers(1, 5))) + text[at + 3 :]
        texts.append(text)
    return texts


def ngrams(text: str) -> set[str]:
    return {text[at : at + 5] for at in range(max(1, len(text) - 4))}


class Corpus:
    """Texts with ids that ascend, as the functions under test take them."""

    def __init__(self, texts: list[str]) -> None:
        self.texts = texts
        self.ids = np.arange(len(texts), dtype=np.int64) * 3 + 10
        self.fetched: list[np.ndarray] = []

    def fetch(self, ids: np.ndarray) -> Texts:
        self.fetched.append(ids)
        return from_strings([self.texts[row] for row in (ids - 10) // 3])

    def bands(
        self, settings: DuplicateSettings, end: int | None = None
    ) -> list[tuple[np.ndarray, np.ndarray]]:
        keys, valid = band_keys(from_strings(self.texts[:end]), settings.minhash)
        ids = self.ids[:end][valid]
        return [(np.ascontiguousarray(band[valid]), ids) for band in keys.T]

    def brute_force(self, floor: float) -> dict[tuple[int, int], float]:
        sets = [ngrams(text) for text in self.texts]
        found = {}
        for b in range(len(sets)):
            for a in range(b):
                common = len(sets[a] & sets[b])
                similarity = common / (len(sets[a]) + len(sets[b]) - common)
                if similarity >= floor:
                    found[int(self.ids[a]), int(self.ids[b])] = similarity
        return found


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    rng = np.random.default_rng(20)
    texts = [text for size in (1, 2, 3, 5, 8, 40) for text in family(rng, size)]
    texts += [random_text(rng, int(chars)) for chars in rng.integers(5, 200, 60)]
    return Corpus([texts[row] for row in rng.permutation(len(texts))])


def as_dict(table: pa.Table) -> dict[tuple[int, int], float]:
    rows = table.to_pydict()
    ends = zip(rows["a_id"], rows["b_id"], strict=True)
    return dict(zip(ends, rows["jaccard"], strict=True))


def edge_rows(*rows: tuple[int, int, float], kind: str = "band") -> pa.Table:
    pairs = np.array([row[:2] for row in rows], np.int64).reshape(-1, 2)
    return edges.edge_table(kind, pairs, np.array([row[2] for row in rows], np.float32))


# Shingles


def test_shingles_are_the_distinct_ngrams_in_order() -> None:
    rng = np.random.default_rng(1)
    texts = ["", "短", "四个字啊", "五个字啊啊", "哈" * 40, "ab" * 30, random_text(rng, 3000)]
    sets = shingle(from_strings([*texts, None]), 5)
    for row, text in enumerate(texts):
        found = sets.hashes[sets.offsets[row] : sets.offsets[row + 1]]
        assert len(found) == (len(ngrams(text)) if text else 0)
        assert (np.diff(found) > 0).all()
    assert sets.offsets[-1] == sets.offsets[-2]


def test_jaccard_of_sets_is_that_of_the_texts() -> None:
    rng = np.random.default_rng(2)
    corpus = Corpus([*family(rng, 12), *family(rng, 3), "短", "短", "短文", "哈" * 9])
    sets = shingle(from_strings(corpus.texts), 5)
    rows = np.array([(a, b) for b in range(len(corpus.texts)) for a in range(b)])
    for floor in (0.3, 0.7, 1.0):
        found = jaccard(sets, rows[:, 0], rows[:, 1], floor)
        expected = corpus.brute_force(floor)
        for (a, b), similarity in zip(rows, found, strict=True):
            pair = int(corpus.ids[a]), int(corpus.ids[b])
            assert similarity == np.float32(expected.get(pair, 0))


def test_a_similarity_of_exactly_the_floor_is_kept() -> None:
    # 7 shingles of 10 are common: 0.7, which 7 / 10 is and 0.1 * 7 is not.
    a, b = "abcdefghijkl" + "m", "abcdefghijk" + "m"
    sets = shingle(from_strings([a, b]), 5)
    one = np.zeros(1, np.int64)
    exact = 7 / 10
    assert jaccard(sets, one, one + 1, exact)[0] == np.float32(exact)
    assert jaccard(sets, one, one + 1, exact + 1e-9)[0] == 0


# Pairs


def test_lists_of_pairs_merge_and_subtract_as_sets() -> None:
    rng = np.random.default_rng(4)
    lists = [np.unique(rng.integers(0, 9, (size, 2)), axis=0) for size in (0, 5, 30, 1, 17)]
    sets = [set(map(tuple, some.tolist())) for some in lists]
    merged = unique_pairs(lists)
    assert [tuple(pair) for pair in merged.tolist()] == sorted(set().union(*sets))
    rest = subtract(merged, lists[2])
    assert [tuple(pair) for pair in rest.tolist()] == sorted(set().union(*sets) - sets[2])
    assert unique_pairs([]).shape == (0, 2)


# Buckets


def all_pairs(keys: np.ndarray, ids: np.ndarray) -> set[tuple[int, int]]:
    rows = range(len(keys))
    return {
        (int(min(ids[i], ids[j])), int(max(ids[i], ids[j])))
        for i in rows
        for j in range(i)
        if keys[i] == keys[j]
    }


def as_set(lists: list[np.ndarray]) -> set[tuple[int, int]]:
    return {tuple(pair) for some in lists for pair in some.tolist()}


def test_all_pairs_of_small_buckets_are_compared_and_no_others() -> None:
    rng = np.random.default_rng(6)
    keys = rng.integers(0, 2**63, 300, np.uint64)[rng.integers(0, 300, 900)]
    ids = rng.permutation(np.arange(900, dtype=np.int64) << 33)
    found = list(bucket_pairs(keys, ids, DuplicateSettings()))
    assert as_set(found) == all_pairs(keys, ids)
    assert sum(map(len, found)) == len(as_set(found))
    assert as_set(list(bucket_pairs(keys, ids, DuplicateSettings(), run=7))) == as_set(found)


def test_late_members_of_a_large_bucket_meet_its_leaders_and_the_ones_before_them() -> None:
    ids = np.arange(20, dtype=np.int64)
    keys = np.full(20, 99, np.uint64)
    found = as_set(list(bucket_pairs(keys, ids, SMALL)))
    expected = {(a, b) for b in range(6) for a in range(b)}
    expected |= {(a, b) for b in range(6, 20) for a in (0, 1, b - 3, b - 2, b - 1)}
    assert found == expected


def test_a_bucket_costs_in_proportion_to_its_members() -> None:
    settings = DuplicateSettings()
    ids = np.arange(40_000, dtype=np.int64)
    pairs = sum(map(len, bucket_pairs(np.full(40_000, 7, np.uint64), ids, settings)))
    assert pairs < 40_000 * (settings.leaders + settings.recent) + settings.all_pairs_max**2


def test_new_ids_are_paired_as_they_would_be_from_scratch() -> None:
    rng = np.random.default_rng(7)
    keys, ids = rng.integers(0, 12, 200).astype(np.uint64), np.arange(200, dtype=np.int64)
    whole = as_set(list(bucket_pairs(keys, ids, SMALL)))
    for new_from in (0, 1, 50, 199, 200):
        old = as_set(list(bucket_pairs(keys[:new_from], ids[:new_from], SMALL)))
        new = as_set(list(bucket_pairs(keys, ids, SMALL, new_from)))
        assert old | new == whole
        assert all(b >= new_from for _, b in new)


def test_a_pair_that_shares_several_bands_is_compared_once(corpus: Corpus) -> None:
    settings = DuplicateSettings()
    pairs = candidate_pairs(corpus.bands(settings), settings)
    by_band = [as_set(list(bucket_pairs(*band, settings))) for band in corpus.bands(settings)]
    assert sum(map(len, by_band)) > len(pairs)
    assert [tuple(pair) for pair in pairs.tolist()] == sorted(set().union(*by_band))


def test_no_texts_make_no_pairs() -> None:
    nothing = np.empty(0, np.uint64), np.empty(0, np.int64)
    assert candidate_pairs([nothing], SMALL).shape == (0, 2)


# Edges


def test_edges_are_the_exact_similarities(corpus: Corpus) -> None:
    settings = DuplicateSettings()
    found = near_duplicates(corpus.bands(settings), corpus.fetch, settings)
    expected = corpus.brute_force(settings.edge_floor)
    for pair, similarity in as_dict(found).items():
        assert np.float32(expected[pair]) == np.float32(similarity)
    near = {pair for pair, similarity in expected.items() if similarity >= settings.threshold}
    assert len(near) > 100
    assert len(near & as_dict(found).keys()) >= 0.98 * len(near)


def test_edges_do_not_depend_on_chunks_or_memory(
    corpus: Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = DuplicateSettings()
    pairs = candidate_pairs(corpus.bands(settings), settings)
    whole = verify(pairs, corpus.fetch, settings)
    monkeypatch.setattr(edges, "_CHUNK_PAIRS", 37)
    monkeypatch.setattr(edges, "_BYTES_PER_CHAR", 1 << 17)  # 512 characters fill the memory
    corpus.fetched.clear()
    parts = verify(pairs, corpus.fetch, DuplicateSettings(memory_mb=64))
    np.testing.assert_array_equal(parts[0], whole[0])
    np.testing.assert_array_equal(parts[1], whole[1])
    assert len(corpus.fetched) > len(pairs) // 37
    assert all((np.diff(ids) > 0).all() for ids in corpus.fetched)


def test_the_order_of_rows_changes_nothing(corpus: Corpus) -> None:
    settings = DuplicateSettings()
    bands = corpus.bands(settings)
    order = np.random.default_rng(9).permutation(len(bands[0][1]))
    shuffled = [(keys[order], ids[order]) for keys, ids in reversed(bands)]
    straight = near_duplicates(bands, corpus.fetch, settings)
    assert near_duplicates(shuffled, corpus.fetch, settings).equals(straight)


@pytest.mark.parametrize(
    "settings",
    [DuplicateSettings(), SMALL, DuplicateSettings(neighbors=3, rows_per_band=12, bands=4)],
    ids=["default", "large buckets", "few bands"],
)
def test_adding_texts_finds_what_starting_again_finds(
    corpus: Corpus, settings: DuplicateSettings
) -> None:
    whole = near_duplicates(corpus.bands(settings), corpus.fetch, settings)
    grown = edge_rows()
    for begin, end in itertools.pairwise([0, 1, 30, 31, 77, len(corpus.texts)]):
        new_from = int(corpus.ids[begin])
        new = near_duplicates(corpus.bands(settings, end), corpus.fetch, settings, new_from, grown)
        assert all(b >= new_from for _, b in as_dict(new))
        grown = pa.concat_tables([grown, new])
    by_id = [("kind", "ascending"), ("a_id", "ascending"), ("b_id", "ascending")]
    assert grown.sort_by(by_id).equals(whole.sort_by(by_id).combine_chunks())
    assert {"band", "neighbor"} == set(whole["kind"].to_pylist())


# Neighbors


def slow_neighbor_pairs(
    rows: list[tuple[int, int, float]], compared: set[tuple[int, int]], neighbors: int
) -> set[tuple[int, int]]:
    near: dict[int, list[tuple[float, int]]] = {}
    for a, b, similarity in rows:
        near.setdefault(a, []).append((-similarity, b))
        near.setdefault(b, []).append((-similarity, a))

    def best(text: int, before: int) -> list[int]:
        return [other for _, other in sorted(near[text]) if other < before][:neighbors]

    found = {
        (other, text)
        for text in near
        for middle in best(text, text)
        for other in best(middle, text)
    }
    return found - compared


def test_neighbors_of_neighbors_are_proposed() -> None:
    rng = np.random.default_rng(12)
    ends = {tuple(sorted(rng.choice(40, 2, replace=False).tolist())) for _ in range(150)}
    rows = [(a * 7, b * 7, float(rng.choice([0.75, 0.8, 0.9]))) for a, b in sorted(ends)]
    compared = np.array([row[:2] for row in rows[::2]], np.int64)
    for neighbors in (1, 2, 5, 50):
        found = neighbor_pairs(edge_rows(*rows), compared, DuplicateSettings(neighbors=neighbors))
        slow = slow_neighbor_pairs(rows, set(map(tuple, compared.tolist())), neighbors)
        assert {tuple(pair) for pair in found.tolist()} == slow


def test_edges_that_neighbors_proposed_are_not_followed() -> None:
    compared = np.empty((0, 2), np.int64)
    found = edge_rows((1, 2, 0.9))
    through = pa.concat_tables([found, edge_rows((1, 3, 0.9), kind="neighbor")])
    settings = DuplicateSettings()
    assert len(neighbor_pairs(through, compared, settings)) == 0
    followed = pa.concat_tables([found, edge_rows((1, 3, 0.9))])
    assert neighbor_pairs(followed, compared, settings).tolist() == [[2, 3]]


def test_neighbors_can_be_switched_off() -> None:
    star = edge_rows((1, 2, 0.9), (1, 3, 0.9))
    nothing = np.empty((0, 2), np.int64)
    assert len(neighbor_pairs(star, nothing, DuplicateSettings(neighbors=0))) == 0


# Clusters


def test_clusters_are_connected_texts_with_their_best_match() -> None:
    table = clusters(
        edge_rows((1, 2, 0.8), (2, 5, 0.95), (1, 5, 0.8), (7, 9, 0.79), (8, 9, 0.85)), 0.8
    )
    assert table.to_pylist() == [
        {"pair_id": 1, "cluster_id": 1, "matched_id": 2, "jaccard": S8, "cluster_size": 3},
        {"pair_id": 2, "cluster_id": 1, "matched_id": 5, "jaccard": S95, "cluster_size": 3},
        {"pair_id": 5, "cluster_id": 1, "matched_id": 2, "jaccard": S95, "cluster_size": 3},
        {"pair_id": 8, "cluster_id": 8, "matched_id": 9, "jaccard": S85, "cluster_size": 2},
        {"pair_id": 9, "cluster_id": 8, "matched_id": 8, "jaccard": S85, "cluster_size": 2},
    ]


S8, S85, S95 = (float(np.float32(number)) for number in (0.8, 0.85, 0.95))


def test_a_new_text_joins_two_clusters() -> None:
    before = edge_rows((1, 2, 0.9), (4, 5, 0.9))
    assert set(clusters(before, 0.8)["cluster_id"].to_pylist()) == {1, 4}
    after = pa.concat_tables([before, edge_rows((2, 6, 0.81), (5, 6, 0.82))])
    assert set(clusters(after, 0.8)["cluster_id"].to_pylist()) == {1}


def test_a_similarity_of_exactly_the_threshold_connects() -> None:
    # 0.9 as float32 is less than 0.9.
    assert len(clusters(edge_rows((1, 2, 9 / 10)), 0.9)) == 2
    assert len(clusters(edge_rows((1, 2, 0.899)), 0.9)) == 0


def test_edges_in_parts_make_the_same_clusters() -> None:
    rng = np.random.default_rng(14)
    ends = np.sort(rng.integers(0, 300, (220, 2)), axis=1)
    ends = np.unique(ends[ends[:, 0] < ends[:, 1]], axis=0)
    rows = [(int(a), int(b), float(rng.choice([0.7, 0.8, 0.9, 1.0]))) for a, b in ends]
    whole = clusters(edge_rows(*rows), 0.8)
    order = rng.permutation(len(rows))
    parts = [edge_rows(*(rows[at] for at in some)) for some in np.array_split(order, 9)]
    assert clusters(iter(parts), 0.8).equals(whole)
    assert whole.to_pylist() == slow_clusters(rows, 0.8)


def slow_clusters(rows: list[tuple[int, int, float]], threshold: float) -> list[dict]:
    leader: dict[int, int] = {}

    def find(text: int) -> int:
        while leader.setdefault(text, text) != text:
            text = leader[text]
        return text

    best: dict[int, tuple[float, int]] = {}
    for a, b, similarity in rows:
        if similarity < threshold:
            continue
        low, high = sorted((find(a), find(b)))
        leader[high] = low
        for text, other in ((a, b), (b, a)):
            best[text] = min(best.get(text, (0, 0)), (-float(np.float32(similarity)), other))
    members = [find(text) for text in leader]
    return [
        {
            "pair_id": text,
            "cluster_id": find(text),
            "matched_id": best[text][1],
            "jaccard": -best[text][0],
            "cluster_size": members.count(find(text)),
        }
        for text in sorted(leader)
    ]


def test_no_edges_make_no_clusters() -> None:
    assert clusters(edge_rows(), 0.8).num_rows == 0
    assert clusters(iter([]), 0.8).num_rows == 0


def test_a_template_of_many_texts_is_one_cluster() -> None:
    rng = np.random.default_rng(16)
    corpus = Corpus(family(rng, 1200, chars=200, edits=2))
    settings = DuplicateSettings(all_pairs_max=100)
    found = near_duplicates(corpus.bands(settings), corpus.fetch, settings)
    table = clusters(found, settings.threshold)
    assert table["cluster_size"].to_pylist() == [1200] * 1200


# Settings


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"text": "query"}, "text is 'query'; allowed are passage, pair"),
        ({"threshold": 0.6}, "0 < edge_floor <= threshold <= 1"),
        ({"edge_floor": 0.0}, "0 < edge_floor <= threshold <= 1"),
        ({"memory_mb": 10}, "memory_mb is 10; at least 64"),
        ({"template_min_size": 1}, "template_min_size is 1; it must be at least 2"),
        ({"neighbors": -1}, "neighbors is -1; it must not be negative"),
        ({"leaders": 500}, "raise all_pairs_max"),
        ({"bands": 0}, "bands is 0"),
    ],
)
def test_settings_that_make_no_sense_are_refused(wrong: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DuplicateSettings(**wrong)
