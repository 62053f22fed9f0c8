"""Fine-tuning in three lines, from rows and files to a model that others load."""

import json
import re
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from catalog.errors import CatalogError
from catalog.recipe_files import RecipeError
from mining.encoder import Encoder, EncoderSettings
from tests import model_folders
from trainer import fine_tune
from trainer.comparison import write_comparison
from trainer.engine import OptimizerSettings
from trainer.fine_tuning import choose_settings, write_rows
from trainer.model import ModelSettings
from trainer.negative_rules import NegativeSettings
from trainer.own_data import catalog_of
from trainer.settings import ContrastiveTask, CosentTask, TrainSettings

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent
PAIRS = [
    {"query": f"怎么学{i}", "positive": f"学习{i}", "negatives": [f"不学{i}"]} for i in range(12)
]
SCORED = [{"sentence1": f"a{i}", "sentence2": f"b{i}", "score": i % 3} for i in range(12)]
FLOAT = {"precision": "float32", "log_every": 1}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model with random weights."""
    return model_folders.m3e(tmp_path_factory.mktemp("model") / "m3e")


def losses(run: Path) -> list[float]:
    """Return the losses of all steps."""
    lines = (run / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line)["loss/retrieval"] for line in lines]


def tune(base: Path, out: Path) -> Path:
    """Fine-tune on twelve pairs: four epochs of two steps."""
    return fine_tune(base, PAIRS, out, batch=6, epochs=4, lr=2e-3, settings=FLOAT)


@pytest.fixture(scope="module")
def tuned(base: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A run and the model that it made."""
    out = tmp_path_factory.mktemp("runs") / "x"
    return out, tune(base, out)


def test_three_lines_make_a_model_that_has_learned(tuned: tuple[Path, Path]) -> None:
    out, model = tuned
    encoder = Encoder.load(EncoderSettings(str(model), dtype="float32"))
    queries = encoder.encode([row["query"] for row in PAIRS], "query")
    assert queries.shape == (12, model_folders.HIDDEN)
    found = losses(out)
    assert len(found) == 8
    assert np.mean(found[-2:]) < np.mean(found[:2])
    assert (model / "README.md").exists()


def test_the_same_call_again_trains_nothing_twice(base: Path, tuned: tuple[Path, Path]) -> None:
    out, model = tuned
    before = losses(out)
    assert tune(base, out) == model
    assert losses(out) == before


def test_a_real_run_can_be_compared(tuned: tuple[Path, Path], tmp_path: Path) -> None:
    lines = write_comparison([tuned[0]], tmp_path / "runs.html")
    assert ["steps", "8"] in [line.split() for line in lines]
    assert (tmp_path / "runs.html").exists()


def test_tasks_are_those_of_the_data(tmp_path: Path) -> None:
    pairs = write_rows(PAIRS, tmp_path / "pairs")
    scored = write_rows(SCORED, tmp_path / "scored")
    out = tmp_path / "x"
    both = choose_settings("m", *catalog_of([pairs, scored], out), 8, {"retrieval.margin": 0.1})
    assert both.retrieval is not None
    assert both.sts is not None
    assert (both.retrieval.batch, both.sts.batch) == (8, 8)
    assert (both.retrieval.hard_negatives, both.negatives.num_negatives) == (True, 1)
    assert both.retrieval.margin == 0.1
    only = choose_settings("m", *catalog_of([scored], tmp_path / "y"), 8, {})
    assert list(only.tasks) == ["sts"]


def test_rows_of_a_dataset_are_what_a_list_is(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    listed = write_rows(PAIRS, tmp_path / "list").read_bytes()
    assert write_rows(datasets.Dataset.from_list(PAIRS), tmp_path / "set").read_bytes() == listed
    split = datasets.DatasetDict(train=datasets.Dataset.from_list(PAIRS))
    with pytest.raises(CatalogError, match="of a DatasetDict give one split"):
        write_rows(split, tmp_path / "splits")


def test_other_rows_are_refused_and_the_first_stay(tmp_path: Path) -> None:
    path = write_rows(PAIRS, tmp_path)
    before = path.read_bytes()
    with pytest.raises(CatalogError, match="has other data"):
        write_rows(PAIRS[:3], tmp_path)
    with pytest.raises(CatalogError, match="row 1 of the data is tuple"):
        write_rows([PAIRS[0], ("a", "b")], tmp_path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_setting_that_does_not_exist_is_refused_before_training(
    base: Path, tmp_path: Path
) -> None:
    with pytest.raises(RecipeError, match="did you mean 'temperature'"):
        fine_tune(base, PAIRS, tmp_path / "x", settings={"retrieval.temprature": 0.1})
    assert not (tmp_path / "x" / "run.json").exists()


def test_importing_the_trainer_imports_no_torch() -> None:
    code = "import sys, trainer; assert 'torch' not in sys.modules; trainer.fine_tune"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    "kind",
    [
        TrainSettings, ModelSettings, OptimizerSettings, NegativeSettings, ContrastiveTask,
        CosentTask,
    ],
)  # fmt: skip
def test_the_page_on_training_names_every_setting(kind: Any) -> None:
    page = (ROOT / "docs" / "training.md").read_text(encoding="utf-8")
    sections = set(re.findall(r"^### .*?\[(?:train\.)?(\w+)\]", page, re.M)) | {"classification"}
    named = set(re.findall(r"`(\w+)`", page)) | sections
    assert {field.name for field in fields(kind)} <= named
