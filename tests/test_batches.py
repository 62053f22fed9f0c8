"""The plan: every row once an epoch, exact balance, and the same batches however many processes."""

from collections import Counter
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from catalog.pack import NONE, Pack, PackError, build_pack
from catalog.snapshots import create_snapshot
from tests.pack_catalog import Row, cluster, make_catalog, pair
from trainer.batches import Plan, PlanSettings, TaskBatches
from trainer.conflicts import identify, passage_identities
from trainer.permutation import Nearness

Ids = npt.NDArray[np.int64]
FILE = 1 << 32
# Retrieval is rows 0 to 319 of the pack, sts 320 to 336, classification 337 to 348.
RETRIEVAL, STS = 320, 17


def varied_rows() -> list[Row]:
    """Pairs of three tasks; web is in two files, with qa between them; five passages a cluster."""
    rows = [pair(1, n, f"web {n % 100}", f"about {n}") for n in range(200)]
    rows += [pair(2, n, f"qa {n}", f"answer {n}", source="qa") for n in range(80)]
    rows += [pair(3, n, f"more {n}", f"more about {n}") for n in range(30)]
    rows += [pair(4, n, f"rare {n}", f"found {n}", source="rare") for n in range(10)]
    rows += [
        pair(5, n, f"a {n}", f"b {n}", task="sts", source="sts", label=n % 6) for n in range(STS)
    ]
    rows += [
        pair(6, n, f"c {n}", f"like {n}", task="classification", source="tags", label=n % 3)
        for n in range(12)
    ]
    return rows


@pytest.fixture(scope="module")
def pack(tmp_path_factory: pytest.TempPathFactory) -> Pack:
    folder: Path = tmp_path_factory.mktemp("batches")
    near = cluster([FILE + n for n in range(0, 50, 10)])
    catalog = make_catalog(folder / "catalog", varied_rows(), {"duplicates": near})
    return build_pack(catalog, create_snapshot(catalog, "v1"), folder / "pack")


def plan_of(pack: Pack, processes: int = 1, selection: Ids | None = None, **task: object) -> Plan:
    batches = TaskBatches(**{"batch_size": 16, **task})  # type: ignore[arg-type]
    return Plan(pack, PlanSettings(7, {"retrieval": batches}), processes, selection)


def drawn(plan: Plan, steps: int, first: int = 0) -> Ids:
    return np.concatenate([plan.batch(step)["retrieval"] for step in range(first, first + steps)])


def epochs_are_whole(draws: Ids, rows: Ids) -> bool:
    epochs = draws[: len(draws) // len(rows) * len(rows)].reshape(-1, len(rows))
    return len(epochs) > 0 and all(np.array_equal(np.sort(epoch), rows) for epoch in epochs)


# -- every row once an epoch ----------------------------------------------------------------------


def test_every_row_comes_once_an_epoch_for_all_sizes(pack: Pack) -> None:
    for n in range(1, 301):
        size = 1 + n * 7 % min(n, 23)
        rows = np.arange(n)
        draws = drawn(plan_of(pack, selection=rows, batch_size=size), -(-3 * n // size))
        assert epochs_are_whole(draws, rows), (n, size)


@pytest.mark.parametrize("avoid", ["nothing", "repeats", "groups"])
@pytest.mark.parametrize("near", [None, Nearness(40, 4, 12)])
def test_every_row_comes_once_an_epoch_in_every_order(
    pack: Pack, avoid: str, near: Nearness | None
) -> None:
    for size in (1, 7, 64, 101):
        plan = plan_of(pack, batch_size=size, avoid=avoid, near=near)
        assert epochs_are_whole(drawn(plan, -(-4 * RETRIEVAL // size)), np.arange(RETRIEVAL))


def test_epochs_have_different_orders(pack: Pack) -> None:
    epochs = drawn(plan_of(pack), 3 * RETRIEVAL // 16).reshape(3, RETRIEVAL)
    assert len({tuple(epoch.tolist()) for epoch in epochs}) == 3


def test_a_selection_is_all_that_is_drawn(pack: Pack) -> None:
    chosen = pack.select(where=lambda pairs: pairs.pair_id % 3 == 0)
    plan = Plan(
        pack, PlanSettings(1, {"retrieval": TaskBatches(8), "sts": TaskBatches(2)}), 1, chosen
    )
    assert set(drawn(plan, 100)) == set(chosen[chosen < RETRIEVAL])
    labels = {row for step in range(9) for row in plan.batch(step)["sts"].tolist()}
    assert labels <= set(chosen[(chosen >= RETRIEVAL) & (chosen < RETRIEVAL + STS)].tolist())
    assert plan.num_rows["retrieval"] == (chosen < RETRIEVAL).sum()


# -- balance --------------------------------------------------------------------------------------


def sources_of(pack: Pack, draws: Ids) -> Counter[str]:
    codes = pack.pairs().source[draws].tolist()
    return Counter(pack.manifest.sources[code] for code in codes)


def test_every_step_holds_every_task(pack: Pack) -> None:
    tasks = {"retrieval": TaskBatches(6), "sts": TaskBatches(4), "classification": TaskBatches(3)}
    plan = Plan(pack, PlanSettings(7, tasks), 2)
    for step in range(20):
        for process in range(2):
            assert list(plan.rows(step, process)) == list(tasks)
        assert [len(rows) for rows in plan.batch(step).values()] == [6, 4, 3]


def test_weights_are_exact_in_every_window(pack: Pack) -> None:
    weights = {"web": 0.5, "qa": 0.4, "rare": 0.1}
    draws = drawn(plan_of(pack, weights=weights, batch_size=20), 200)
    counts = {source: pack.pairs().source[draws] == pack.source_code(source) for source in weights}
    for source, weight in weights.items():
        batches = counts[source].reshape(-1, 20).sum(axis=1)
        assert set(batches.tolist()) == {round(20 * weight)}
        total = np.cumsum(counts[source]) - weight * np.arange(1, len(draws) + 1)
        assert total.max() - total.min() < 2


def test_a_source_of_weight_0_never_comes(pack: Pack) -> None:
    draws = drawn(plan_of(pack, weights={"web": 1, "qa": 1, "rare": 0}), 60)
    assert sources_of(pack, draws) == {"web": 480, "qa": 480}


def test_a_source_temperature_flattens_the_shares(pack: Pack) -> None:
    draws = drawn(plan_of(pack, source_temperature=2), 500)
    roots = {source: size**0.5 for source, size in {"web": 230, "qa": 80, "rare": 10}.items()}
    for source, count in sources_of(pack, draws).items():
        assert abs(count - 8000 * roots[source] / sum(roots.values())) < 2


def test_batches_by_source_hold_one_source_each_and_take_turns_by_weight(pack: Pack) -> None:
    plan = plan_of(pack, batch_by="source", batch_size=10)
    seen: dict[str, list[int]] = {}
    for step in range(320):
        rows = plan.batch(step)["retrieval"]
        (source,) = sources_of(pack, rows)
        seen.setdefault(source, []).extend(rows.tolist())
    assert {source: len(rows) for source, rows in seen.items()} == {
        "web": 2300,
        "qa": 800,
        "rare": 100,
    }
    for rows in seen.values():
        assert epochs_are_whole(np.array(rows), np.unique(rows))


# -- processes and steps --------------------------------------------------------------------------


@pytest.mark.parametrize("batch_size", [24, 29])
def test_the_batch_does_not_depend_on_the_number_of_processes(pack: Pack, batch_size: int) -> None:
    whole = plan_of(pack, batch_size=batch_size)
    for processes in (1, 2, 3, 8):
        plan = plan_of(pack, processes, batch_size=batch_size)
        for step in (0, 1, 17, 10**6):
            parts = [plan.rows(step, process)["retrieval"] for process in range(processes)]
            assert np.concatenate(parts).tolist() == whole.batch(step)["retrieval"].tolist()
            assert max(map(len, parts)) - min(map(len, parts)) <= (batch_size % processes > 0)


def test_a_step_does_not_depend_on_the_steps_asked_for_before(pack: Pack) -> None:
    plan = plan_of(pack)
    forward = [plan.rows(step, 0)["retrieval"].tolist() for step in range(40)]
    backward = [plan.rows(step, 0)["retrieval"].tolist() for step in reversed(range(40))]
    assert backward[::-1] == forward
    assert plan_of(pack).rows(23, 0)["retrieval"].tolist() == forward[23]


@pytest.mark.parametrize("avoid", ["nothing", "groups"])
def test_a_far_step_comes_at_once_and_never_changes_between_versions(
    pack: Pack, avoid: str
) -> None:
    rows = plan_of(pack, batch_size=5, avoid=avoid).rows(10**12, 0)["retrieval"]
    assert rows.tolist() == [194, 268, 124, 119, 108]


def test_tasks_have_processes_of_their_own(pack: Pack) -> None:
    tasks = {"retrieval": TaskBatches(14, processes=7), "sts": TaskBatches(5, processes=1)}
    plan = Plan(pack, PlanSettings(7, tasks), 8)
    assert [list(plan.rows(3, process)) for process in range(8)] == [["retrieval"]] * 7 + [["sts"]]
    parts = [plan.rows(3, process)["retrieval"] for process in range(7)]
    assert np.concatenate(parts).tolist() == plan.batch(3)["retrieval"].tolist()
    assert plan.rows(3, 7)["sts"].tolist() == plan.batch(3)["sts"].tolist()
    assert plan.spans == {"retrieval": range(7), "sts": range(7, 8)}


def test_processes_that_share_queries_have_all_rows(pack: Pack) -> None:
    plan = plan_of(pack, 3, shares_queries=True, batch_size=2)
    for process in range(3):
        assert plan.rows(5, process)["retrieval"].tolist() == plan.batch(5)["retrieval"].tolist()


# -- conflicts ------------------------------------------------------------------------------------


def repeats(plan: Plan, steps: int, of: Ids | None = None) -> int:
    batches = [plan.batch(step)["retrieval"] for step in range(steps)]
    named = batches if of is None else [of[batch] for batch in batches]
    return sum(len(batch) - len(np.unique(batch)) for batch in named)


def test_no_batch_holds_a_row_twice_where_an_epoch_is_two_batches_or_more(pack: Pack) -> None:
    some = np.arange(60)
    unguarded = sum(
        repeats(plan_of(pack, selection=some, batch_size=size, avoid="nothing"), 100)
        for size in range(1, 31)
    )
    assert unguarded > 0
    for size in range(1, 31):
        plan = plan_of(pack, selection=some, batch_size=size, avoid="repeats")
        assert repeats(plan, 100) == 0, size


def test_one_query_or_one_cluster_is_once_in_a_batch(pack: Pack) -> None:
    query, cluster_of = pack.pairs().query, pack.clusters[pack.pairs().passage]
    plan, unguarded = plan_of(pack), plan_of(pack, avoid="nothing")
    assert repeats(plan, 200, query) == repeats(plan, 200, cluster_of) == 0
    assert repeats(unguarded, 200, query) > 0
    assert repeats(unguarded, 200, cluster_of) > 0


def test_rows_say_what_they_are(pack: Pack) -> None:
    found = identify(pack, np.array([0, 10, 100, 1, RETRIEVAL, RETRIEVAL + STS + 3]))
    assert found.query[0] == found.query[2] != found.query[1]
    assert found.cluster[0] == found.cluster[1] != found.cluster[2]
    assert found.passage[0] != found.passage[1]
    assert found.label_class[:5].tolist() == [-1] * 5
    classes = identify(pack, np.arange(RETRIEVAL + STS, RETRIEVAL + STS + 12)).label_class
    assert classes[0] == classes[3] != classes[1]
    assert len(np.unique(classes)) == 3
    assert found.of_passages().shape == (6, 3)
    assert passage_identities(pack, found.passage).tolist() == [
        [passage, of, -1] for passage, of in zip(found.passage, found.cluster, strict=True)
    ]


def test_the_fill_of_a_short_window_is_nothing(pack: Pack) -> None:
    window = np.array([[3, NONE], [NONE, NONE]], np.uint32)
    found = passage_identities(pack, window)
    assert found[0, 0, 0] == 3
    assert found[0, 1].tolist() == found[1, 0].tolist() == [-1, -1, -1]


# -- what is refused ------------------------------------------------------------------------------


def test_a_batch_that_would_hold_a_row_twice_is_refused(pack: Pack) -> None:
    with pytest.raises(ValueError, match=r"a batch of 321 takes .* rows of source .*row twice"):
        plan_of(pack, batch_size=321)
    with pytest.raises(ValueError, match=r"takes 12.0 rows of source 'rare', which has 10"):
        plan_of(pack, batch_size=24, weights={"web": 1, "qa": 0, "rare": 1})
    with pytest.raises(ValueError, match=r"takes 16.0 rows of source 'rare', which has 10"):
        plan_of(pack, batch_by="source")


def test_weights_must_name_every_source_and_no_other(pack: Pack) -> None:
    with pytest.raises(ValueError, match=r"no rows of source 'rear'; did you mean 'rare'\?"):
        plan_of(pack, weights={"web": 1, "qa": 1, "rear": 1})
    with pytest.raises(ValueError, match="rare has none; give each source one"):
        plan_of(pack, weights={"web": 1, "qa": 1})
    with pytest.raises(ValueError, match="all are 0"):
        plan_of(pack, weights={"web": 0, "qa": 0, "rare": 0})
    with pytest.raises(ValueError, match="'web' has nan; a weight is a number from 0"):
        plan_of(pack, weights={"web": float("nan"), "qa": 1, "rare": 1})


def test_a_task_without_rows_is_refused(pack: Pack) -> None:
    with pytest.raises(PackError, match="the pack has no pairs of task 'ranking'"):
        Plan(pack, PlanSettings(7, {"ranking": TaskBatches(1)}))
    with pytest.raises(ValueError, match="no pair of task 'retrieval' is selected"):
        plan_of(pack, selection=np.array([RETRIEVAL]))
    with pytest.raises(ValueError, match="the plan has no task"):
        PlanSettings(7, {})


def test_a_process_or_step_that_is_not_there_is_refused(pack: Pack) -> None:
    plan = plan_of(pack, 2)
    with pytest.raises(ValueError, match=r"process 2 is asked for; .* allowed are 0 to 1"):
        plan.rows(0, 2)
    with pytest.raises(ValueError, match="step -1 is asked for"):
        plan.rows(-1, 0)


def test_processes_must_add_up(pack: Pack) -> None:
    three = PlanSettings(7, {"retrieval": TaskBatches(16, processes=3)})
    with pytest.raises(ValueError, match="4 processes run and the tasks have: retrieval 3"):
        Plan(pack, three, 4)
    with pytest.raises(ValueError, match="2 processes run and the tasks have: retrieval 3"):
        Plan(pack, three, 2)
    with pytest.raises(ValueError, match="batch_size 2 and 3 processes: give each at least one"):
        plan_of(pack, 3, batch_size=2)


def test_a_selection_must_be_ascending_positions_of_the_pack(pack: Pack) -> None:
    with pytest.raises(ValueError, match="not ascending"):
        plan_of(pack, selection=np.array([3, 3]))
    with pytest.raises(ValueError, match="has positions 0 to 9999; the pack has 0 to 348"):
        plan_of(pack, selection=np.array([0, 9999]))


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"batch_size": 0}, "batch_size is 0"),
        ({"batch_by": "domain"}, "batch_by is 'domain'; allowed are task, source"),
        ({"avoid": "all"}, "avoid is 'all'; allowed are nothing, repeats, groups"),
        ({"source_temperature": 0.5}, "source_temperature is 0.5; it must be at least 1"),
        ({"source_temperature": 2, "weights": {"web": 1}}, "both weights and source_temperature"),
        ({"processes": 0}, "processes is 0"),
    ],
)
def test_settings_that_mean_nothing_are_refused(setting: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TaskBatches(**{"batch_size": 4, **setting})  # type: ignore[arg-type]
