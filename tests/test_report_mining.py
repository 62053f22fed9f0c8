"""The mining part of a report: its numbers are those of the candidates, and its page is whole."""

import re
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from catalog.candidates import Reason
from catalog.lake import Catalog
from catalog.mining_runs import choose_run
from catalog.policies import Condition, Policy
from catalog.report import gather_report, titles, write_report
from catalog.report.data import MiningData, ReportData
from catalog.report.mining import gather_mining, hash_limit, quantiles_of
from catalog.report.mining_facts import rule_of
from catalog.report.page import FOLDER, render
from catalog.report.ranks import MAX_GROUPS, rank_groups
from catalog.report.samples import HIGHEST_HASH
from catalog.snapshots import create_snapshot, load_snapshot
from tests.mined_catalog import LIGHT, LISTS, PIANO, PRICE, RAIN, SPEC, F, add_run, make_mined
from tests.pack_catalog import KEEP
from tests.tiny_catalog import copy_catalog

KNOWN = 1 + 2 + 4
ENTRIES = [(rank, *entry) for entries in LISTS.values() for rank, entry in enumerate(entries, 1)]


@pytest.fixture(scope="module")
def mined(tmp_path_factory: pytest.TempPathFactory) -> Catalog:
    """A catalog with a run, not to be changed."""
    return make_mined(tmp_path_factory.mktemp("mined") / "corpus")[0]


@pytest.fixture(scope="module")
def found(mined: Catalog) -> MiningData:
    data = gather_mining(mined, "v1", KEEP)
    assert data is not None
    return data


@pytest.fixture
def own(tmp_path: Path, mined: Catalog) -> Catalog:
    """A copy for the test to change."""
    return copy_catalog(mined, tmp_path / "own")


def newest(catalog: Catalog, max_queries: int = 1000) -> MiningData:
    data = gather_mining(catalog, "v1", KEEP, max_queries)
    assert data is not None
    return data


def test_totals_count_every_candidate(found: MiningData) -> None:
    assert (found.queries, found.measured_queries, found.without_negative) == (4, 4, 1)
    assert (found.candidates, found.measured_candidates, found.kept) == (12, 12, 5)
    assert titles.mining(found) == "5 of 12 candidates are kept, 1.2 a query"
    assert titles.measured(found) == "Measured on all 4 queries."


def test_every_reason_that_the_run_used_is_counted_and_counted_alone(found: MiningData) -> None:
    counted = {one.name: (one.candidates, one.alone) for one in found.removals}
    reasons = [entry[3] for entry in ENTRIES]
    assert counted == {
        "positive": (sum(r & 1 > 0 for r in reasons), 0),
        "same-text": (0, 0),
        "near-duplicate": (2, 1),
        "relative-margin": (sum(r & 8 > 0 for r in reasons), reasons.count(8)),
    }
    assert titles.removals(found) == "relative-margin removes the most: 50.0% of all candidates"


def test_groups_part_positives_what_was_removed_for_its_score_and_what_is_kept(
    found: MiningData,
) -> None:
    counted = {one.name: (one.total, one.median) for one in found.groups}
    fine = (found.high - found.low) / 400
    assert counted == {
        "positives": (3, pytest.approx(0.75, abs=fine)),
        "removed for their score": (2, pytest.approx(0.74, abs=fine)),
        "kept": (5, pytest.approx(0.25, abs=fine)),
    }
    assert (found.low, found.high) == (pytest.approx(-0.25), pytest.approx(0.9))


def test_ranks_say_what_became_of_the_candidates_at_each(found: MiningData) -> None:
    for row in found.ranks:
        here = [entry for entry in ENTRIES if row.first <= entry[0] <= row.last]
        kept = sum(reasons == 0 for *_, reasons in here)
        known = sum(reasons & KNOWN > 0 for *_, reasons in here)
        assert (row.kept, row.known, row.removed) == (kept, known, len(here) - kept - known)
        low, high = min(e[2] for e in here), max(e[2] for e in here)
        assert all(low - 0.002 <= quantile <= high + 0.002 for quantile in row.quantiles)
    assert [(row.first, row.last) for row in found.ranks] == [(i, i) for i in range(1, 6)]


def test_closeness_leaves_out_known_answers_and_queries_without_a_positive(
    found: MiningData,
) -> None:
    drawn = found.closeness
    assert drawn is not None
    assert (drawn.measured, drawn.failed, drawn.thresholds) == (5, 2, (0.95,))
    filled = [(bar.low, bar.passed, bar.failed) for bar in drawn.bars if bar.pairs]
    shares = [0.3125, 0.625, 0.6667, 0.9867, 0.9875]
    assert [low for low, _, _ in filled] == pytest.approx(
        sorted({0.025 * int(share / 0.025) for share in shares})
    )
    assert all(not failed for low, _, failed in filled if low < 0.949)


def test_queries_are_shown_in_the_order_of_their_hashes(mined: Catalog, found: MiningData) -> None:
    with mined.reader() as connection:
        ids = connection.execute(
            "select query_id from candidates order by md5_number_lower('report query ' || query_id)"
        ).fetchall()
    assert [one.query_id for one in found.lists] == [query_id for (query_id,) in ids]
    assert {one.query_id: len(one.positives) for one in found.lists} == {
        PIANO: 2, PRICE: 1, LIGHT: 1, RAIN: 0,
    }  # fmt: skip


def test_the_order_of_rows_changes_nothing(own: Catalog, found: MiningData) -> None:
    own.transact(
        lambda c: c.execute(
            "create temp table t as from candidates; delete from candidates; "
            "insert into candidates select * from t order by query_id desc"
        )
    )
    assert newest(own) == found


def test_many_queries_are_sampled_by_hash_and_the_page_says_so(own: Catalog) -> None:
    lists = {F + i: [(F, i / 400, 0), (F + 1, 0.5, 8 * (i % 2))] for i in range(400)}
    add_run(own, "mine-0002", load_snapshot(own, "v1"), lists, minute=1)
    sampled = newest(own, max_queries=100)
    with own.reader() as connection:
        measured = connection.execute(
            "select query_id from candidates where run = 'mine-0002' "
            "and md5_number_lower('report query ' || query_id) <= ?::ubigint",
            [hash_limit(400, 100)],
        ).fetchall()
    assert 70 < len(measured) < 130
    assert sampled.measured_queries == len(measured)
    assert sampled.measured_candidates == 2 * len(measured)
    assert sampled.groups[0].total == len(measured)  # positives
    assert (sampled.queries, sampled.candidates, sampled.kept) == (400, 800, 600)
    removed = sum((query_id - F) % 2 for (query_id,) in measured)
    assert {r.name: r.candidates for r in sampled.removals}["relative-margin"] == removed
    assert f"measured on {len(measured)} of 400 queries, chosen by a hash" in titles.measured(
        sampled
    )
    assert hash_limit(100, 100) == HIGHEST_HASH


def test_the_run_shown_is_the_newest_of_the_same_rows_or_of_the_policy(own: Catalog) -> None:
    add_run(own, "mine-0000", load_snapshot(own, "v1"), {PRICE: [(F, 0.5, 0)]}, minute=2)
    other = Policy("other", (Condition("web", "rules", require="source = 'web'"),))
    create_snapshot(own, "v2")  # the same rows
    own.transact(lambda c: c.execute("delete from pairs where pair_id = ?", [F + 3]))
    create_snapshot(own, "v3")
    for snapshot, policy in (("v1", KEEP), ("v2", KEEP), (None, KEEP)):
        data = gather_mining(own, snapshot, policy)
        assert data is not None
        assert data.run == "mine-0000"
    assert gather_mining(own, "v3", KEEP) is None
    assert gather_mining(own, None, other) is None


def test_a_page_without_a_run_is_as_it_was(mined: Catalog, own: Catalog) -> None:
    with_run = gather_report(mined, "v1")
    own.transact(lambda c: c.execute("delete from runs where kind = 'mine'"))
    without = gather_report(own, "v1")
    assert without == replace(with_run, mining=None)
    page = render(with_run)
    style = (FOLDER / "mining.css").read_text(encoding="utf-8")
    before, after = page.index('<section id="mining">'), page.index("</main>")
    assert (page[:before] + page[after:]).replace(style, "") == render(without)


def test_a_run_whose_candidates_are_gone_is_not_shown(own: Catalog) -> None:
    own.transact(lambda c: c.execute("delete from candidates"))
    assert gather_mining(own, "v1", KEEP) is None


def test_the_page_shows_what_was_mined(mined: Catalog, tmp_path: Path) -> None:
    write_report(mined, "v1", tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    check_pictures(page, 5)
    for section in ("mining", "removals", "candidates"):
        assert f'<section id="{section}">' in page
    for fact in (
        "mine-0001",
        "relative 0.95",
        "v1 (lake version",
        "bge, revision 1",
        "2026-11-20 12:00 UTC",
    ):
        assert fact in page
    assert "1 query has no negative" in page
    assert "s ≥ s⁺ − |s⁺| · (1 − 0.95)" in page
    assert "positive, near-duplicate, relative-margin" in page
    assert "what is &lt;b&gt;light&lt;/b&gt;" in page
    assert "<b>light" not in page
    assert "rank 1: 25.0% kept, 0% removed for their score, 75.0% known to answer" in page
    assert re.findall(r"(?:src|href)\s*=|@import|url\(", page) == []


@pytest.mark.parametrize(
    ("lists", "pictures"),
    [
        ({PIANO: [(F + 5, 0.5, 0), (F + 3, 0.5, 0)], PRICE: [(F + 5, 0.5, 0)]}, 5),
        ({RAIN: [(F + 5, -0.5, 0)]}, 4),  # no positive: nothing to be close to
        ({RAIN: []}, 0),
        ({PRICE: [(F + i, 1 - i / 999, 0) for i in range(999)]}, 5),
    ],
    ids=["ties", "no-positive", "nothing-found", "deep"],
)
def test_unusual_runs_have_a_page(
    own: Catalog, lists: dict[int, list[tuple[int, float, int]]], pictures: int
) -> None:
    add_run(own, "mine-0002", load_snapshot(own, "v1"), lists, minute=1)
    data = newest(own)
    assert data.run == "mine-0002"
    page = render(ReportData("t", "p", (), mining=data))
    check_pictures(page, pictures)
    assert "nan" not in page
    assert "No candidate was removed" in page or not pictures


def test_settings_become_facts_and_rules(own: Catalog) -> None:
    add_run(
        own,
        "mine-0002",
        load_snapshot(own, "v1"),
        LISTS,
        minute=1,
        miners=["hnsw", "bm25"],
        filters={"relative_margin": None, "absolute_margin": 0.1, "max_score": 0.9},
        relevance={"model": "reranker", "min_score": 0.5, "ranks": 50},
        embeddings={"query": {**SPEC, "instruction": "搜索："}, "passage": SPEC},
        found={"passages": 6, "recall": 0.98765},
    )
    data = newest(own)
    assert dict(data.facts) | {
        "query instruction": "搜索：", "search": "hnsw + bm25", "recall of the index": "0.9877",
        "margins": "absolute 0.1, max score 0.9",
    } == dict(data.facts)  # fmt: skip
    rules = {one.name: one.rule for one in data.removals}
    assert rules["absolute-margin"] == "s ≥ s⁺ − 0.1"
    assert rules["max-score"] == "s > 0.9"
    assert rules["cross-encoder"] == "reranker says 0.5 or more (the first 50 that are left)"
    assert "relative-margin" not in rules
    assert data.closeness is not None
    assert data.closeness.thresholds == ()


def test_quantiles_of_bins_are_those_of_the_values() -> None:
    values = np.sort(np.random.default_rng(7).normal(0.3, 0.1, 20_000).clip(-0.2, 0.8))
    counts = np.histogram(values, 800, (-0.2, 0.8))[0].astype(np.int64)
    shares = (0.1, 0.25, 0.5, 0.75, 0.9)
    found = quantiles_of(counts, -0.2, 1 / 800, shares)
    assert found == pytest.approx(np.quantile(values, shares).tolist(), abs=1 / 800)


@pytest.mark.parametrize("depth", [1, 2, 10, 200, 10_000])
def test_rank_groups_hold_every_rank_once_and_few_at_the_front(depth: int) -> None:
    groups = rank_groups(depth)
    assert [r for first, last in groups for r in range(first, last + 1)] == [*range(1, depth + 1)]
    assert groups[: min(depth, 10)] == [(r, r) for r in range(1, min(depth, 10) + 1)]
    assert len(groups) <= MAX_GROUPS


def test_every_reason_has_a_rule_or_was_not_asked_for(mined: Catalog) -> None:
    with mined.reader() as connection:
        run = choose_run(connection)
    assert run is not None
    unused = [reason for reason in Reason if rule_of(reason, run) is None]
    assert unused == [Reason.ABSOLUTE_MARGIN, Reason.MAX_SCORE, Reason.CROSS_ENCODER]


def check_pictures(page: str, pictures: int) -> None:
    """Check that the mining part of a page is whole markup with so many drawings."""
    part = page[page.index('<section id="mining">') : page.index("</main>")]
    tree = ElementTree.fromstring(f"<main>{part}</main>")
    assert len(tree.findall(".//{http://www.w3.org/2000/svg}svg")) == pictures
