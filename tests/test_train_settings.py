"""Settings of training: recipes, changes on the command line, and what is refused."""

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from catalog.recipe_files import RecipeError
from trainer.engine import OptimizerSettings
from trainer.model import ModelSettings
from trainer.settings import (
    ContrastiveTask,
    CosentTask,
    TrainSettings,
    change_settings,
    from_document,
    load_settings,
)

RECIPE = """
[model]
base = "models/bert"
query_instruction = "find: "

[train]
steps = 7
widths = [8, 16]

[train.optimizer]
lr = 3e-4

[train.retrieval]
batch = 12
temperature = "learned"
source_weights = {web = 2, books = 1}

[train.sts]
weight = 0.5
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "recipe.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_recipe_says_what_is_trained(tmp_path: Path) -> None:
    settings = load_settings(write(tmp_path, RECIPE))
    assert settings.model == ModelSettings("models/bert", query_instruction="find: ")
    assert (settings.steps, settings.widths, settings.optimizer.lr) == (7, (8, 16), 3e-4)
    assert set(settings.tasks) == {"retrieval", "sts"}
    assert settings.retrieval == ContrastiveTask(
        12, temperature="learned", source_weights={"web": 2, "books": 1}
    )
    assert settings.sts == CosentTask(weight=0.5)


def test_changes_replace_what_the_recipe_says(tmp_path: Path) -> None:
    words = ["retrieval.batch=5", "optimizer.lr=0.1", "engine=deepspeed", "sts.processes=all"]
    changes = change_settings({"steps": 3}, [*words, "retrieval.source_weights={web = 1}"])
    settings = load_settings(write(tmp_path, RECIPE), "models/other", changes)
    assert settings.model.base == "models/other"
    assert (settings.steps, settings.engine, settings.optimizer.lr) == (3, "deepspeed", 0.1)
    assert settings.retrieval is not None
    assert (settings.retrieval.batch, settings.retrieval.source_weights) == (5, {"web": 1})


def test_a_change_can_add_a_task_that_the_recipe_has_not(tmp_path: Path) -> None:
    changes = change_settings({}, ["classification.batch=4"])
    assert load_settings(write(tmp_path, RECIPE), None, changes).classification is not None


def test_records_are_read_back_as_the_same_settings(tmp_path: Path) -> None:
    settings = load_settings(write(tmp_path, RECIPE))
    plain = json.loads(json.dumps(asdict(settings)))
    document = {key: value for key, value in plain.items() if value is not None}
    assert from_document(tmp_path, document) == settings


@pytest.mark.parametrize("name", ["conan-v1", "m3e", "text2vec"])
def test_shipped_recipes_are_settings(name: str) -> None:
    assert load_settings(name, "models/bert").tasks


REFUSED = {
    "[train.retreival]\nbatch = 3": "retreival.*did you mean 'retrieval'",
    "[train.retrieval]\nbach = 3": "bach.*did you mean 'batch'",
    "[train]\nepoch = 3\n[train.sts]": "epoch.*did you mean 'epochs'",
    "[train.optimizer]\nlearning_rate = 1": "learning_rate",
    "[train.negatives]\nrules = 'v1'": "rules.*did you mean 'rule'",
    "[train]\nsteps = 3": "no task is trained",
    "[train.retrieval]\nbatch = 0": "batch_size is 0; it must be at least 1",
    "[train.retrieval]\ntemperature = 0": "temperature is 0; it must be a number above 0",
    "[train.retrieval]\ntemperature = 'learnt'": "temperature is 'learnt'.*or 'learned'",
    "[train.retrieval]\ncolumns = 'all'": "'all'.*local, gathered, shared_query",
    "[train.retrieval]\nprocesses = 'two'": "processes is 'two'; give a number, or 'all'",
    "[train.retrieval]\nweight = -1": "weight is -1; it must be at least 0",
    "[train.sts]\ntemperature = 0.0": "temperature is 0.0; it must be above 0",
    "[train.sts]\n[train.optimizer]\nwarmup = 1": "0 <= warmup < 1",
    "[train.sts]\n[train.optimizer]\ndecay = 'step'": "allowed are linear, cosine and constant",
    "[train]\nengine = 'jax'\n[train.sts]": "engine is 'jax'; allowed are torch, deepspeed",
    "[train]\nprecision = 'fp8'\n[train.sts]": "precision is 'fp8'; allowed are fastest",
    "[train]\nlog_every = 0\n[train.sts]": "log_every is 0; it must be at least 1",
    "[train]\nepochs = 0\n[train.sts]": "epochs is 0",
    "[train]\nretrieval = 3": "retrieval is 3",
    "[train]\nsteps = 'ten'\n[train.sts]": "steps is 'ten'",
    "[train.sts]\nbatch = '4'": "batch is '4'",
    "[train.sts]\nbatch = 4.5": "batch is 4.5",
}  # fmt: skip


@pytest.mark.parametrize("text", REFUSED)
def test_what_a_recipe_says_wrongly_is_refused_by_name(tmp_path: Path, text: str) -> None:
    path = write(tmp_path, f"[model]\nbase = 'm'\n{text}\n")
    with pytest.raises(RecipeError, match=REFUSED[text]) as refusal:
        load_settings(path)
    assert str(path) in str(refusal.value)


def test_a_recipe_without_training_or_model_says_so(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"has no \[train\]: it does not say what to train"):
        load_settings(write(tmp_path, "[model]\nbase = 'm'"))
    with pytest.raises(RecipeError, match=r"names no model: set base in \[model\], or give"):
        load_settings(write(tmp_path, "[train.sts]"))


def test_a_word_without_a_value_is_no_setting() -> None:
    with pytest.raises(ValueError, match="'steps' is no setting; write NAME=VALUE"):
        change_settings({}, ["steps"])


def test_a_change_below_a_plain_setting_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"train.steps.more: train.steps is no section"):
        load_settings(write(tmp_path, RECIPE), None, change_settings({}, ["steps.more=1"]))


def test_defaults_are_those_of_the_paper() -> None:
    settings = TrainSettings(ModelSettings("m"), sts=CosentTask())
    assert settings.optimizer == OptimizerSettings(1e-5, 0.05, "linear", 0.001)
    assert settings.sts is not None
    assert settings.sts.weight == 0.8


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ("distillation = -1", "distillation is -1"),
        ("distillation = 1\nteacher_temperature = 0.0", "teacher_temperature 0.0; at least 0, and"),
        ("distillation = 1\nhard_negatives = false", "set hard_negatives = true"),
        ('distillation = 1\ncolumns = "shared_query"', "set columns to gathered or local"),
    ],
)
def test_a_distillation_that_cannot_be_is_refused(tmp_path: Path, keys: str, message: str) -> None:
    path = tmp_path / "r.toml"
    path.write_text(f'[model]\nbase = "x"\n[train.retrieval]\n{keys}\n')
    with pytest.raises(ValueError, match=message):
        load_settings(path)


def test_one_task_an_update_gives_every_task_its_turn() -> None:
    settings = TrainSettings(
        ModelSettings("x"), tasks_per_update="one", retrieval=ContrastiveTask(), sts=CosentTask()
    )
    turns = [settings.tasks_at(step) for step in range(200)]
    for block in range(100):
        pair = turns[2 * block : 2 * block + 2]
        assert {tasks for tasks, _ in pair} == {("retrieval",), ("sts",)}
        assert {number for _, number in pair} == {block}
    first = sum(turns[2 * block][0] == ("sts",) for block in range(100))
    assert 30 < first < 70  # an order of its own for every turn
    assert replace(settings, tasks_per_update="all").tasks_at(7) == (("retrieval", "sts"), 7)
    with pytest.raises(ValueError, match="sts has processes of its own"):
        replace(settings, sts=CosentTask(processes=1))
