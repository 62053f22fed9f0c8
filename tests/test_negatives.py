"""Dynamic hard negatives, against the rules worked out query by query."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from catalog.pack import NONE
from tests.mined_pack import Mined, make_pack, positions_of, score_of
from tests.slow_negatives import BATCH, CHECK_EVERY_STEPS, STEPS, Event, N, slow_v1, slow_v2
from trainer.candidate_lists import Exclusions, Refreshed, Update
from trainer.negative_rules import NegativeSettings, hardest_below_margin, is_too_easy
from trainer.negatives import DynamicNegatives, load_negatives, save_negatives

V1 = NegativeSettings("v1", N, check_every_steps=CHECK_EVERY_STEPS)
V2 = NegativeSettings.published("v2", N)
RESCORED = NegativeSettings("rescored", N, check_every_steps=6, pool=9)


@pytest.fixture(scope="module")
def mined(tmp_path_factory: pytest.TempPathFactory) -> Mined:
    return make_pack(tmp_path_factory.mktemp("negatives"))


def scores_of(step: int, queries: npt.NDArray[Any], rows: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Score passages of a batch, NaN where there is none."""
    return np.array(
        [
            [np.nan if p == NONE else score_of(step, q, p) for p in passages]
            for q, passages in zip(queries.tolist(), rows.tolist(), strict=True)
        ],
        np.float32,
    ).reshape(rows.shape)


def train(
    negatives: DynamicNegatives, first: int = 1, last: int = STEPS
) -> tuple[list[npt.NDArray[Any]], list[Event]]:
    """Make steps; return what was chosen at each and all events, without the run's name."""
    chosen, events = [], []
    for step in range(first, last + 1):
        positions = positions_of(step, BATCH, len(negatives.pack))
        queries = negatives.pack.pairs().query[positions]
        rows = negatives.choose(queries).rows
        chosen.append(rows)
        negatives.observe(step, positions, scores_of(step, queries, rows))
        checked = negatives.check(step)
        if checked is not None:
            events += [tuple(row.values())[1:] for row in checked.events.to_pylist()]
    return chosen, events


def as_lists(chosen: list[npt.NDArray[Any]]) -> list[list[list[int]]]:
    return [[[p for p in row if p != NONE] for row in rows.tolist()] for rows in chosen]


def in_order(events: Sequence[Event]) -> list[Event]:
    return sorted(events, key=str)


def test_v1_is_the_seed_algorithm(mined: Mined) -> None:
    chosen, events = train(DynamicNegatives(mined.pack, V1, "a"))
    slow_chosen, slow_events = slow_v1(mined)
    assert as_lists(chosen) == slow_chosen
    assert in_order(events) == in_order(slow_events)
    reasons = [event[-1] for event in events]
    assert reasons.count("replaced") > 50
    assert reasons.count("exhausted") > 5


def test_v2_is_its_rule_negative_by_negative(mined: Mined) -> None:
    chosen, events = train(DynamicNegatives(mined.pack, V2, "a"))
    slow_chosen, slow_events = slow_v2(mined)
    assert [rows.tolist() for rows in chosen] == slow_chosen
    assert in_order(events) == in_order(slow_events)
    assert {event[-1] for event in events} == {"replaced", "exhausted"}


def test_static_never_replaces(mined: Mined) -> None:
    negatives = DynamicNegatives(mined.pack, NegativeSettings("static", N), "a")
    chosen, events = train(negatives)
    assert events == []
    assert as_lists(chosen[:1]) == as_lists([negatives.choose(query_rows(mined, 1)).rows])
    checked = negatives.check(200)
    assert checked is not None
    assert -1 < checked.mean_score < 1


def test_sampled_draws_among_the_ranks_of_its_range_and_never_replaces(mined: Mined) -> None:
    settings = NegativeSettings("sampled", N, ranks_from=2, ranks_to=20)
    negatives = DynamicNegatives(mined.pack, settings, "a")
    queries = np.arange(mined.pack.num_texts("query"))
    lists, _ = mined.pack.candidates.best(queries, 40)
    chosen = negatives.choose(queries).rows
    used = np.zeros(20, int)
    for own, candidates in zip(chosen, lists, strict=True):
        within = [p for p in candidates[2:20].tolist() if p != NONE]
        there = [p for p in own.tolist() if p != NONE]
        assert len(set(there)) == len(there) == min(N, len(within))
        assert set(there) <= set(within)
        if len(within) == 18:
            used[[candidates.tolist().index(p) for p in there]] += 1
    # Every rank is drawn, and those outside never.
    assert (used[2:] > 0).all()
    assert not used[:2].any()
    again = DynamicNegatives(mined.pack, settings, "b").choose(queries[::-1]).rows[::-1]
    assert again.tolist() == chosen.tolist()
    other = NegativeSettings("sampled", N, ranks_from=2, ranks_to=20, draw_seed=2)
    assert DynamicNegatives(mined.pack, other, "c").choose(queries).rows.tolist() != chosen.tolist()
    assert train(negatives)[1] == []


def query_rows(mined: Mined, step: int) -> npt.NDArray[Any]:
    pairs = mined.pack.pairs()
    rows: npt.NDArray[Any] = pairs.query[positions_of(step, BATCH, len(pairs))]
    return rows


def watch_one(
    mined: Mined, settings: NegativeSettings, scores: Sequence[float], query: int = 0
) -> tuple[DynamicNegatives, list[Event]]:
    """Give one query these scores at steps 1, 2, …, all its negatives the same."""
    negatives = DynamicNegatives(mined.pack, settings, "a")
    position = int(np.flatnonzero(mined.pack.pairs().query == query)[0])
    events: list[Event] = []
    for step, score in enumerate(scores, start=1):
        mask = negatives.choose(np.array([query])).mask
        seen = np.where(mask, np.float32(score), np.float32(np.nan))
        negatives.observe(step, np.array([position]), seen)
        checked = negatives.check(step)
        if checked is not None:
            events += [tuple(row.values())[1:] for row in checked.events.to_pylist()]
    return negatives, events


EACH = NegativeSettings("v1", N, check_every_steps=1)


@pytest.mark.parametrize(
    ("s0", "s", "fires"),
    [
        (0.75, 0.5, True),
        (0.75, 0.75, False),
        (0.92, 0.8, False),  # 1.15 * 0.8 = 0.92 and |s| < 0.8: both are strict
        (0.93, 0.79, True),
        (0.99, 0.81, False),  # dropped enough, but still too hard to give up
        (0.5, -0.79, True),
        (0.5, -0.81, False),
        (-0.1, -0.05, False),
    ],
)
def test_v1_fires_in_its_band(mined: Mined, s0: float, s: float, fires: bool) -> None:
    assert len(watch_one(mined, EACH, [s0, s])[1]) == fires


@pytest.mark.parametrize(
    ("s0", "s", "fires"),
    [
        (0.39, 0.39, True),  # too easy from the start
        (0.4, 0.4, False),
        (0.6, 0.5, False),  # 1.2 * 0.5 = 0.6 is not below it
        (0.6, 0.49, True),
        (0.9, 0.7, False),
        (0.9, 0.69, True),
    ],
)
def test_v2_fires_in_its_band(s0: float, s: float, fires: bool) -> None:
    first, newest = np.array([s0], np.float64), np.array([s], np.float64)
    assert is_too_easy(first, newest, V2).tolist() == [fires]  # type: ignore[arg-type]


def test_a_single_observation_replaces_nothing_whatever_it_is(mined: Mined) -> None:
    # 1.15 * s < s holds for every negative s: one pass over the data must not fire by it.
    assert watch_one(mined, EACH, [-0.5])[1] == []
    assert len(watch_one(mined, EACH, [-0.5, -0.5])[1]) == 1


def test_the_first_score_of_a_new_window_is_its_own_start(mined: Mined) -> None:
    negatives, events = watch_one(mined, EACH, [0.7, 0.3, 0.3, 0.3, 0.25])
    assert [(event[0], event[3]) for event in events] == [(2, 2), (5, 3)]
    assert np.isnan(negatives.state.s0[0, 0])


def test_nothing_is_decided_before_the_interval_ends(mined: Mined) -> None:
    negatives, events = watch_one(mined, V1, [0.9, 0.1, 0.1, 0.1, 0.1])
    assert events == []
    assert negatives.state.window[0] == 1
    assert np.isnan(negatives.state.s0).all()
    checked = negatives.check(6)
    assert checked is not None
    assert checked.counts == {"replaced": 1}


def test_an_ended_list_keeps_its_last_window_and_is_marked_once(mined: Mined) -> None:
    query = next(row for row, kept in mined.kept.items() if len(kept) == 10 + 2 * N + 3)
    scores = [0.7, 0.1] * 6
    negatives, events = watch_one(mined, EACH, scores, query)
    assert [event[-1] for event in events] == ["replaced", "replaced", "exhausted"]
    assert negatives.state.window[query] == 3
    chosen = negatives.choose(np.array([query]))
    assert chosen.mask.tolist() == [[True, True, True, False, False]]  # three are left of five
    assert chosen.rows[0, :3].tolist() == mined.kept[query][-3:]
    assert negatives.exhausted_queries().tolist() == [mined.pack.ids("query")[query]]


def test_a_query_without_candidates_has_no_negatives_and_no_events(mined: Mined) -> None:
    for query in (9, next(row for row, kept in mined.kept.items() if 0 < len(kept) <= 10)):
        negatives, events = watch_one(mined, EACH, [0.7, 0.1, 0.1], query)
        assert events == []
        assert not negatives.choose(np.array([query])).mask.any()
        assert not negatives.state.exhausted.any()


@pytest.mark.parametrize("settings", [V1, V2, RESCORED], ids=lambda s: s.rule)
@pytest.mark.parametrize("stop", [72, 75])
def test_a_run_that_goes_on_equals_one_that_never_stopped(
    mined: Mined, settings: NegativeSettings, stop: int, tmp_path: Path
) -> None:
    whole = DynamicNegatives(mined.pack, settings, "a", score=hash_scores)
    chosen, events = train(whole)
    part = DynamicNegatives(mined.pack, settings, "a", score=hash_scores)
    first_chosen, first_events = train(part, last=stop)
    save_negatives(tmp_path / "negatives.npz", part.state_dict(stop))
    train(part, first=stop + 1, last=stop + 20)  # these steps are lost
    again = DynamicNegatives(mined.pack, settings, "a", score=hash_scores)
    again.load_state_dict(load_negatives(tmp_path / "negatives.npz"))
    rest_chosen, rest_events = train(again, first=stop + 1)
    assert all(map(np.array_equal, [*first_chosen, *rest_chosen], chosen))
    assert first_events + rest_events == events
    for name, column in whole.state_dict(STEPS).items():
        np.testing.assert_array_equal(again.state_dict(STEPS)[name], column, err_msg=name)


def test_a_state_of_other_settings_is_refused(mined: Mined) -> None:
    saved = DynamicNegatives(mined.pack, V1, "a").state_dict(0)
    other = DynamicNegatives(mined.pack, EACH, "a")
    with pytest.raises(ValueError, match=r"check_every_steps was 6, is 1; resume with the pack"):
        other.load_state_dict(saved)


class Processes:
    """Threads that gather bytes from each other, as processes do."""

    def __init__(self, count: int) -> None:
        self.count, self.barrier = count, Barrier(count)
        self.payloads: list[bytes] = [b""] * count

    def gather_of(self, process: int) -> Callable[[bytes], Sequence[bytes]]:
        def gather(payload: bytes) -> Sequence[bytes]:
            self.payloads[process] = payload
            self.barrier.wait(timeout=20)
            found = list(self.payloads)
            self.barrier.wait(timeout=20)
            return found

        return gather

    def run(self, work: Callable[[int], Any]) -> list[Any]:
        with ThreadPoolExecutor(self.count) as pool:
            return [done.result() for done in [pool.submit(work, p) for p in range(self.count)]]


@pytest.mark.parametrize("settings", [V1, V2], ids=lambda s: s.rule)
@pytest.mark.parametrize("share", ["queries", "negatives"])
def test_every_number_of_processes_decides_the_same(
    mined: Mined, settings: NegativeSettings, share: str
) -> None:
    whole = DynamicNegatives(mined.pack, settings, "a")
    chosen, events = train(whole, last=60)
    assert events

    def work(process: int) -> tuple[list[Event], dict[str, npt.NDArray[Any]]]:
        own = DynamicNegatives(mined.pack, settings, "a", gather=processes.gather_of(process))
        found: list[Event] = []
        for step in range(1, 61):
            positions = positions_of(step, BATCH, len(mined.pack))
            queries = mined.pack.pairs().query[positions]
            rows = own.choose(queries).rows
            np.testing.assert_array_equal(rows, chosen[step - 1])
            scores = scores_of(step, queries, rows)
            if share == "queries":
                positions, scores = positions[process::3], scores[process::3]
            else:  # the same queries everywhere, a third of the negatives
                scores[:, np.arange(N) % 3 != process] = np.nan
            own.observe(step, positions, scores)
            checked = own.check(step)
            if checked is not None:
                found += [tuple(row.values())[1:] for row in checked.events.to_pylist()]
        return found, own.state_dict(60)

    processes = Processes(3)
    state = whole.state_dict(60)
    for found, own_state in processes.run(work):
        assert found == events
        for name, column in state.items():
            np.testing.assert_array_equal(own_state[name], column, err_msg=name)


def test_processes_at_different_steps_are_refused(mined: Mined) -> None:
    def gather(payload: bytes) -> Sequence[bytes]:
        return [payload, b"\x07" + payload[1:]]

    negatives = DynamicNegatives(mined.pack, EACH, "a", gather=gather)
    with pytest.raises(RuntimeError, match="step 1 here and at 7 on another process"):
        negatives.check(1)


def hash_scores(queries: npt.NDArray[Any], passages: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Score by a model that does not change; positives are at 0.9."""
    scores = scores_of(0, queries, passages)
    scores[:, 0] = 0.9
    return scores


def test_rescored_takes_the_hardest_of_the_pool_below_the_margin(mined: Mined) -> None:
    settings = NegativeSettings("rescored", N, check_every_steps=1, pool=9)
    negatives = DynamicNegatives(mined.pack, settings, "a", score=hash_scores)
    positions = np.flatnonzero(mined.pack.pairs().query == 0)[:1]
    for step, score in ((1, 0.7), (2, 0.1)):
        negatives.observe(step, positions, np.full((1, N), score, np.float32))
        checked = negatives.check(step)
    assert checked is not None
    pool = mined.kept[0][10 + N : 10 + N + 9]
    below = [p for p in pool if score_of(0, 0, p) < 0.95 * 0.9]
    hardest = sorted(below, key=lambda p: -score_of(0, 0, p))[:N]
    assert len(below) < len(pool)  # the margin has a part in it
    assert negatives.choose(np.array([0])).rows[0].tolist() == hardest
    assert checked.counts == {"replaced": 1}
    assert negatives.state.following[0] == 10 + N + 9


def test_rescored_passes_over_a_pool_that_is_too_close(mined: Mined) -> None:
    settings = NegativeSettings("rescored", N, check_every_steps=1, pool=9)
    negatives = DynamicNegatives(
        mined.pack, settings, "a", score=lambda q, p: np.full(p.shape, 0.9, np.float32)
    )
    positions = np.flatnonzero(mined.pack.pairs().query == 0)[:1]
    before = negatives.choose(np.array([0])).rows
    reasons = []
    for step, score in enumerate((0.7, 0.1, 0.1, 0.1, 0.1, 0.1), start=1):
        negatives.observe(step, positions, np.full((1, N), score, np.float32))
        checked = negatives.check(step)
        assert checked is not None
        reasons += checked.events["reason"].to_pylist()
    assert reasons == ["too_close"] * 4 + ["exhausted"]
    np.testing.assert_array_equal(negatives.choose(np.array([0])).rows, before)


def test_the_margin_stays_below_a_negative_positive() -> None:
    scores = np.array([[-0.51, -0.52, -0.53, np.nan]], np.float32)
    chosen = hardest_below_margin(scores, np.array([-0.5], np.float32), 3, 0.95)
    assert chosen.tolist() == [[2, -1, -1]]  # the bound is -0.525


class Once:
    """A lake that has one change, handed out at a step."""

    def __init__(self, step: int, update: Update) -> None:
        self.step, self.update = step, update
        self.marked: list[int] = []

    def take(self, step: int) -> Update | None:
        return self.update if step == self.step else None

    def look(self, step: int, list_marked: Callable[[], Any]) -> None:
        self.marked = list_marked()[0].tolist()


def test_rescored_passes_over_what_was_excluded(mined: Mined) -> None:
    settings = NegativeSettings("rescored", N, check_every_steps=1, pool=9)
    pool = mined.kept[0][10 + N : 10 + N + 9]
    gone = pool[:4]
    live = Once(1, excluding(gone))
    negatives = DynamicNegatives(mined.pack, settings, "a", live=live, score=hash_scores)
    positions = np.flatnonzero(mined.pack.pairs().query == 0)[:1]
    for step, score in ((1, 0.7), (2, 0.1)):
        negatives.observe(step, positions, np.full((1, N), score, np.float32))
        negatives.check(step)
    below = [p for p in pool[4:] if score_of(0, 0, p) < 0.95 * 0.9]
    chosen = negatives.choose(np.array([0]))
    assert set(chosen.rows[chosen.mask].tolist()) == set(below)


def excluding(passages: Sequence[int], pairs: Sequence[int] = ()) -> Update:
    rows = np.array(sorted(passages), np.uint32)
    return Update(7, exclusions=Exclusions(2, np.array(pairs, np.int64), rows))


@pytest.mark.parametrize("settings", [V1, V2, RESCORED], ids=lambda s: s.rule)
def test_an_excluded_passage_is_no_negative_from_the_check_on(
    mined: Mined, settings: NegativeSettings
) -> None:
    gone = set(mined.kept[0][10:20]) | set(mined.kept[10][10:20])
    live = Once(60, excluding(list(gone), [3]))
    negatives = DynamicNegatives(mined.pack, settings, "a", live=live, score=hash_scores)
    chosen, events = train(negatives)
    assert gone & {p for rows in chosen[:60] for p in rows.ravel().tolist()}
    assert not gone & {p for rows in chosen[60:] for p in rows.ravel().tolist()}
    pair_id = int(mined.pack.pairs().pair_id[3])
    assert [e[:2] for e in events if e[-1] == "pair_excluded"] == [(60, pair_id)]
    assert negatives.is_excluded(np.array([2, 3])).tolist() == [False, True]


def test_v1_moves_on_where_every_negative_was_excluded(mined: Mined) -> None:
    live = Once(1, excluding(mined.kept[0][10 : 10 + N]))
    negatives = DynamicNegatives(mined.pack, EACH, "a", live=live)
    negatives.check(1)
    assert not negatives.choose(np.array([0])).mask.any()
    position = np.flatnonzero(mined.pack.pairs().query == 0)[:1]
    negatives.observe(2, position, np.full((1, N), np.nan, np.float32))
    checked = negatives.check(2)
    assert checked is not None
    assert checked.counts == {"excluded": 1}
    assert negatives.choose(np.array([0])).rows[0].tolist() == mined.kept[0][10 + N : 10 + 2 * N]


@pytest.mark.parametrize("settings", [EACH, V2], ids=lambda s: s.rule)
def test_a_new_list_begins_at_its_first_window(mined: Mined, settings: NegativeSettings) -> None:
    fresh = np.arange(30, dtype=np.uint32)[None, :]
    refreshed = Refreshed(np.array([4], np.uint32), fresh, np.zeros(1, np.int32), ("newer",))
    live = Once(30, Update(9, refreshed))
    negatives = DynamicNegatives(mined.pack, settings, "a", live=live)
    position = np.flatnonzero(mined.pack.pairs().query == 4)[:1]
    reasons: list[str] = []
    for step in range(1, 31):
        mask = negatives.choose(np.array([4])).mask
        falling = np.where(mask, np.float32(0.6 if step % 2 else 0.1), np.float32(np.nan))
        negatives.observe(step, position, falling)
        checked = negatives.check(step)
        assert checked is not None
        reasons += checked.events["reason"].to_pylist()
    assert reasons[-2:] == ["exhausted", "refreshed"]
    assert live.marked == []  # asked after the list came in
    assert negatives.choose(np.array([4])).rows[0].tolist() == list(range(10, 10 + N))
    assert negatives.lists.run_of(np.array([4, 5])) == ["newer", "mined"]
    again = DynamicNegatives(mined.pack, settings, "a")
    again.load_state_dict(negatives.state_dict(30))
    assert again.choose(np.array([4])).rows[0].tolist() == list(range(10, 10 + N))


def test_what_one_process_finds_in_the_lake_reaches_all(mined: Mined) -> None:
    def work(process: int) -> list[str]:
        live = Once(2, excluding(mined.kept[0][10:20], [3])) if process == 1 else None
        gather = processes.gather_of(process)
        own = DynamicNegatives(mined.pack, EACH, "a", gather=gather, live=live)
        found = [own.check(step) for step in (1, 2, 3)]
        assert not own.choose(np.array([0])).mask.any()
        return [reason for one in found if one for reason in one.events["reason"].to_pylist()]

    processes = Processes(3)
    assert processes.run(work) == [["pair_excluded"]] * 3


def test_scores_of_another_shape_are_refused(mined: Mined) -> None:
    negatives = DynamicNegatives(mined.pack, V1, "a")
    with pytest.raises(ValueError, match="wanted are 5 for each of 2 pairs"):
        negatives.observe(1, np.array([0, 1]), np.zeros((2, 4), np.float32))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"rule": "sampled", "ranks_from": 95, "num_negatives": 7},
            "ranks_from is 95 and ranks_to 100; between them are at least num_negatives",
        ),
        ({"rule": "v3"}, "allowed are v1, v2, rescored, static, sampled"),
        ({"num_negatives": 0}, "num_negatives is 0; it must be at least 1"),
        ({"rule": "rescored", "pool": 3}, "it must be at least num_negatives"),
        ({"relative_margin": 1.5}, "allowed is 0 < margin <= 1"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        NegativeSettings(**settings)


def test_rescored_needs_a_model(mined: Mined) -> None:
    with pytest.raises(ValueError, match="give it a function score"):
        DynamicNegatives(mined.pack, RESCORED, "a")
