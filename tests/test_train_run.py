"""Runs: the same settings make the same model, also when the run was killed on the way."""

import json
import os
import random
import resource
import shutil
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save

from catalog.errors import CatalogError
from catalog.pack import PackError
from catalog.policies import Condition, Policy
from catalog.policy_commit import commit_policy
from catalog.snapshots import create_snapshot
from tests.mined_catalog import add_run
from tests.train_process import (
    CONTEXT,
    RUN,
    Made,
    make,
    make_lists,
    result_of,
    run_here,
    start,
    train_in_group,
    train_until,
)
from trainer.batches import Plan
from trainer.metrics import read_metrics
from trainer.model import ModelSettings
from trainer.resume import load_run
from trainer.run import count_steps, train
from trainer.run_life import RunLife
from trainer.settings import ContrastiveTask, CosentTask, TrainSettings
from trainer.step import NotFiniteError

pytestmark = pytest.mark.slow

KILLS = int(os.environ.get("LODE_KILLS", "2"))


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Sums of several threads are rounded otherwise, and the runs to compare with have one."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """A catalog with a run 'whole' that nothing disturbed."""
    made = make(tmp_path_factory.mktemp("run"))
    run_here(made, made.settings(), "whole")
    return made


def stop_after(made: Made, settings: TrainSettings, run: str, step: int = 5) -> None:
    """Train until a step was told of, and no further."""

    def say(line: str) -> None:
        if line.startswith(f"step {step:>7}/"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(made.place(run), settings, say)


@pytest.fixture
def made(whole: Made, tmp_path: Path) -> Made:
    """A copy for a test that writes; the finished run is in the catalog, its folder is not."""
    return whole.copy(tmp_path / "made")


def test_the_same_settings_make_the_same_model_and_the_same_records(
    whole: Made, made: Made
) -> None:
    assert result_of(whole, "whole")["train_events"]  # there is something to lose
    run_here(made, made.settings(), "a")
    assert result_of(made, "a") == result_of(whole, "whole")


def test_another_seed_makes_another_model(whole: Made, made: Made) -> None:
    run_here(made, made.settings(seed=2), "a")
    assert result_of(made, "a")["weights"] != result_of(whole, "whole")["weights"]


def test_kill_9_at_any_call_changes_nothing_but_the_time(whole: Made, made: Made) -> None:
    calls = CONTEXT.Value("q", 0)

    def life(run: str, last_call: int) -> int | None:
        calls.value = 0
        process = start(train_until, [made, made.settings(), run, last_call, calls])
        process.join()
        return process.exitcode

    assert life("undisturbed", 0) == 0
    expected, total = result_of(whole, "whole"), calls.value
    assert result_of(made, "undisturbed") == expected
    drawn = random.Random(7)
    for number in range(KILLS):
        run = f"killed-{number}"
        assert life(run, drawn.randint(total // 3, total)) == -signal.SIGKILL
        assert life(run, drawn.randint(total // 4, total // 2)) in (-signal.SIGKILL, 0)
        assert life(run, 0) == 0
        assert result_of(made, run) == expected, run


def test_a_finished_run_is_only_opened_and_said_to_be_there(whole: Made) -> None:
    before = result_of(whole, "whole")
    newest, said = run_here(whole, whole.settings(), "whole")
    assert newest.name == "checkpoint-00000008"
    assert said[-1] == "going on after step 8 of 8"
    assert result_of(whole, "whole") == before


def test_what_a_killed_life_did_not_commit_at_the_end_the_next_one_commits(
    whole: Made, made: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(life: RunLife) -> None:
        if life.done == 8:
            raise KeyboardInterrupt
        commit(life)

    commit = RunLife._commit_logs
    monkeypatch.setattr(RunLife, "_commit_logs", stop)
    with pytest.raises(KeyboardInterrupt):
        run_here(made, made.settings(), "a")
    assert (made.folder / "a" / "checkpoint-00000008").exists()
    monkeypatch.undo()
    run_here(made, made.settings(), "a")
    assert result_of(made, "a") == result_of(whole, "whole")


def without_dropout(made: Made) -> TrainSettings:
    """Return settings by which the number of processes changes nothing but rounding."""
    folder = made.folder / "still"
    shutil.copytree(made.model, folder)
    config = json.loads((folder / "config.json").read_text())
    config |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    (folder / "config.json").write_text(json.dumps(config))
    return made.settings(model=ModelSettings(str(folder), query_instruction="find: "))


def test_more_processes_go_on_with_the_order_of_the_data(made: Made) -> None:
    settings = without_dropout(made)
    run_here(made, settings, "alone")
    stop_after(made, settings, "a")
    train_in_group(made, settings, "a")
    alone, both = (read_metrics(made.folder / run / "metrics.jsonl") for run in ("alone", "a"))
    assert [line["step"] for line in both] == list(range(1, 9))
    for one, two in zip(alone, both, strict=True):
        for name in ("loss/retrieval", "loss/sts", "negative_score/retrieval"):
            assert two[name] == pytest.approx(one[name], rel=0.01)
    card = (made.folder / "a" / "checkpoint" / "README.md").read_text()
    assert "processes: 1 from step 0 on, 2 from step 3 on (the order of the data went on)" in card


def test_a_run_goes_on_from_its_folder_alone(whole: Made, made: Made) -> None:
    settings = made.settings()
    stop_after(made, settings, "a")
    add_run(made.catalog, "mine-2", made.place().snapshot, make_lists(), 5)  # a newer one
    place, found = load_run(made.folder / "a")
    assert found == settings
    train(place, found)
    assert result_of(made, "a") == result_of(whole, "whole")


def test_two_processes_record_what_one_would(made: Made) -> None:
    settings = made.settings(
        steps=4, retrieval=ContrastiveTask(6, processes=1), sts=CosentTask(4, processes=1)
    )
    train_in_group(made, settings, "a")
    trace = read_metrics(made.folder / "a" / "metrics.jsonl")
    assert all({"loss/sts", "loss/retrieval", "negative_score/retrieval"} <= set(t) for t in trace)
    swapped = replace(settings, retrieval=None, classification=ContrastiveTask(5, processes=1))
    train_in_group(made, swapped, "b")  # the first process has no contrastive task
    trace = read_metrics(made.folder / "b" / "metrics.jsonl")
    assert all("positive_score/classification" in line for line in trace)


# What stops a run -------------------------------------------------------------------------------


def test_a_loss_that_is_no_number_stops_and_the_last_checkpoint_goes_on(
    whole: Made, made: Made
) -> None:
    settings = made.settings()
    stop_after(made, settings, "a")
    broken = made.folder / "a" / "checkpoint-00000003" / "training" / "optimizer.safetensors"
    good = broken.read_bytes()
    broken.write_bytes(_with_nan(broken))
    with pytest.raises(NotFiniteError, match="the last checkpoint is good"):
        run_here(made, settings, "a")
    assert (made.folder / "a" / "checkpoint").resolve().name == "checkpoint-00000003"
    broken.write_bytes(good)
    run_here(made, settings, "a")
    assert result_of(made, "a") == result_of(whole, "whole")


def _with_nan(path: Path) -> bytes:
    tensors = load_file(path)
    name = next(name for name in sorted(tensors) if name.endswith("/exp_avg"))
    tensors[name].fill_(float("nan"))
    return save(tensors)


def test_a_full_disk_stops_and_the_last_checkpoint_goes_on(whole: Made, made: Made) -> None:
    settings = made.settings()
    stop_after(made, settings, "a")
    unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, unlimited[1]))  # a model has 150,000
    try:
        with pytest.raises((CatalogError, OSError), match="File too large"):
            run_here(made, settings, "a")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)
    assert (made.folder / "a" / "checkpoint").resolve().name == "checkpoint-00000003"
    run_here(made, settings, "a")
    assert result_of(made, "a") == result_of(whole, "whole")


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "a model that is not there": (
        {"model": ModelSettings("./nothing")}, "there is no model folder at ./nothing"
    ),
    "a batch larger than the task": (
        {"sts": CosentTask(batch=17)}, "which has 16: it would hold a row twice"
    ),
    "more processes than there are": (
        {"sts": CosentTask(batch=4, processes=2)}, "1 processes run and the tasks have"
    ),
    "prefixes wider than the model": (
        {"widths": (16, 64)}, "widths go up to 64, the model's vectors are 32 wide"
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_trained_is_refused_and_leaves_the_folder_free(
    made: Made, name: str
) -> None:
    changes, message = REFUSED[name]
    with pytest.raises(ValueError, match=message):
        run_here(made, made.settings(**changes), "a")
    assert not (made.folder / "a").exists()


def test_a_task_without_rows_is_refused(made: Made) -> None:
    condition = Condition("sts", "rules", require="task <> 'sts'")
    commit_policy(made.catalog, Policy("keep", (condition,)))
    place = replace(made.place(), snapshot=create_snapshot(made.catalog, "v2"))
    with pytest.raises(PackError, match="the pack has no pairs of task 'sts'"):
        train(place, made.settings())
    assert not (made.folder / "a").exists()


def test_a_folder_that_holds_another_run_is_refused_with_what_differs(made: Made) -> None:
    run_here(made, made.settings(steps=2), "a")
    other = made.settings(steps=2, seed=5, retrieval=ContrastiveTask(6, temperature=0.2))
    with pytest.raises(CatalogError, match=r"another run \(other retrieval.temperature, seed\)"):
        run_here(made, other, "a")
    add_run(made.catalog, "mine-2", made.place().snapshot, make_lists(), 5)
    with pytest.raises(CatalogError, match=r"another run \(other candidates_run, pack\)"):
        run_here(made, made.settings(steps=2), "a", candidates_run="mine-2")
    run_here(made, made.settings(steps=2), "a", candidates_run=RUN)


def test_parts_of_an_unknown_run_are_refused(made: Made) -> None:
    (made.folder / "a" / "live").mkdir(parents=True)
    with pytest.raises(CatalogError, match=r"holds live but no run.json"):
        run_here(made, made.settings(), "a")


def test_a_name_that_the_catalog_knows_is_refused(made: Made) -> None:
    with pytest.raises(CatalogError, match="has a run 'whole' already"):
        run_here(made, made.settings(), "whole")


def test_rows_of_an_unfinished_run_of_the_same_name_are_replaced(whole: Made, made: Made) -> None:
    settings = made.settings()
    stop_after(made, replace(settings, seed=9), "a")
    shutil.rmtree(made.folder / "a")
    run_here(made, settings, "a")
    assert result_of(made, "a") == result_of(whole, "whole")


def test_a_folder_without_a_run_cannot_be_resumed(made: Made) -> None:
    with pytest.raises(CatalogError, match=r"is no run: it has no run.json"):
        load_run(made.folder)


# Length -----------------------------------------------------------------------------------------


def test_epochs_are_those_of_the_task_that_takes_longest(made: Made) -> None:
    settings = made.settings(steps=None, epochs=2.0)
    plan = Plan(made.pack(), settings.plan())
    assert count_steps(settings, plan) == 8  # 24 retrieval pairs by 6, twice; sts: 16 by 4
