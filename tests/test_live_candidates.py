"""What a run takes from the lake while it goes on, and that it takes it again at the same step."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from catalog.jobs import open_job
from catalog.lake import Catalog
from catalog.pack import PackSettings, build_pack
from catalog.policies import Condition, Policy
from catalog.policy_commit import commit_policy
from catalog.schema import CANDIDATES
from tests.mined_pack import FILE, RUN, Mined, make_pack
from tests.pack_catalog import KEEP, candidates
from tests.tiny_catalog import copy_catalog
from trainer import live_candidates
from trainer.candidate_lists import Update
from trainer.lake_changes import Marked
from trainer.live_candidates import LiveCandidates
from trainer.negative_rules import NegativeSettings
from trainer.negatives import DynamicNegatives

MARKED: Marked = (np.array([FILE + 4, FILE + 5]), [RUN, RUN])
FRESH = [2 * FILE + n for n in (50, 3, 7, 41, 8, 9, 30, 31, 32, 33, 34, 35, 36)]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Mined:
    return make_pack(tmp_path_factory.mktemp("live"))


@pytest.fixture
def mined(made: Mined, tmp_path: Path) -> Mined:
    """The pack with a catalog of the test's own."""
    return replace(made, catalog=copy_catalog(made.catalog, tmp_path / "corpus"))


def mine_again(mined: Mined, lists: dict[int, list[int]], digest: str | None = None) -> str:
    """Commit a mining run of the snapshot: query id -> passage ids, the second one removed."""
    settings = {"snapshot_digest": digest or mined.snapshot.digest, "lists": repr(lists)}
    with open_job(mined.catalog, "mine", settings, {}) as job:
        rows = candidates(
            job.job_id,
            {q: [(p, 0.5, int(r == 1)) for r, p in enumerate(ids)] for q, ids in lists.items()},
        )
        with job.output.task("mine", 0) as output:
            output.write("candidates", pa.Table.from_pylist(rows, CANDIDATES))
        job.commit()
        return job.job_id


def live_of(mined: Mined, folder: Path) -> LiveCandidates:
    return LiveCandidates(mined.catalog, mined.pack, mined.snapshot, folder, every_steps=10)


def ask(live: LiveCandidates, step: int, marked: Marked = MARKED) -> Update | None:
    """Look after the check of a step; return what is handed out at the next."""
    live.look(step, lambda: marked)
    live.wait()
    return live.take(step + 10)


def test_a_list_mined_again_comes_with_the_next_check(mined: Mined, tmp_path: Path) -> None:
    live = live_of(mined, tmp_path / "run")
    assert live.take(10) is None
    run = mine_again(mined, {FILE + 4: FRESH, FILE + 6: FRESH})
    update = ask(live, 10)
    assert update is not None
    refreshed = update.refreshed
    assert mined.pack.ids("query")[refreshed.queries].tolist() == [FILE + 4]  # 6 is not marked
    kept = [passage for rank, passage in enumerate(FRESH) if rank != 1]
    assert mined.pack.ids("passage")[refreshed.lists[0]].tolist() == kept
    assert refreshed.runs[refreshed.run[0]] == run
    assert update.exclusions is None


def test_only_newer_runs_of_this_snapshot_count(mined: Mined, tmp_path: Path) -> None:
    mine_again(mined, {FILE + 4: FRESH})  # before the start
    live = live_of(mined, tmp_path / "run")
    mine_again(mined, {FILE + 4: FRESH[::-1]}, digest="another snapshot's")
    assert ask(live, 10) is None
    first = mine_again(mined, {FILE + 4: FRESH, FILE + 5: FRESH})
    second = mine_again(mined, {FILE + 4: FRESH[1:] + FRESH[:1]})
    update = ask(live, 20)
    assert update is not None
    assert [update.refreshed.runs[run] for run in update.refreshed.run] == [second, first]
    assert ask(live, 30, (MARKED[0], [second, first])) is None


def test_a_list_that_ends_before_its_first_window_changes_nothing(
    mined: Mined, tmp_path: Path
) -> None:
    live = live_of(mined, tmp_path / "run")
    mine_again(mined, {FILE + 4: FRESH[:11], FILE + 5: [*FRESH[:10], 99, 98, 97]})
    assert ask(live, 10) is None


def test_a_revised_policy_excludes_pairs_and_passages(mined: Mined, tmp_path: Path) -> None:
    live = live_of(mined, tmp_path / "run")
    gone = Condition("gone", "rules", require="positive not in ('p3', 'only a candidate 5')")
    commit_policy(mined.catalog, Policy(KEEP.name, (*KEEP.conditions, gone)))
    update = ask(live, 10)
    assert update is not None
    assert update.exclusions is not None
    pairs, passages = update.exclusions.pairs, update.exclusions.passages
    assert mined.pack.pairs().pair_id[pairs].tolist() == [FILE + 3]
    assert mined.pack.ids("passage")[passages].tolist() == [FILE + 3, 2 * FILE + 5]
    assert ask(live, 20) is None  # this version is known now
    commit_policy(mined.catalog, KEEP)
    update = ask(live, 30)
    assert update is not None
    assert update.exclusions is not None
    assert len(update.exclusions.pairs) == len(update.exclusions.passages) == 0


def test_another_policy_excludes_nothing(mined: Mined, tmp_path: Path) -> None:
    live = live_of(mined, tmp_path / "run")
    nothing = Condition("nothing", "rules", require="false")
    commit_policy(mined.catalog, Policy("other", (nothing,)))
    assert ask(live, 10) is None


def test_a_run_that_goes_on_gets_the_same_at_the_same_step(mined: Mined, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    live = live_of(mined, folder)
    live.take(10)
    mine_again(mined, {FILE + 4: FRESH})
    first = ask(live, 10)
    assert ask(live, 20, (MARKED[0][1:], [RUN])) is None
    mine_again(mined, {FILE + 5: FRESH})
    with (folder / "live.jsonl").open("a") as stream:
        stream.write('{"step": 4')  # killed while it wrote
    again = live_of(mined, folder)  # from a checkpoint of step 0
    for step, expected in ((10, None), (20, first), (30, None)):
        found = again.take(step)
        assert (found is None) == (expected is None)
        if found is not None and expected is not None:
            assert found.refreshed.runs == expected.refreshed.runs
            np.testing.assert_array_equal(found.refreshed.lists, expected.refreshed.lists)
        again.look(step, lambda: MARKED)
        assert (again._thread is not None) == (step == 30)
    again.wait()
    beyond = again.take(40)
    assert beyond is not None
    assert mined.pack.ids("query")[beyond.refreshed.queries].tolist() == [FILE + 4, FILE + 5]
    assert live_of(mined, folder).take(40) is not None


def test_a_look_that_takes_long_blocks_nothing(
    mined: Mined, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from threading import Event

    release = Event()

    def slow(*_: object) -> Update:
        release.wait(20)
        return Update(1)

    monkeypatch.setattr(live_candidates, "find_update", slow)
    live = live_of(mined, tmp_path / "run")
    live.look(10, lambda: MARKED)
    assert live.take(20) is None
    live.look(20, lambda: MARKED)  # the first one still runs
    release.set()
    live.wait()
    assert live.take(30) is None


def test_a_catalog_that_cannot_be_read_stops_no_training(
    mined: Mined, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    live = live_of(mined, tmp_path / "run")
    live.catalog = Catalog(replace(mined.catalog.location, metadata="sqlite:/nowhere/at.all"))
    assert ask(live, 10) is None
    assert "could not be asked for new candidates" in caplog.text
    live.catalog = mined.catalog
    mine_again(mined, {FILE + 4: FRESH})
    assert ask(live, 20) is not None


def test_training_takes_up_a_refreshed_list_and_records_it(mined: Mined, tmp_path: Path) -> None:
    query = int(mined.pack.rows("query", [FILE + 4])[0])
    position = np.flatnonzero(mined.pack.pairs().query == query)[:1]
    live = live_of(mined, tmp_path / "run")
    settings = NegativeSettings("v1", 5, check_every_steps=1)
    negatives = DynamicNegatives(mined.pack, settings, "a", live=live)
    events = []
    for step in range(1, 61):
        if step == 41:
            assert negatives.exhausted_queries().tolist() == [FILE + 4]
            mine_again(mined, {FILE + 4: FRESH})
        mask = negatives.choose(np.array([query])).mask
        score = np.float32(0.6 if step % 2 else 0.1)
        negatives.observe(step, position, np.where(mask, score, np.float32(np.nan)))
        live.wait()
        checked = negatives.check(step)
        assert checked is not None
        events += checked.events.to_pylist()
    (refreshed,) = [event for event in events if event["reason"] == "refreshed"]
    # Looked for after the check of step 50, the first after the commit; taken at the next look.
    assert (refreshed["step"], refreshed["query_id"], refreshed["window"]) == (60, FILE + 4, 1)
    chosen = negatives.choose(np.array([query])).rows[0]
    assert mined.pack.ids("passage")[chosen[:2]].tolist() == FRESH[11:13]
    assert negatives.lists.run_of(np.array([query])) != [RUN]


def test_a_pinned_run_never_looks(
    mined: Mined, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise AssertionError("the lake was asked")

    negatives = DynamicNegatives(
        mined.pack, NegativeSettings("v1", 5, check_every_steps=1), "a", live=None
    )
    monkeypatch.setattr(Catalog, "reader", fail)
    assert all(negatives.check(step) is not None for step in range(1, 30))


def test_looking_never_is_refused_as_an_interval(mined: Mined, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="every_steps is 0; it must be at least 1"):
        LiveCandidates(mined.catalog, mined.pack, mined.snapshot, tmp_path, every_steps=0)


def test_the_pack_of_another_run_is_rebuilt_not_mixed(mined: Mined, tmp_path: Path) -> None:
    run = mine_again(mined, {FILE + 4: FRESH})
    pack = build_pack(
        mined.catalog, mined.snapshot, tmp_path / "pack", PackSettings(candidates_run=run)
    )
    saved = DynamicNegatives(mined.pack, NegativeSettings(), "a").state_dict(0)
    with pytest.raises(ValueError, match=f"candidates_run was '{RUN}', is '{run}'"):
        DynamicNegatives(pack, NegativeSettings(), "a").load_state_dict(saved)
