"""Candidate lists of a pack and the replacement windows over them."""

from pathlib import Path

import numpy as np
import pytest

from catalog.lake import Catalog
from catalog.pack import (
    NONE,
    Pack,
    PackError,
    PackSettings,
    build_pack,
    lake_window,
    window,
    window_span,
)
from catalog.snapshots import Snapshot, create_snapshot
from tests.pack_catalog import Row, candidates, make_catalog, pair, write_tables

FILE = 1 << 32
PASSAGES = 70
Lists = dict[int, list[tuple[int, float, int]]]


def mined_lists() -> Lists:
    """Lists of every length from 0 to 60, with removed candidates in between."""
    lists: Lists = {}
    for query in range(PASSAGES):
        if query % 9 == 4:
            continue  # not mined
        length = (query * 7) % 61
        entries = []
        for rank in range(length):
            passage = (query * 13 + rank * 3) % PASSAGES
            reason = (query + rank) % 5 if query % 2 else 0
            entries.append((FILE + passage, 1 - rank / 64, reason))
        lists[FILE + query] = entries
    lists[FILE + 1] = [(FILE + 3, 0.5, 2)]  # mined, and nothing was kept
    lists[FILE + 2] = [(FILE + PASSAGES + 1, 0.5, 0)]  # a passage that the snapshot does not keep
    return lists


def rows() -> list[Row]:
    pairs = [pair(1, n, f"q{n}", f"p{n}") for n in range(PASSAGES)]
    return [
        *pairs,
        pair(1, PASSAGES, "dropped query", "unseen", source="dropped"),
        pair(1, PASSAGES + 1, None, "only a candidate", source="dropped"),
    ]


@pytest.fixture(scope="module")
def lists() -> Lists:
    return mined_lists()


@pytest.fixture(scope="module")
def catalog(tmp_path_factory: pytest.TempPathFactory, lists: Lists) -> Catalog:
    return make_catalog(tmp_path_factory.mktemp("lake") / "corpus", rows())


@pytest.fixture(scope="module")
def snapshot(catalog: Catalog, lists: Lists) -> Snapshot:
    made = create_snapshot(catalog, "v1")
    late = pair(2, 0, None, "came after the snapshot")
    strangers: Lists = {FILE + PASSAGES: [(FILE, 0.5, 0)], 999: [(FILE, 0.5, 0)]}
    found = candidates("run-1", {**lists, **strangers})
    found += candidates("later", {FILE: [(2 * FILE, 0.5, 0)]})
    found += candidates("lost", {FILE: [(3 * FILE, 0.5, 0)]})
    found += candidates("twice", {FILE: []}) + candidates("twice", {FILE: []})
    found += candidates("ragged", {FILE: [(FILE, 0.5, 0)]})
    found[-1]["filtered_by"] = [0, 0]
    write_tables(catalog, {"pairs": [late], "candidates": found})
    return made


def build(catalog: Catalog, snapshot: Snapshot, folder: Path, **more: object) -> Pack:
    settings = PackSettings(**{"candidates_run": "run-1", **more})  # type: ignore[arg-type]
    return build_pack(catalog, snapshot, folder, settings)


@pytest.fixture(scope="module")
def pack(catalog: Catalog, snapshot: Snapshot, tmp_path_factory: pytest.TempPathFactory) -> Pack:
    folder = tmp_path_factory.mktemp("packs") / "v1"
    return build(catalog, snapshot, folder, lists_per_shard=11)


def kept(lists: Lists, query: int) -> list[tuple[int, float]]:
    return [(p, score) for p, score, reason in lists.get(FILE + query, []) if reason == 0]


def test_the_window_of_a_list_is_its_slice() -> None:
    ranked = list(range(100))
    assert [window_span(i, 7) for i in (1, 2, 12)] == [(10, 17), (17, 24), (87, 94)]
    assert window(ranked, 1, 7) == [10, 11, 12, 13, 14, 15, 16]
    assert window(ranked, 13, 7) == [94, 95, 96, 97, 98, 99]
    assert window(ranked, 14, 7) == []
    assert window(ranked[:9], 1, 7) == []


@pytest.mark.parametrize(("i", "n"), [(0, 7), (1, 0), (-1, 7)])
def test_windows_are_counted_from_one(pack: Pack, i: int, n: int) -> None:
    with pytest.raises(ValueError, match="start at 1"):
        window_span(i, n)
    with pytest.raises(ValueError, match="start at 1"):
        pack.window(np.array([0]), i, n)


@pytest.mark.parametrize("n", [1, 7, 10, 100])
def test_every_window_equals_a_slow_slice(pack: Pack, lists: Lists, n: int) -> None:
    queries = np.random.default_rng(n).permutation(PASSAGES)
    for i in range(1, 9):
        rows, counts = pack.window(queries, i, n)
        scores = pack.window_scores(queries, i, n)
        assert rows.shape == (PASSAGES, n)
        assert rows.dtype == np.uint32
        for at, query in enumerate(queries.tolist()):
            wanted = kept(lists, query)[(i - 1) * n + 10 : i * n + 10]
            assert counts[at] == len(wanted)
            assert pack.ids("passage")[rows[at, : counts[at]]].tolist() == [p for p, _ in wanted]
            assert (rows[at, counts[at] :] == NONE).all()
            assert scores[at, : counts[at]].tolist() == [score for _, score in wanted]
            assert np.isnan(scores[at, counts[at] :]).all()


def test_every_query_may_be_at_a_window_of_its_own(pack: Pack) -> None:
    queries = np.arange(PASSAGES)
    i = queries % 6 + 1
    rows, counts = pack.window(queries, i, 5)
    for query in queries.tolist():
        alone = pack.window(queries[query : query + 1], int(i[query]), 5)
        assert rows[query].tolist() == alone.rows[0].tolist()
        assert counts[query] == alone.counts[0]


def test_one_query_by_id_from_the_pack_and_from_the_lake(
    pack: Pack, catalog: Catalog, lists: Lists
) -> None:
    for query in (0, 1, 3, 8):
        for i in (1, 3):
            wanted = [passage for passage, _ in kept(lists, query)[(i - 1) * 4 + 10 : i * 4 + 10]]
            assert pack.query_window(FILE + query, i, 4) == wanted
            assert lake_window(catalog, "run-1", FILE + query, i, 4) == wanted
    with pytest.raises(PackError, match="has no query 5"):
        pack.query_window(5, 1, 4)
    with pytest.raises(PackError, match=f"run 'run-1' has no candidates of query {FILE + 4}"):
        lake_window(catalog, "run-1", FILE + 4, 1, 4)


def test_the_best_candidates_come_with_their_scores(pack: Pack, lists: Lists) -> None:
    rows, scores = pack.candidates.best(np.array([8, 4]), 12)
    wanted = kept(lists, 8)[:12]
    assert pack.ids("passage")[rows[0, : len(wanted)]].tolist() == [p for p, _ in wanted]
    assert scores[0, : len(wanted)].tolist() == [score for _, score in wanted]
    assert (rows[1] == NONE).all()
    assert pack.candidates.positive_score.tolist() == [0.75] * len(lists)


def test_a_query_that_was_not_mined_is_told_from_one_with_nothing_kept(pack: Pack) -> None:
    assert pack.candidates.counts(np.array([1, 4, 8])).tolist() == [0, -1, 56]


def test_a_passage_that_only_candidates_name_has_its_text(pack: Pack) -> None:
    rows, _ = pack.candidates.best(np.array([2]), 1)
    assert pack.texts("passage", rows[0]) == ["only a candidate"]
    assert pack.num_texts("passage") == PASSAGES + 1  # 'unseen' is neither kept nor a candidate


def test_a_candidate_that_came_after_the_snapshot_has_its_text(
    catalog: Catalog, snapshot: Snapshot, tmp_path: Path
) -> None:
    pack = build(catalog, snapshot, tmp_path / "v1", candidates_run="later")
    rows, _ = pack.candidates.best(np.array([0]), 1)
    assert pack.texts("passage", rows[0]) == ["came after the snapshot"]


def test_shards_and_streams_change_no_window(
    catalog: Catalog,
    snapshot: Snapshot,
    pack: Pack,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert len(list(pack.folder.glob("candidates-*.passage"))) == 6
    monkeypatch.setattr("catalog.pack.mined.RANGE_LISTS", 5)
    monkeypatch.setattr("catalog.pack.mined.INDEX_BLOCK", 3)
    monkeypatch.setattr("catalog.pack.contents.BATCH_ROWS", 4)
    whole = build(catalog, snapshot, tmp_path / "whole")
    queries = np.arange(PASSAGES)[::-1]
    for i in (1, 2, 5):
        assert np.array_equal(whole.window(queries, i, 7).rows, pack.window(queries, i, 7).rows)
        assert np.array_equal(
            whole.window_scores(queries, i, 7), pack.window_scores(queries, i, 7), equal_nan=True
        )
    matrices = sorted(pack.folder.glob("candidates-*.passage"))
    joined = b"".join(path.read_bytes() for path in matrices)
    assert joined == (tmp_path / "whole" / "candidates-00000.passage").read_bytes()


def test_a_pack_without_candidates_says_so(
    catalog: Catalog, snapshot: Snapshot, tmp_path: Path
) -> None:
    plain = build(catalog, snapshot, tmp_path / "v1", candidates_run=None)
    with pytest.raises(PackError, match="has no candidates; build one with a mining run"):
        plain.window(np.array([0]), 1, 7)


@pytest.mark.parametrize(
    ("run", "message"),
    [
        ("run-2", "there is no mining run 'run-2'; did you mean 'run-1'"),
        ("lost", rf"1 passages are no longer in the catalog \(first: {3 * FILE}\)"),
        ("twice", f"run 'twice' has two lists of query {FILE}; run: lode check"),
        ("ragged", f"list of query {FILE} has passages, scores and reasons of different lengths"),
    ],
)
def test_a_run_that_cannot_be_laid_out_is_refused(
    catalog: Catalog, snapshot: Snapshot, tmp_path: Path, run: str, message: str
) -> None:
    with pytest.raises(PackError, match=message):
        build(catalog, snapshot, tmp_path / "v1", candidates_run=run)
    with pytest.raises(PackError, match="there is no pack in"):
        Pack.open(tmp_path / "v1")
