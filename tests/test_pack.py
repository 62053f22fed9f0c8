"""What a pack holds: every text, pair, negative, cluster and score of its snapshot."""

import pickle
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
    layout,
    select_policy,
)
from catalog.pack.layout import check_rows, find_rows
from catalog.policies import Condition, Policy
from catalog.policy_commit import commit_policy
from catalog.snapshots import Snapshot, create_snapshot
from tests.pack_catalog import (
    KEEP,
    Row,
    cluster,
    kept_pairs,
    make_catalog,
    named_text,
    pair,
    scores,
    write_tables,
)

FILE = 1 << 32
LONG = "长" * 200_000
TEXTS = [
    "",
    "天气怎么样",
    "😀👨‍👩‍👧 emoji",
    "  spaces  ",
    "a\nb\t\r\n",
    "é\u0301\u200b",
    LONG,
    "短",
]
NEGATIVES = {1: ["天气怎么样", "new", "", "new"], 3: [], 4: ["other", None, "new"]}
UNNAMED_FILE = 9


def varied_rows() -> list[Row]:
    """Pairs of three tasks, with shared texts, negatives, dropped rows and passages alone."""
    rows = [
        pair(1, n, f"问题 {n % 7}", text, negatives=NEGATIVES.get(n))
        for n, text in enumerate(TEXTS)
    ]
    rows += [pair(1, 20 + n, text, f"答案 {n % 3}", source="qa") for n, text in enumerate(TEXTS)]
    rows += [pair(2, n, f"句 {n}", "句", task="sts", label=n / 2, source="sts") for n in range(5)]
    rows += [pair(2, 9, "分类", "类别", task="classification", negatives=["news"])]
    rows += [pair(3, 0, "ABC", "Shared"), pair(3, 1, "abc", "shared")]
    rows += [pair(3, 2, "问题 1", "bad", source="dropped", negatives=["unseen"])]
    rows += [pair(3, 3, None, "corpus only"), pair(3, 4, None, "gone", source="dropped")]
    rows += [pair(4, n, f"c {n}", f"cluster {n}") for n in range(6)]
    rows += [pair(4, 6, "c 6", "cluster 6", source="dropped")]
    # These came after the last search for duplicates.
    rows += [pair(UNNAMED_FILE, 0, "短", "late"), pair(UNNAMED_FILE, 1, "短", "late")]
    return rows


def clusters() -> list[Row]:
    members = [[6, 1, 3], [2, 4], [0, 6]]  # the first and the last have one that is not kept
    return [row for numbers in members[:2] for row in cluster([4 * FILE + n for n in numbers])]


@pytest.fixture(scope="module")
def rows() -> list[Row]:
    return varied_rows()


@pytest.fixture(scope="module")
def catalog(tmp_path_factory: pytest.TempPathFactory, rows: list[Row]) -> Catalog:
    folder = tmp_path_factory.mktemp("lake") / "corpus"
    more = {"duplicates": clusters()}
    return make_catalog(folder, rows, more, unnamed_file=UNNAMED_FILE)


@pytest.fixture(scope="module")
def snapshot(catalog: Catalog) -> Snapshot:
    made = create_snapshot(catalog, "v1")
    # Scores come after the snapshot that they are for.
    given = scores("bge", "r1", {FILE: 0.25, FILE + 2: -0.5, 3 * FILE + 2: 0.125})
    given += scores("two", "r1", {FILE: 0.25}) + scores("two", "r2", {FILE: 0.5})
    write_tables(catalog, {"scores": given + scores("dot", "r1", {FILE: 70_000.0})})
    return made


@pytest.fixture(scope="module")
def pack(catalog: Catalog, snapshot: Snapshot, tmp_path_factory: pytest.TempPathFactory) -> Pack:
    folder = tmp_path_factory.mktemp("packs") / "v1"
    return build_pack(catalog, snapshot, folder, PackSettings(scores_model="bge"))


def all_texts(pack: Pack, side: str) -> list[str]:
    return pack.texts(side, np.arange(pack.num_texts(side)))


def contents(pack: Pack) -> list[tuple[object, ...]]:
    pairs = pack.pairs()
    columns = (pairs.pair_id.tolist(), pack.texts("query", pairs.query))
    return list(zip(*columns, pack.texts("passage", pairs.passage), strict=True))


def named(rows: list[Row], row: Row, side: str) -> str:
    if row["pair_id"] >= UNNAMED_FILE * FILE:
        return str(row["query" if side == "query" else "positive"])
    return named_text(rows, side, row)


def test_every_pair_comes_back_with_both_texts_in_task_and_id_order(
    pack: Pack, rows: list[Row]
) -> None:
    assert contents(pack) == [
        (row["pair_id"], named(rows, row, "query"), named(rows, row, "passage"))
        for row in kept_pairs(rows)
    ]


def test_a_text_is_stored_once_whoever_holds_it(pack: Pack, rows: list[Row]) -> None:
    kept = [row for row in rows if row["source"] != "dropped"]
    kept = [row for row in kept if row["pair_id"] < UNNAMED_FILE * FILE]
    passages = {named(rows, row, "passage") for row in kept}
    queries = {named(rows, row, "query") for row in kept if row["query"] is not None}
    # Rows without text ids name their own texts, twice the same here.
    assert sorted(all_texts(pack, "query")) == sorted([*queries, "短", "短"])
    given = {"new", "other", "news"}  # the other negatives are passages already
    assert sorted(all_texts(pack, "passage")) == sorted([*passages, "late", "late", *given])


def test_texts_with_one_normal_form_are_the_smallest_ids_text(pack: Pack) -> None:
    at = pack.positions([3 * FILE + 1])
    pairs = pack.pairs()
    assert pack.texts("query", pairs.query[at]) == ["ABC"]
    assert pack.texts("passage", pairs.passage[at]) == ["Shared"]


def test_tasks_are_contiguous_views(pack: Pack, rows: list[Row]) -> None:
    for task in ("retrieval", "sts", "classification"):
        view = pack.pairs(task)
        wanted = [row["pair_id"] for row in kept_pairs(rows) if row["task"] == task]
        assert view.pair_id.tolist() == wanted
        assert np.shares_memory(view.pair_id, pack.pairs().pair_id)
        assert pack.pairs().pair_id[view.first :][: len(view)].tolist() == wanted


def test_labels_and_sources_follow_their_pairs(pack: Pack, rows: list[Row]) -> None:
    pairs = pack.pairs()
    for at, row in enumerate(kept_pairs(rows)):
        label = row["label"]
        assert np.isnan(pairs.label[at]) if label is None else pairs.label[at] == label
        assert pack.manifest.sources[pairs.source[at]] == row["source"]
    assert pack.source_code("qa") == pack.manifest.sources.index("qa")
    with pytest.raises(PackError, match="no pairs of source 'nope'; it has: qa, sts, web"):
        pack.source_code("nope")


def test_ids_and_rows_are_inverse_and_strangers_are_none(pack: Pack) -> None:
    for side in ("query", "passage"):
        ids = pack.ids(side)
        assert (np.diff(ids) > 0).all()
        assert pack.rows(side, ids).tolist() == list(range(len(ids)))
    assert pack.rows("query", [-5, 12345, 1 << 60]).tolist() == [NONE] * 3
    assert pack.positions([12345, FILE + 1]).tolist() == [-1, 1]
    assert find_rows(np.empty(0, np.int64), np.array([1])).tolist() == [NONE]


def test_rows_may_repeat_and_come_in_any_order(pack: Pack) -> None:
    every = all_texts(pack, "passage")
    order = [5, 0, 5, len(every) - 1, 3]
    assert pack.texts("passage", np.array(order)) == [every[row] for row in order]
    assert pack.texts("passage", np.array(order, np.uint32)) == [every[row] for row in order]
    assert pack.texts("passage", np.array([], np.int64)) == []


@pytest.mark.parametrize("row", [-1, 10_000, NONE])
def test_a_row_that_is_not_there_is_refused(pack: Pack, row: int) -> None:
    with pytest.raises(IndexError, match=f"query row {row} is asked for; the pack has"):
        pack.texts("query", np.array([0, row]))


def test_an_unknown_side_or_task_is_refused(pack: Pack) -> None:
    with pytest.raises(ValueError, match="side is 'queries'; allowed are query and passage"):
        pack.texts("queries", np.array([0]))
    with pytest.raises(PackError, match="no pairs of task 'rerank'; it has: retrieval, sts"):
        pack.pairs("rerank")
    with pytest.raises(TypeError, match="give a vector of integers"):
        pack.texts("query", np.array([0.5]))


@pytest.mark.parametrize("compression", [None, "zstd"])
def test_three_shards_and_zstd_change_no_answer(
    catalog: Catalog, snapshot: Snapshot, pack: Pack, tmp_path: Path, compression: str | None
) -> None:
    settings = PackSettings(None, "bge", compression=compression, texts_per_shard=10)
    other = build_pack(catalog, snapshot, tmp_path / "other", settings)
    assert len(list((tmp_path / "other").glob("passage-*.blob"))) == 3
    for side in ("query", "passage"):
        assert all_texts(other, side) == all_texts(pack, side)
        mixed = np.array([20, 0, 10, 1, 19, 9])
        assert other.texts(side, mixed) == pack.texts(side, mixed)
    assert contents(other) == contents(pack)
    same = {name for name in pack.manifest.files if not name.startswith(("query-", "passage-"))}
    assert {n: other.manifest.files[n] for n in same} == {n: pack.manifest.files[n] for n in same}


def test_given_negatives_are_passages_and_share_rows_with_equal_texts(pack: Pack) -> None:
    first = pack.positions([FILE + 1, FILE + 3, FILE + 4, 2 * FILE + 9])
    found, offsets = pack.negatives(first)
    assert offsets.tolist() == [0, 4, 4, 6, 7]
    texts = ["天气怎么样", "new", "", "new", "other", "new", "news"]
    assert pack.texts("passage", found) == texts
    assert found[0] == pack.pairs().passage[first[0]]
    assert found[1] == found[3] == found[5]
    backwards, ends = pack.negatives(first[::-1])
    assert pack.texts("passage", backwards) == ["news", "other", "new", *texts[:4]]
    assert ends.tolist() == [0, 1, 3, 3, 7]
    assert pack.num_texts("passage") == len(pack.ids("passage")) + 3
    with pytest.raises(IndexError, match="pair row -1 is asked for"):
        pack.negatives(np.array([-1]))


def test_passages_of_one_cluster_have_one_number(pack: Pack) -> None:
    row_of = dict(zip(all_texts(pack, "passage"), range(100), strict=False))
    together = {1: 1, 3: 1, 2: 2, 4: 2, 0: 0, 5: 5}
    for member, first in together.items():
        assert pack.clusters[row_of[f"cluster {member}"]] == row_of[f"cluster {first}"]
    alone = [row for text, row in row_of.items() if not text.startswith("cluster")]
    assert pack.clusters[alone].tolist() == alone


def test_teacher_scores_come_as_float16_and_nan_where_there_is_none(pack: Pack) -> None:
    score = pack.pairs().score
    assert score is not None
    assert score.dtype == np.float16
    np.testing.assert_array_equal(score[:3], np.array([0.25, np.nan, -0.5], np.float16))
    assert np.isnan(score[3:]).all()
    assert pack.manifest.counts.scored == 2


def test_scores_of_several_revisions_must_be_chosen_from(
    catalog: Catalog, snapshot: Snapshot, tmp_path: Path
) -> None:
    def build(model: str, revision: str | None = None) -> Pack:
        settings = PackSettings(scores_model=model, scores_revision=revision)
        return build_pack(catalog, snapshot, tmp_path / "v1", settings)

    with pytest.raises(PackError, match=r"several revisions \(r1, r2\); say which"):
        build("two")
    with pytest.raises(PackError, match="there is no scores model 'bgf'; did you mean 'bge'"):
        build("bgf")
    with pytest.raises(PackError, match="there is no revision of two 'r3'"):
        build("two", "r3")
    with pytest.raises(PackError, match="teacher scores reach 70000; a pack stores at most 65504"):
        build("dot")
    assert not (tmp_path / "v1").exists()
    score = build("two", "r2").pairs().score
    assert score is not None
    assert score[0] == 0.5


@pytest.mark.parametrize("compression", [None, "zstd"])
def test_an_empty_snapshot_gives_an_empty_pack(
    catalog: Catalog, tmp_path: Path, compression: str | None
) -> None:
    commit_policy(catalog, Policy("nothing", (Condition("none", "rules", require="false"),)))
    empty = create_snapshot(catalog, "empty", "nothing")
    commit_policy(catalog, KEEP)
    settings = PackSettings(compression=compression)
    pack = build_pack(catalog, empty, tmp_path / "v1", settings)
    assert (len(pack), pack.num_texts("query"), len(pack.clusters)) == (0, 0, 0)
    assert (pack.manifest.tasks, pack.manifest.sources) == ({}, [])
    assert (pack.select().tolist(), pack.pairs().score) == ([], None)
    assert Pack.open(tmp_path / "v1", verify=True).texts("query", np.array([], np.int64)) == []
    found, offsets = pack.negatives(np.array([], np.int64))
    assert (found.tolist(), offsets.tolist()) == ([], [0])


def test_a_catalog_that_was_never_mined_says_so(
    catalog: Catalog, snapshot: Snapshot, tmp_path: Path
) -> None:
    with pytest.raises(PackError, match="run: lode mine"):
        build_pack(catalog, snapshot, tmp_path / "v1", PackSettings(candidates_run="run-1"))
    with pytest.raises(PackError, match="run: lode mine"):
        lake_window(catalog, "run-1", FILE, 1, 7)


def test_a_selection_is_a_vector_of_positions(pack: Pack, rows: list[Row]) -> None:
    kept = kept_pairs(rows)
    qa = pack.source_code("qa")
    wanted = [at for at, row in enumerate(kept) if row["source"] == "qa"]
    assert pack.select().tolist() == list(range(len(kept)))
    assert pack.select(where=lambda pairs: pairs.source == qa).tolist() == wanted
    assert pack.select(where=pack.pairs().source == qa).tolist() == wanted
    without = [kept[wanted[0]]["pair_id"], 999]
    chosen = pack.select(where=lambda pairs: pairs.source == qa, without=without)
    assert chosen.tolist() == wanted[1:]
    sts = pack.select("sts", where=lambda pairs: pairs.label >= 1)
    assert [kept[at]["label"] for at in sts.tolist()] == [1.0, 1.5, 2.0]
    with pytest.raises(ValueError, match="wanted is one bool for each of 5 pairs"):
        pack.select("sts", where=np.ones(4, np.bool_))


def test_a_selection_in_blocks_equals_one_in_one_piece(
    pack: Pack, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = pack.select("retrieval", where=lambda pairs: pairs.pair_id % 3 == 0)
    monkeypatch.setattr("catalog.pack.read.SELECT_BLOCK", 4)
    blocks = pack.select("retrieval", where=lambda pairs: pairs.pair_id % 3 == 0)
    assert blocks.tolist() == whole.tolist() != []


def test_a_stricter_policy_is_a_selection(catalog: Catalog, pack: Pack, rows: list[Row]) -> None:
    strict = Policy("strict", (Condition("short", "rules", require="length(positive) > 3"),))
    chosen = select_policy(pack, catalog, strict)
    wanted = [at for at, row in enumerate(kept_pairs(rows)) if len(str(row["positive"])) > 3]
    assert chosen.tolist() == wanted


def test_a_pack_travels_to_another_process_as_a_name(pack: Pack) -> None:
    there = pickle.loads(pickle.dumps(pack))
    assert contents(there) == contents(pack)
    assert len(pickle.dumps(pack)) < 500


def test_more_rows_than_32_bits_are_refused() -> None:
    assert check_rows(layout.MAX_ROWS, "passage texts") == 2**32 - 1
    with pytest.raises(PackError, match=r"has 4,294,967,296 pairs; a pack numbers at most"):
        check_rows(2**32, "pairs")


def test_the_build_streams_ranges_of_ids_and_batches(
    catalog: Catalog,
    snapshot: Snapshot,
    pack: Pack,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("catalog.pack.contents.RANGE_TEXTS", 4)
    monkeypatch.setattr("catalog.pack.negatives.RANGE_TEXTS", 2)
    monkeypatch.setattr("catalog.pack.contents.BATCH_ROWS", 2)
    monkeypatch.setattr("catalog.pack.pairs.BLOCK", 3)
    settings = PackSettings(scores_model="bge", memory_mb=100)
    other = build_pack(catalog, snapshot, tmp_path / "v1", settings)
    assert other.manifest == pack.manifest


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"compression": "gzip"}, "compression is 'gzip'; allowed are None and 'zstd'"),
        ({"texts_per_shard": 0}, "texts_per_shard is 0; it must be at least 1"),
        ({"scores_revision": "r"}, "scores_revision is set without scores_model"),
    ],
)
def test_a_setting_that_cannot_be_obeyed_is_refused(
    setting: dict[str, object], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        PackSettings(**setting)  # type: ignore[arg-type]
