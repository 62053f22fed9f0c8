"""Mining again for the queries whose candidate lists a training run has used up."""

from dataclasses import replace

import pytest

from catalog.errors import CatalogError
from catalog.lake import Catalog
from catalog.mining_runs import choose_run
from catalog.pack import PackSettings, build_pack
from catalog.schema import TRAIN_EVENTS
from catalog.snapshots import load_snapshot
from mining.candidates import FilterSettings
from mining.exhausted import exhausted_queries
from tests.test_mine import SETTINGS, run
from tests.test_mine import corpus as corpus
from tests.test_mine import template as template
from tests.tiny_catalog import A, add_table, fetch
from trainer.live_candidates import LiveCandidates

# (run, step, query, reason): of run a queries 3 and 7 wait for a list, 5 has got one, 9 never did.
EVENTS = [
    ("a", 100, 3, "replaced"), ("a", 200, 3, "exhausted"), ("a", 200, 5, "exhausted"),
    ("a", 300, 5, "refreshed"), ("a", 100, 7, "exhausted"), ("a", 200, 7, "refreshed"),
    ("a", 300, 7, "exhausted"), ("a", 300, 9, "replaced"), ("b", 10, 1, "replaced"),
]  # fmt: skip


def mark(catalog: Catalog, events: list[tuple[str, int, int, str]]) -> None:
    rows = [
        {"run": run, "step": step, "pair_id": A + query, "query_id": A + query, "window": 1,
         "rank": None, "s0": 0.9, "s": 0.5, "reason": reason}
        for run, step, query, reason in events
    ]  # fmt: skip
    add_table(catalog, "train_events", rows, TRAIN_EVENTS)


def test_queries_that_wait_for_a_list_are_those_marked_last(corpus: Catalog) -> None:
    mark(corpus, EVENTS)
    found = exhausted_queries(corpus, "a")
    assert (found.query_ids - A).tolist() == [3, 7]
    assert exhausted_queries(corpus).train_run == "a"  # the only one with marks


def test_what_cannot_be_mined_again_is_named(corpus: Catalog) -> None:
    with pytest.raises(CatalogError, match="used up candidate lists: none; name one"):
        exhausted_queries(corpus)
    mark(corpus, [*EVENTS, ("c", 5, 2, "exhausted"), ("c", 9, 2, "refreshed")])
    with pytest.raises(CatalogError, match="'b' has used up no candidate list"):
        exhausted_queries(corpus, "b")
    with pytest.raises(CatalogError, match="no training run with events 'bb'"):
        exhausted_queries(corpus, "bb")
    with pytest.raises(CatalogError, match="lists: a, c; name one"):
        exhausted_queries(corpus)
    with pytest.raises(CatalogError, match="'c' waits for no list"):
        exhausted_queries(corpus, "c")


def test_marked_queries_get_what_a_whole_run_gives_them_and_a_live_run_takes_it(
    corpus: Catalog, tmp_path
) -> None:
    snapshot = load_snapshot(corpus, "v1")
    deep = replace(SETTINGS, depth=60, filters=FilterSettings(relative_margin=None))
    whole = run(corpus, deep)
    mark(corpus, EVENTS)
    pack = build_pack(corpus, snapshot, tmp_path / "pack", PackSettings(whole.run))
    live = LiveCandidates(corpus, pack, snapshot, tmp_path / "run", every_steps=10)
    again = run(corpus, replace(deep, train_run="a"))
    assert again.run != whole.run
    assert again.queries == 2
    with corpus.reader() as connection:
        # A part is never the newest run of a snapshot.
        assert choose_run(connection, snapshot).run_id == whole.run
    columns = "query_id, passage_ids, scores, filtered_by, positive_score"
    assert fetch(
        corpus,
        f"select {columns} from candidates where run = '{again.run}' order by query_id",
    ) == fetch(
        corpus,
        f"select {columns} from candidates where run = '{whole.run}' "
        f"and query_id in ({A + 3}, {A + 7}) order by query_id",
    )
    marked = exhausted_queries(corpus, "a").query_ids
    live.look(10, lambda: (marked, [whole.run] * len(marked)))
    live.wait()
    update = live.take(20)
    assert update is not None
    assert pack.ids("query")[update.refreshed.queries].tolist() == marked.tolist()
    assert {update.refreshed.runs[place] for place in update.refreshed.run} == {again.run}


def test_more_marks_are_another_run(corpus: Catalog) -> None:
    settings = replace(SETTINGS, train_run="a")
    mark(corpus, EVENTS)
    first = run(corpus, settings)
    assert run(corpus, settings).run == first.run
    mark(corpus, [*EVENTS, ("a", 400, 9, "exhausted")])
    assert run(corpus, settings).queries == 3
