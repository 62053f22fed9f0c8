from pathlib import Path

import numpy as np
import pytest

from catalog import duck
from curation.duplicates import DuplicateSettings, neighbor_pairs
from curation.duplicates.edges import edge_table
from curation.duplicates.graph import EdgeGraph
from curation.duplicates.idset import IdSet
from curation.duplicates.pairs import unique_pairs
from curation.duplicates.scratch import PairRuns, TextFiles
from curation.texts import from_strings

FILE = 1 << 32


def random_pairs(rng: np.random.Generator, count: int) -> np.ndarray:
    pairs = np.sort(rng.integers(0, 60, (count, 2)), axis=1)
    return np.unique(pairs[pairs[:, 0] < pairs[:, 1]], axis=0).astype(np.int64)


def test_a_set_of_ids_knows_its_members(tmp_path: Path) -> None:
    ids = IdSet.empty({2: 9, 5: 30})
    members = np.array([2 * FILE, 2 * FILE + 8, 5 * FILE + 29, 5 * FILE + 7])
    ids.add(members)
    ids.save(tmp_path / "deep" / "ids.npz")
    again = IdSet.load(tmp_path / "deep" / "ids.npz")
    every = np.array([*range(2 * FILE, 2 * FILE + 9), *range(5 * FILE, 5 * FILE + 30)])
    for found in (ids, again):
        np.testing.assert_array_equal(every[found.contains(every)], np.sort(members))


def test_ids_of_other_files_are_in_no_set() -> None:
    ids = IdSet.empty({2: 9, 5: 30})
    ids.add(np.arange(2 * FILE, 2 * FILE + 9))
    ids.add(np.arange(5 * FILE, 5 * FILE + 30))
    strangers = np.array([-1, 0, 2 * FILE + 9, 3 * FILE, 5 * FILE + 30, 6 * FILE, 900 * FILE])
    assert not ids.contains(strangers).any()
    for stranger in strangers:
        with pytest.raises(ValueError, match="outside the files"):
            ids.add(np.array([stranger]))


def test_a_set_without_files_is_empty() -> None:
    assert not IdSet.empty({}).contains(np.array([0, 1, FILE])).any()


def test_stretches_of_runs_hold_each_pair_once(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    lists = [random_pairs(rng, count) for count in (50, 1, 90, 0, 30)]
    runs = PairRuns(tmp_path, "near-find")
    assert runs.save(0, iter(lists[:3])) == sum(map(len, lists[:3]))
    runs.save(7, iter(lists[3:]))
    PairRuns(tmp_path, "near-other").save(0, iter([random_pairs(rng, 40)]))
    whole = unique_pairs(lists)
    for most in (1, 7, 40, 10_000):
        stretches = runs.cut(most)
        found = [runs.between(*stretch) for stretch in stretches]
        np.testing.assert_array_equal(np.concatenate(found), whole)
        assert len(stretches) > len(whole) / (most + 5 * max(1, most // 10)) / 2


def test_no_runs_have_no_stretches(tmp_path: Path) -> None:
    runs = PairRuns(tmp_path, "near-find")
    assert runs.cut(10) == []
    runs.save(0, iter([np.empty((0, 2), np.int64)]))
    assert runs.cut(10) == []


def test_stretches_cover_the_pairs_of_two_stages(tmp_path: Path) -> None:
    rng = np.random.default_rng(4)
    one, two = PairRuns(tmp_path, "one"), PairRuns(tmp_path, "two")
    one.save(0, iter([random_pairs(rng, 200)]))
    two.save(0, iter([random_pairs(rng, 20)]))
    stretches = two.cut(30, one)
    assert len(stretches) > 4
    assert sum(len(one.between(*stretch)) for stretch in stretches) == len(one.open()[0])


def test_texts_come_back_in_the_order_of_ids(tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    texts = {int(i): "字" * int(rng.integers(0, 9)) + str(i) for i in rng.permutation(40)}
    files = TextFiles(tmp_path)
    ids = np.array(list(texts))
    for part, some in enumerate(np.array_split(ids, 4)):
        files.save(part // 2, part % 2, some, from_strings([texts[int(i)] for i in some]))
    for wanted in (np.sort(ids), np.array([3]), np.array([0, 7, 39]), ids[:0]):
        found = files.open().fetch(wanted)
        assert [found.text(row) for row in range(len(wanted))] == [texts[int(i)] for i in wanted]


def test_a_text_that_was_not_collected_is_named(tmp_path: Path) -> None:
    files = TextFiles(tmp_path)
    files.save(0, 0, np.array([4, 9]), from_strings(["四", "九"]))
    with pytest.raises(AssertionError, match="no text was collected for pair 5"):
        files.open().fetch(np.array([4, 5, 9]))


def test_the_graph_on_disk_proposes_what_the_one_in_memory_does(tmp_path: Path) -> None:
    rng = np.random.default_rng(6)
    pairs = random_pairs(rng, 400) * 5
    similarities = rng.choice(np.array([0.7, 0.8, 0.9], np.float32), len(pairs))
    edges = edge_table("band", pairs, similarities)
    connection = duck.connect()
    connection.register("edges", edges)
    graph = EdgeGraph(tmp_path / "graph")
    assert not graph.is_built()
    assert graph.build(connection, "edges") == len(np.unique(pairs))
    assert graph.is_built()
    for new_from in (0, 100, 1000):
        settings = DuplicateSettings(neighbors=4)
        expected = neighbor_pairs(edges, pairs[:0], settings, new_from)
        begin, end = graph.rows_from(new_from)
        found = unique_pairs(
            [run for at in range(begin, end) for run in graph.propose(at, at + 1, 4)]
        )
        np.testing.assert_array_equal(found, expected)


def test_a_graph_without_edges_proposes_nothing(tmp_path: Path) -> None:
    connection = duck.connect()
    connection.register(
        "edges", edge_table("band", np.empty((0, 2), np.int64), np.empty(0, np.float32))
    )
    graph = EdgeGraph(tmp_path)
    assert graph.build(connection, "edges") == 0
    assert list(graph.propose(0, 0, 4)) == []
