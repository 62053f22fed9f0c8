"""Round trips: does the model find the passage again that a query was written about?"""

from pathlib import Path

import pytest

from catalog.lake import Catalog
from catalog.policies import Condition, Policy
from catalog.policy_commit import commit_policy
from catalog.snapshots import Snapshot
from tests.mined_catalog import LIGHT, PRICE, RAIN, F, add_run, make_mined
from tests.tiny_catalog import fetch


@pytest.fixture
def mined(tmp_path: Path) -> tuple[Catalog, Snapshot]:
    return make_mined(tmp_path / "corpus")


def trips(catalog: Catalog) -> dict[int, tuple[int, int | None]]:
    rows = fetch(catalog, "from round_trips order by pair_id")
    return {pair_id - F: (rank, better and better - F) for pair_id, rank, better in rows}


def test_a_rank_counts_from_one_and_known_positives_are_not_better(mined) -> None:
    assert trips(mined[0]) == {
        0: (1, None), 1: (2, None),  # of one query; the pair 7 is written below
        2: (1, None), 3: (1, None), 4: (1, None), 7: (1, None),
    }  # fmt: skip


def test_the_newest_run_tells_and_names_the_better_passage(mined) -> None:
    catalog, snapshot = mined
    lists = {
        PRICE: [(F + 4, 0.9, 4), (F + 5, 0.8, 0), (F + 3, 0.78, 0), (F + 2, 0.7, 9)],
        LIGHT: [(F + 2, 0.74, 8), (F + 5, 0.5, 0)],  # its own passage is not in the list
        RAIN: [],
    }
    add_run(catalog, "mine-0000", snapshot, lists, minute=2)
    add_run(catalog, "mine-0002", snapshot, {PRICE: [(F + 2, 0.9, 9)]}, minute=1)
    found = trips(catalog)
    assert found[2] == (4, 5)  # the near-duplicate before it is not counted as better
    assert found[3] == (3, 2)
    assert found[4] == (1, None)
    assert found[0] == (1, None)  # only the older run searched for it


def test_a_policy_can_ask_for_it(mined) -> None:
    catalog, snapshot = mined
    lists = {PRICE: [(F + 5, 0.8, 0), (F + 2, 0.7, 9)]}
    add_run(catalog, "mine-0002", snapshot, lists, minute=1)
    low = Condition("not_found_again", "quality", require="round_trip_rank <= 1")
    commit_policy(catalog, Policy("round", (low,)))
    rejected = fetch(catalog, "select pair_id from verdicts where not kept order by 1")
    assert F + 2 in [row[0] for row in rejected]
    kept = {row[0] for row in fetch(catalog, "select pair_id from verdicts where kept")}
    assert {F, F + 3, F + 7} <= kept
    assert F + 1 not in kept
