"""Runs of pre-training: the same model however often killed or cut, and an encoder at the end."""

import json
import random
import signal
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from catalog.errors import CatalogError
from catalog.records import checksum
from mining.encoder import Encoder, EncoderSettings
from tests import model_folders
from tests.train_process import CONTEXT, Killer, Made, make, run_group, start
from trainer.engine import OptimizerSettings
from trainer.masked_texts import MaskSettings
from trainer.metrics import read_metrics
from trainer.model import ModelSettings
from trainer.pretrain_settings import PretrainSettings
from trainer.pretraining import PassagePlan, pretrain
from trainer.resume import load_pretraining_run, load_run

pytestmark = pytest.mark.slow

STEPS = 8


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """A catalog with a run 'whole' that nothing disturbed."""
    made = make(tmp_path_factory.mktemp("run"))
    run_here(made, settings_of(made), "whole")
    return made


@pytest.fixture
def made(whole: Made, tmp_path: Path) -> Made:
    return whole.copy(tmp_path / "made")


def settings_of(made: Made, **more: Any) -> PretrainSettings:
    given: dict[str, Any] = {
        "model": ModelSettings(str(made.model), max_tokens=24),
        "batch": 10,
        "steps": STEPS,
        "precision": "float32",
        "batch_tokens": 64,
        "checkpoint_every": 3,
        "log_every": 1,
        "optimizer": OptimizerSettings(lr=1e-3),
    }
    return PretrainSettings(**given | more)


def run_here(made: Made, settings: PretrainSettings, run: str = "a") -> tuple[Path, list[str]]:
    said: list[str] = []
    return pretrain(made.place(run), settings, said.append), said


def result_of(made: Made, run: str = "a") -> dict[str, Any]:
    """Return what must not depend on how often a run was killed."""
    newest = made.folder / run / "checkpoint"
    trace = read_metrics(made.folder / run / "metrics.jsonl")
    with made.catalog.reader() as connection:
        metrics = connection.execute(
            "select step, metric, value from metrics where run = ? "
            "and metric <> 'tokens_per_second' order by all", [run],
        ).fetchall()  # fmt: skip
        runs = connection.execute("select kind, tasks from runs where run_id = ?", [run]).fetchall()
    return {
        "trace": [{k: v for k, v in line.items() if k != "tokens_per_second"} for line in trace],
        "checkpoints": sorted(path.name for path in (made.folder / run).glob("*checkpoint*")),
        "weights": checksum(newest / "model.safetensors"),
        "decoder": checksum(newest / "training" / "losses.safetensors"),
        "optimizer": checksum(newest / "training" / "optimizer.safetensors"),
        "metrics": metrics,
        "runs": runs,
    }


def test_a_run_that_was_stopped_ends_as_one_that_was_not(whole: Made, made: Made) -> None:
    def say(line: str) -> None:
        if line.startswith(f"step {5:>7}/"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pretrain(made.place("a"), settings_of(made), say)
    _, said = run_here(made, settings_of(made))
    assert f"going on after step 3 of {STEPS}" in said
    assert result_of(made) == result_of(whole, "whole")


def pretrain_until(
    made: Made, settings: PretrainSettings, run: str, last_call: int, calls: Any
) -> None:
    """Pre-train, and die at a call (0: never)."""
    torch.set_num_threads(1)
    place = made.place(run)
    sys.setprofile(Killer(last_call, calls))
    pretrain(place, settings)
    sys.setprofile(None)


@pytest.mark.thorough
def test_kill_9_at_any_call_changes_nothing_but_the_time(whole: Made, made: Made) -> None:
    calls = CONTEXT.Value("q", 0)

    def life(run: str, last_call: int) -> int | None:
        calls.value = 0
        process = start(pretrain_until, [made, settings_of(made), run, last_call, calls])
        process.join()
        return process.exitcode

    assert life("undisturbed", 0) == 0
    expected, total = result_of(whole, "whole"), calls.value
    assert expected["runs"] == [("pretrain", STEPS)]
    assert len(expected["metrics"]) == STEPS * 4
    assert result_of(made, "undisturbed") == expected
    drawn = random.Random(7)
    assert life("killed", drawn.randint(total // 2, total)) == -signal.SIGKILL
    assert life("killed", drawn.randint(total // 4, total // 2)) in (-signal.SIGKILL, 0)
    assert life("killed", 0) == 0
    assert result_of(made, "killed") == expected


def without_dropout(made: Made) -> ModelSettings:
    path = made.model / "config.json"
    config = json.loads(path.read_text())
    folder = made.folder / "still"
    folder.mkdir()
    for file in made.model.rglob("*"):
        if file.is_file():
            target = folder / file.relative_to(made.model)
            target.parent.mkdir(exist_ok=True)
            target.write_bytes(file.read_bytes())
    config |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    (folder / "config.json").write_text(json.dumps(config))
    return ModelSettings(str(folder), max_tokens=24)


def _pretrain(made: Made, settings: PretrainSettings, run: str) -> None:
    pretrain(made.place(run), settings)


@pytest.mark.parametrize("engine", ["torch", pytest.param("deepspeed", marks=pytest.mark.slow)])
def test_processes_together_are_one_big_batch(made: Made, engine: str) -> None:
    if engine == "deepspeed":
        pytest.importorskip("deepspeed")
    settings = settings_of(made, model=without_dropout(made), steps=4)
    run_here(made, settings, "alone")
    many = replace(settings, engine=engine)
    assert run_group(_pretrain, [made, many, "group"], 3) == [0, 0, 0]
    one, three = (read_metrics(made.folder / run / "metrics.jsonl") for run in ("alone", "group"))
    assert len(one) == len(three) == 4
    for left, right in zip(one, three, strict=True):
        for name in ("loss/encoder", "loss/decoder", "gradient_norm"):
            assert right[name] == pytest.approx(left[name], rel=1e-4), name
    alone, group = (
        load_file(made.folder / run / "checkpoint" / "model.safetensors")
        for run in ("alone", "group")
    )
    for name, weight in alone.items():
        if name.endswith("key.bias"):
            continue  # it shifts all scores of a query: its gradient is rounding, which Adam scales
        torch.testing.assert_close(group[name], weight, rtol=0, atol=5e-4, msg=name)


def test_the_output_is_an_ordinary_encoder_without_the_decoder(whole: Made) -> None:
    folder = whole.folder / "whole" / "checkpoint"
    names = set(load_file(folder / "model.safetensors"))
    assert names == set(load_file(whole.model / "model.safetensors"))
    kept = set(load_file(folder / "training" / "losses.safetensors"))
    assert {name.split(".")[0] for name in kept} == {"head", "decoder"}
    vectors = Encoder.load(EncoderSettings(str(folder), threads=1)).encode(["a 怎"], "passage")
    from sentence_transformers import SentenceTransformer

    theirs = SentenceTransformer(str(folder), device="cpu").encode(["a 怎"])
    np.testing.assert_allclose(vectors, theirs, atol=1e-5)


def test_a_passage_is_once_in_an_epoch_and_another_seed_orders_otherwise() -> None:
    settings = PretrainSettings(ModelSettings("x"), batch=10)
    plan = PassagePlan(40, settings)
    epochs = [
        np.concatenate([plan.rows(step, process, 3) for step in range(e * 4, e * 4 + 4)
                        for process in range(3)])
        for e in range(2)
    ]  # fmt: skip
    assert all(sorted(epoch.tolist()) == list(range(40)) for epoch in epochs)
    assert epochs[0].tolist() != epochs[1].tolist()
    other = PassagePlan(40, replace(settings, seed=2)).rows(0, 0, 1)
    assert other.tolist() != plan.rows(0, 0, 1).tolist()
    with pytest.raises(ValueError, match="batch is 10 and the snapshot has 9 passages"):
        PassagePlan(9, settings)


def test_150_steps_lower_both_losses_clearly(made: Made) -> None:
    settings = settings_of(
        made, steps=150, batch=12, batch_tokens=1024, checkpoint_every=150,
        optimizer=OptimizerSettings(lr=3e-3),
    )  # fmt: skip
    run_here(made, settings)
    lines = read_metrics(made.folder / "a" / "metrics.jsonl")
    for name in ("loss/encoder", "loss/decoder"):
        first, last = (np.mean([line[name] for line in part]) for part in (lines[:5], lines[-5:]))
        assert last < 0.6 * first, name


def test_a_run_goes_on_from_its_folder_by_its_own_command_only(whole: Made) -> None:
    folder = whole.folder / "whole"
    place, settings = load_pretraining_run(folder)
    assert settings == settings_of(whole)
    assert pretrain(place, settings).name == f"checkpoint-{STEPS:08d}"
    with pytest.raises(CatalogError, match="holds a run of lode pretrain; resume it with lode"):
        load_run(folder)


def test_a_model_that_is_no_bert_is_refused_and_the_folder_stays_free(made: Made) -> None:
    base = model_folders.distilbert(made.folder / "distil")
    settings = settings_of(made, model=ModelSettings(str(base)))
    with pytest.raises(ValueError, match=r"distilbert .* absolute positions: bert, roberta"):
        pretrain(made.place("a"), settings)
    headed = model_folders.conan(made.folder / "headed")
    with pytest.raises(ValueError, match="heads Dense; the decoder takes one pooled vector"):
        pretrain(made.place("a"), settings_of(made, model=ModelSettings(str(headed))))
    assert not (made.folder / "a" / "run.json").exists()


def test_other_masks_are_another_run(whole: Made) -> None:
    other = settings_of(whole, mask=MaskSettings(decoder_share=0.7))
    with pytest.raises(CatalogError, match=r"another run \(other mask\.decoder_share\)"):
        pretrain(whole.place("whole"), other)
