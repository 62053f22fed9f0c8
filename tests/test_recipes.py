"""Recipes as a whole: read and checked before any work, run stage by stage, resumed."""

import json
import os
import re
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from catalog.errors import CatalogError
from catalog.executors import ExecutorSettings
from catalog.lake import Catalog
from catalog.recipe_files import RecipeError, shipped_recipes
from lode import app
from recipes.differences import recipe_differences
from recipes.journal import Journal
from recipes.listing import describe_recipe
from recipes.plan import load_plan
from recipes.requirements import check_requirements, requirements
from recipes.run import choose_stages, run_recipe
from tests.tiny_catalog import fetch
from trainer.eval_records import TRAINED_ON

ROOT = Path(__file__).parent.parent
TINY = """
[curate]
recipe = "conan-v1"
[score]
model = "lexical"
min_score = 0.05
[new_model]
layers = 1
width = 32
max_tokens = 32
[mine]
depth = 20
[train]
steps = 3
[train.retrieval]
batch = 4
[evaluate]
"""


def write(folder: Path, text: str = TINY, name: str = "tiny.toml") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def test_pretraining_comes_before_training_and_is_checked_with_it(tmp_path: Path) -> None:
    text = TINY + "[pretrain]\nbatch = 8\n[pretrain.mask]\nwords = 'jieba'\n"
    plan = load_plan(write(tmp_path, text), words=["pretrain.mask.decoder_share=0.7"])
    stages = ("curate", "score", "new_model", "pretrain", "mine", "train", "evaluate")
    assert plan.stages == stages
    assert (plan.pretrain.batch, plan.pretrain.mask.decoder_share) == (8, 0.7)
    assert ("pretrain", "the package jieba") in [(n.stage, n.what) for n in requirements(plan)]
    with pytest.raises(RecipeError, match=r"'decoder_shard' in \[pretrain.mask\]; did you mean"):
        load_plan(write(tmp_path, text + "decoder_shard = 0.7\n"))
    alone = text.replace("[train]\nsteps = 3\n[train.retrieval]\nbatch = 4\n", "")
    assert load_plan(write(tmp_path, alone)).train is None


def test_a_plan_holds_every_stage_in_order_with_its_settings(tmp_path: Path) -> None:
    plan = load_plan(write(tmp_path), words=["train.retrieval.batch=8", "score.min_score=0.5"])
    assert plan.stages == ("curate", "score", "new_model", "mine", "train", "evaluate")
    assert plan.curate.policy.name == "conan-v1"
    assert plan.train.retrieval.batch == 8
    assert plan.score.min_score == 0.5
    assert plan.mine.mining().depth == 20
    assert plan.base is None


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ("[score]", "[scores]", "unknown section [scores]; did you mean 'score'"),
        ("min_score", "min_scor", "unknown key 'min_scor' in [score]; did you mean 'min_score'"),
        ("depth = 20", 'depth = "20"', "depth is '20' in [mine]; it must be a whole number"),
        ("min_score = 0.05", "min_score = 4", "[score] min_score is 4; a cosine is between"),
        ('[curate]\nrecipe = "conan-v1"', "", "either [policy] or [curate]"),
        ('recipe = "conan-v1"', 'recipe = "conan-v9"', "there is no recipe 'conan-v9'"),
        ("[train]\nsteps = 3\n[train.retrieval]\nbatch = 4", "", "trains nothing"),
        (
            "[mine]\ndepth = 20",
            "[rerank]",
            "[rerank] learns from mined candidates, and there is no",
        ),
        ("[evaluate]", "[rerank]\nlos = 1", "unknown key 'los' in [rerank]; did you mean 'loss'"),
        ("steps = 3", "step = 3", "unknown key 'step' in [train]; did you mean 'steps'"),
        ("[new_model]\nlayers = 1\nwidth = 32\nmax_tokens = 32", "", "names no model: set base"),
        ("[evaluate]", '[evaluate]\nsts = ["no/such/file"]', "no/such/file does not exist"),
        ("depth = 20", "depth = 20\nsearch = ['near']", "miners are near; name one or more of"),
    ],
)
def test_what_is_wrong_is_said_before_any_work(
    tmp_path: Path, before: str, after: str, message: str
) -> None:
    assert before in TINY
    with pytest.raises((RecipeError, ValueError), match=re.escape(message)):
        load_plan(write(tmp_path, TINY.replace(before, after)))


def test_a_rehearsal_lays_its_section_over_the_others(tmp_path: Path) -> None:
    text = TINY + "[rehearse]\nrows = 9\n[rehearse.train]\nsteps = 1\n[rehearse.mine]\ndepth = 5\n"
    path = write(tmp_path, text)
    assert load_plan(path).train.steps == 3
    plan = load_plan(path, rehearse=True)
    assert (plan.train.steps, plan.mine.depth, plan.train.retrieval.batch) == (1, 5, 4)


def test_a_stage_needs_all_that_come_before_it(tmp_path: Path) -> None:
    plan, journal = load_plan(write(tmp_path)), Journal(tmp_path / "run")
    with pytest.raises(CatalogError, match="train comes after curate, score, new_model, mine, wh"):
        choose_stages(plan, journal, ["train"])
    with pytest.raises(CatalogError, match="no stage 'rerank'; it has curate, score"):
        choose_stages(plan, journal, ["rerank"])
    for stage in ("curate", "score", "new_model"):
        journal.write(stage, plan.document(stage), {})
    assert choose_stages(plan, journal, ["mine"]) == ["mine"]
    with pytest.raises(CatalogError, match=r"train comes after mine, .* --stages mine,train"):
        choose_stages(plan, journal, ["curate", "train"])
    assert choose_stages(plan, journal) == ["mine", "train", "evaluate"]


def test_a_stage_that_was_done_otherwise_is_refused(tmp_path: Path) -> None:
    plan, journal = load_plan(write(tmp_path)), Journal(tmp_path / "run")
    journal.write("curate", plan.document("curate"), {"snapshot": "a"})
    journal.write("score", plan.document("score"), {"snapshot": "b"})
    journal = Journal(tmp_path / "run")  # read again
    assert journal.newest("snapshot") == "b"
    other = replace(plan, score=replace(plan.score, min_score=0.9))
    with pytest.raises(CatalogError, match=r"done score with other settings \(other min_score\)"):
        choose_stages(other, journal)
    changed_later = replace(plan, mine=replace(plan.mine, depth=7))
    assert choose_stages(changed_later, journal)[0] == "new_model"


def test_what_a_machine_lacks_is_said_before_any_work(tmp_path: Path, catalog: Catalog) -> None:
    text = TINY.replace('model = "lexical"', 'model = "nobody/such-a-model"')
    plan = load_plan(write(tmp_path, text.replace("depth = 20", 'model = "lexical"')))
    (need,) = [need for need in requirements(plan) if not need.is_here]
    assert (need.stage, need.what) == ("score", "the model nobody/such-a-model")
    before = catalog.version()
    with pytest.raises(RecipeError, match=r"score needs the model nobody/such-a-model: .*score.mo"):
        run_recipe(plan, catalog, tmp_path / "run", ExecutorSettings(1), lambda line: None)
    assert catalog.version() == before
    check_requirements(plan, ["curate"])


def test_a_run_may_end_before_there_is_a_model(tmp_path: Path, catalog: Catalog) -> None:
    path = write(tmp_path)
    Journal(tmp_path / "run").write("curate", load_plan(path).document("curate"), {"snapshot": "a"})
    words = ["run", str(path), "--out", str(tmp_path / "run"), "--stages", "curate"]
    done = CliRunner().invoke(app, [*words, "--catalog", catalog.location.url])
    assert done.exit_code == 0, done.output
    assert "model" not in done.output


def test_two_recipes_differ_in_named_settings(tmp_path: Path) -> None:
    first = write(tmp_path)
    second = write(tmp_path, TINY.replace("steps = 3", "steps = 4") + "retrieval = []\n", "b.toml")
    assert recipe_differences(str(first), str(second)) == [
        ("evaluate.retrieval", "-", "[]"), ("train.steps", "3", "4"),
    ]  # fmt: skip
    names = {name for name, *_ in recipe_differences("conan-v1", "m3e")}
    assert {"train.sts.weight", "policy.conditions.echo.require", "curate.recipe"} <= names


@pytest.mark.parametrize("name", shipped_recipes())
def test_every_shipped_recipe_is_whole_and_can_be_rehearsed(name: str) -> None:
    plan = load_plan(name, rehearse=True)
    assert plan.new_model is not None
    assert any("→" in line for line in describe_recipe(name))


def lode(*words: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-m", "lode", *words],
        stdout=subprocess.PIPE, text=True, cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"},
    )  # fmt: skip


# A rehearsal takes a minute or more: all of them run where LODE_REHEARSE is "all".
REHEARSED = shipped_recipes() if os.environ.get("LODE_REHEARSE") == "all" else ["conan-v1"]


@pytest.mark.slow
@pytest.mark.parametrize("name", REHEARSED)
def test_a_rehearsal_goes_through_every_stage_and_on_after_kills(tmp_path: Path, name: str) -> None:
    folder = tmp_path / name
    command = ("run", name, "--rehearse", "--out", str(folder), "--workers", "1")
    stages = load_plan(name, rehearse=True).stages
    # A kill in the middle of a stage.
    for stage in ("train",) if name == "conan-v1" else ():
        process = lode(*command)
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith((f"── {stage} ──", "step")):
                process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
    process = lode(*command)
    printed, _ = process.communicate()
    assert process.returncode == 0, printed
    done = json.loads((folder / "stages.json").read_text())
    assert tuple(done) == stages
    # What was done is not done again.
    assert ("── curate ──" in printed) == (name != "conan-v1")
    catalog = Catalog.open(str(folder / "rehearsal" / "corpus"))
    plan = load_plan(name, rehearse=True)
    last_training = next(stage for stage in ("train", "rerank", "pretrain") if stage in stages)
    run = f"{name}-{last_training}"
    assert fetch(catalog, f"select count(*) from runs where run_id = '{run}'") == [(1,)]
    measured = f"from evaluations where run = '{run}' and metric <> '{TRAINED_ON}'"
    values = fetch(catalog, f"select count(*), min(value) {measured}")
    assert values[0][0] > 0
    assert values[0][1] > 0.1
    steps = "select max(step), count(distinct step) from metrics where metric = 'lr' and run = "
    last, reported = fetch(catalog, f"{steps}'{run}'")[0]
    assert last == getattr(plan, last_training).steps
    # v2 checks at every step, and every check is reported.
    assert reported == (last if name == "conan-v2-rule" else last // 10)
