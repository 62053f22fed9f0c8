"""Looking at candidates: what a run found for a query, with texts, scores and reasons."""

from pathlib import Path

import pytest

from catalog.candidate_table import render_candidates
from catalog.candidates import (
    CandidateList,
    Reason,
    query_candidates,
    read_lists,
    reason_names,
)
from catalog.errors import CatalogError
from catalog.lake import Catalog
from catalog.mining_runs import choose_run
from catalog.pack import lake_window
from catalog.results import display_width
from catalog.snapshots import load_snapshot
from tests.mined_catalog import LIGHT, PIANO, PRICE, RAIN, F, add_run, make_mined
from tests.tiny_catalog import copy_catalog


@pytest.fixture(scope="module")
def mined(tmp_path_factory: pytest.TempPathFactory) -> Catalog:
    """A catalog with a run, not to be changed."""
    return make_mined(tmp_path_factory.mktemp("view") / "corpus")[0]


@pytest.fixture
def own(tmp_path: Path, mined: Catalog) -> Catalog:
    """A copy for the test to change."""
    return copy_catalog(mined, tmp_path / "own")


def look(catalog: Catalog, query_id: int, run: str | None = None) -> CandidateList:
    with catalog.reader() as connection:
        return query_candidates(connection, choose_run(connection, name=run), query_id)


def table(catalog: Catalog, query_id: int, width: int = 100, limit: int | None = 20) -> str:
    with catalog.reader() as connection:
        run = choose_run(connection)
        assert run is not None
        return render_candidates(query_candidates(connection, run, query_id), run, width, limit)


def test_a_list_holds_ranks_scores_reasons_and_texts(mined: Catalog) -> None:
    found = look(mined, PIANO)
    assert (found.query, found.positive_score) == ("怎么学钢琴", pytest.approx(0.8))
    assert [(one.rank, one.passage_id, one.verdict, one.text) for one in found.candidates] == [
        (1, F, "positive, relative-margin", "先学指法，再练曲子。"),
        (2, F + 1, "positive, near-duplicate, relative-margin", "找一位老师。\n每周一次。"),
        (3, F + 2, "relative-margin", "三千到十万都有。"),
        (4, F + 5, "kept", "没有人问的一段话。"),
        (5, F + 3, "kept", "Light is an electromagnetic wave."),
    ]
    assert [one.rank for one in found.kept] == [4, 5]


def test_positives_have_their_rank_and_the_last_revision_of_every_teacher(
    mined: Catalog,
) -> None:
    first, second = look(mined, PIANO).positives
    assert (first.passage_id, first.rank, first.score) == (F, 1, pytest.approx(0.9))
    assert first.teacher_scores == {"bge": 0.875, "m3e": 0.25}  # of the first of the equal pairs
    assert (second.rank, second.teacher_scores) == (2, {})


def test_a_passage_that_was_judged_irrelevant_is_no_positive(mined: Catalog) -> None:
    found = look(mined, RAIN)
    assert (found.positives, found.positive_score) == ((), None)
    assert "0 positives; none is kept, so no margin applies" in table(mined, RAIN)


def test_any_pair_with_the_query_names_it(mined: Catalog) -> None:
    assert look(mined, F + 7) == look(mined, F + 1) == look(mined, PIANO)


def test_windows_are_those_of_the_lake(own: Catalog) -> None:
    entries = [(F + i, 1 - i / 64, 8 * (i % 3 == 0)) for i in range(40)]
    add_run(own, "mine-0002", load_snapshot(own, "v1"), {PRICE: entries}, minute=1)
    found = look(own, PRICE)
    for i in (1, 2, 3):
        window = [one.passage_id for one in found.window(i, 7)]
        assert window == lake_window(own, "mine-0002", PRICE, i, 7)
    assert [len(found.window(i, 7)) for i in (1, 2, 3, 4)] == [7, 7, 2, 0]


def test_the_newest_run_is_shown_unless_another_is_named(own: Catalog) -> None:
    add_run(own, "mine-0002", load_snapshot(own, "v1"), {PRICE: [(F + 5, 0.5, 0)]}, minute=1)
    shown = {run: look(own, PRICE, run) for run in (None, "0002", "0001")}
    assert [one.run for one in shown.values()] == ["mine-0002", "mine-0002", "mine-0001"]
    assert [len(one.candidates) for one in shown.values()] == [1, 1, 3]
    with own.reader() as connection:
        assert len(read_lists(connection, "mine-0001", [PRICE, RAIN])) == 2
    with pytest.raises(CatalogError, match="fits several: mine-0002, mine-0001"):
        look(own, PRICE, "mine-")
    with pytest.raises(CatalogError, match="no mining run 'mine-0009'; did you mean"):
        look(own, PRICE, "mine-0009")
    with pytest.raises(CatalogError, match="it was mined by: mine-0001"):
        look(own, PIANO, "0002")


@pytest.mark.parametrize(
    ("query_id", "message"),
    [
        (7, "there is no pair or query 7, so it was not mined; list queries that were: lode sql"),
        (F + 5, "is a passage without a query"),
        (F + 6, "was not mined by run mine-0001: none of its pairs is kept by snapshot v1 with "
                "task retrieval"),
    ],
)  # fmt: skip
def test_what_was_not_mined_is_named_with_the_next_thing_to_do(
    mined: Catalog, query_id: int, message: str
) -> None:
    with pytest.raises(CatalogError, match=message):
        look(mined, query_id)


def test_a_catalog_without_runs_says_how_to_make_one(empty_catalog: Catalog) -> None:
    with pytest.raises(CatalogError, match="no mining run yet; run: lode mine SNAPSHOT"):
        look(empty_catalog, F)


def test_a_text_that_is_gone_leaves_its_line(own: Catalog) -> None:
    own.transact(lambda c: c.execute("delete from pairs where pair_id = ?", [F + 5]))
    assert look(own, PRICE).candidates[1].text == "(its text is no longer in the catalog)"


def test_the_table_lines_up_and_stays_within_its_width(mined: Catalog) -> None:
    for width in (60, 100, 160):
        lines = table(mined, PIANO, width).splitlines()
        assert all(display_width(line) <= width for line in lines)
        assert lines[1].startswith("run mine-0001: snapshot v1, bge revision 1, exact search")
        start = next(line for line in lines if "verdict" in line).index("passage")
        texts = ("先学指法", "找一位老师。 每", "三千到十", "没有人问", "Light is")
        rows = lines[lines.index("5 candidates, 2 kept") + 2 :]
        for line, text in zip(rows, texts, strict=True):
            assert display_width(line[: line.index(text[:3])]) == start
    assert "bge 0.8750, m3e 0.2500" in table(mined, PIANO)


def test_the_table_says_what_it_leaves_out(mined: Catalog) -> None:
    cut = table(mined, PIANO, limit=2)
    assert cut.endswith("the first 2 are shown; --limit shows more")
    assert "三千" not in cut
    assert "--limit" not in table(mined, PIANO, limit=None)
    with pytest.raises(ValueError, match="limit is 0; it must be at least 1"):
        table(mined, PIANO, limit=0)


def test_control_characters_do_not_reach_the_terminal(own: Catalog) -> None:
    change = "update pairs set query = ?, positive = ? where pair_id = ?"
    own.transact(lambda c: c.execute(change, ["问\x1b[31m", "答\r\x07红", PRICE]))
    shown = table(own, PRICE)
    assert "\x1b" not in shown
    assert "问�[31m" in shown
    assert "答 �红" in shown


def test_a_query_of_which_nothing_is_left_says_so(mined: Catalog) -> None:
    assert "2 candidates, 0 kept" in table(mined, LIGHT)


def test_every_reason_has_a_name() -> None:
    assert reason_names(sum(Reason)) == [
        "positive",
        "same-text",
        "near-duplicate",
        "relative-margin",
        "absolute-margin",
        "max-score",
        "cross-encoder",
    ]
    assert reason_names(0) == []
