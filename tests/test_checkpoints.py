"""Checkpoints: folders that others load with equal vectors, and all that a run goes on from."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from catalog.errors import CatalogError
from mining.encoder import Encoder, EncoderSettings
from tests import model_folders
from tests.train_process import Made, make, run_here
from trainer.checkpoints import (
    Progress,
    load_checkpoint,
    newest_checkpoint,
    note_processes,
    read_progress,
    save_checkpoint,
    tidy_checkpoints,
)
from trainer.cosines import normalize
from trainer.engine import OptimizerSettings, TorchEngine
from trainer.model import EmbeddingModel, ModelSettings
from trainer.model_export import save_model
from trainer.settings import LEARNED, ContrastiveTask
from trainer.step import Trained
from trainer.task_losses import TaskLosses

sentence_transformers = pytest.importorskip("sentence_transformers")

TEXTS = ["q1", "怎么学钢琴", "the answer 3, and more of it: 12", "A", "only a candidate 7"]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return make(tmp_path_factory.mktemp("checkpoints"))


def model_of(folder: Path, **more: Any) -> EmbeddingModel:
    return EmbeddingModel(ModelSettings(str(folder), **more), 1, "float32", 64)


@torch.no_grad()
def embed(model: EmbeddingModel, side: str) -> np.ndarray:
    texts = [model.prompt(side) + text for text in TEXTS]
    return normalize(model.eval()(model.tokenize(texts))).numpy()


def assert_others_embed_alike(model: EmbeddingModel, folder: Path) -> None:
    """Compare sentence-transformers and Lode's encoder with the model in training."""
    other = sentence_transformers.SentenceTransformer(str(folder), device="cpu")
    encoder = Encoder.load(EncoderSettings(str(folder), device="cpu", dtype="float32", threads=1))
    for side, encode in (("query", other.encode_query), ("passage", other.encode_document)):
        expected = embed(model, side)
        theirs, ours = encode(TEXTS, show_progress_bar=False), encoder.encode(TEXTS, side)
        for found in (theirs, ours):
            cosines = (found * expected).sum(axis=1) / np.linalg.norm(found, axis=1)
            assert cosines.min() > 0.9999
    assert other.get_max_seq_length() == model.folder.max_tokens


@pytest.mark.parametrize("layout", model_folders.LAYOUTS)
def test_every_published_layout_is_saved_as_others_load_it(
    layout: Callable[[Path], Path], tmp_path: Path
) -> None:
    model = model_of(layout(tmp_path / "base"))
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(1.01)
    save_model(model, tmp_path / "saved", "a card")
    assert_others_embed_alike(model, tmp_path / "saved")


def test_a_new_head_and_instructions_are_saved(tmp_path: Path) -> None:
    base = model_folders.bge(tmp_path / "base")
    more = {"head_width": 48, "query_instruction": "find: ", "passage_instruction": "read: "}
    model = model_of(base, max_tokens=20, **more)
    save_model(model, tmp_path / "saved", "a card")
    assert_others_embed_alike(model, tmp_path / "saved")
    assert embed(model, "query").shape == (len(TEXTS), 48)
    kinds = [type(head).__name__ for head in model.heads.children()]
    assert kinds == ["Dense", "_Normalize"]
    assert not np.allclose(embed(model, "query"), embed(model, "passage"))


# What a run goes on from ------------------------------------------------------------------------


def trained_of(made: Made, base: Path) -> tuple[Trained, TorchEngine]:
    task = ContrastiveTask(6, temperature=LEARNED)
    settings = made.settings(model=ModelSettings(str(base)), retrieval=task, sts=None)
    trained = Trained(
        EmbeddingModel(settings.model, 1, "float32", 64),
        TaskLosses(settings, 1, {"retrieval": None}),
    )
    return trained, TorchEngine(trained, OptimizerSettings(lr=0.1))


def move(trained: Trained, engine: TorchEngine) -> None:
    trained.eval()
    vectors = trained.model(trained.model.tokenize(TEXTS))
    engine.backward((vectors[0] * vectors[1]).sum() / trained.losses.temperature("retrieval"))
    engine.step(0.01)


def test_what_is_loaded_goes_on_as_what_was_saved(made: Made, tmp_path: Path) -> None:
    trained, engine = trained_of(made, made.model)
    move(trained, engine)
    path = save_checkpoint(tmp_path, Progress(1, "key", ((0, 1),)), trained, engine, None, "card")
    again, other = trained_of(made, path)
    assert load_checkpoint(path, again, other, None, "key") == Progress(1, "key", ((0, 1),))
    for _ in range(2):
        move(trained, engine)
        move(again, other)
    for (name, one), (_, two) in zip(
        trained.named_parameters(), again.named_parameters(), strict=True
    ):
        assert torch.equal(one, two), name
    assert trained.losses.temperature("retrieval") != 0.05


def test_a_checkpoint_of_another_pack_is_refused(made: Made, tmp_path: Path) -> None:
    trained, engine = trained_of(made, made.model)
    path = save_checkpoint(tmp_path, Progress(1, "key", ((0, 1),)), trained, engine, None, "card")
    with pytest.raises(CatalogError, match="on the pack key, this is other: the snapshot"):
        load_checkpoint(path, trained, engine, None, "other")


def test_an_optimizer_of_another_model_is_refused(made: Made, tmp_path: Path) -> None:
    trained, engine = trained_of(made, made.model)
    move(trained, engine)
    engine.save(tmp_path)
    trained.losses.temperatures.clear()
    other = TorchEngine(trained, OptimizerSettings())
    with pytest.raises(ValueError, match=r"is of another model \(first: losses.temperatures"):
        other.load(tmp_path)


def test_a_model_without_its_training_is_not_resumed(made: Made) -> None:
    with pytest.raises(CatalogError, match="it can be a base, not resumed"):
        read_progress(made.model)


def test_changes_of_the_number_of_processes_are_kept() -> None:
    assert note_processes((), 0, 2) == ((0, 2),)
    assert note_processes(((0, 2),), 8, 2) == ((0, 2),)
    assert note_processes(((0, 2),), 8, 4) == ((0, 2), (8, 4))


def test_a_run_keeps_the_newest_checkpoints_and_points_to_the_last(made: Made) -> None:
    settings = made.settings(
        steps=3, checkpoint_every=1, keep_checkpoints=2, sts=None,
        retrieval=ContrastiveTask(6, temperature=LEARNED),
        model=ModelSettings(str(made.model), head_width=24, query_instruction="find: "),
    )  # fmt: skip
    newest, _ = run_here(made, settings, "kept")
    run = made.folder / "kept"
    names = sorted(path.name for path in run.iterdir() if "checkpoint" in path.name)
    assert names == ["checkpoint", "checkpoint-00000002", "checkpoint-00000003"]
    link = run / "checkpoint"
    assert link.is_symlink()
    assert link.resolve() == newest.resolve() == newest_checkpoint(run).resolve()
    assert_others_embed_alike(model_of(link), link)
    card = (link / "README.md").read_text()
    told = ("# kept", "step 3 of 3", "Snapshot `v1`", "mine-1", "| web |", "retrieval: InfoNCE")
    assert [part for part in told if part not in card] == []
    assert json.loads((link / "training" / "state.json").read_text())["step"] == 3


def test_what_killed_lives_left_is_tidied_up(made: Made, tmp_path: Path) -> None:
    trained, engine = trained_of(made, made.model)
    for step in (1, 2, 3):  # killed before the link was made
        progress = Progress(step, "key", ((0, 1),))
        save_checkpoint(tmp_path, progress, trained, engine, None, "card")
    (tmp_path / ".checkpoint-00000004.tmp" / "training").mkdir(parents=True)
    (tmp_path / ".checkpoint.1.tmp").symlink_to("checkpoint-00000001")
    tidy_checkpoints(tmp_path, 2)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["checkpoint", "checkpoint-00000002", "checkpoint-00000003"]
    assert (tmp_path / "checkpoint").resolve().name == "checkpoint-00000003"


def test_what_a_killed_save_left_is_no_checkpoint(made: Made, tmp_path: Path) -> None:
    trained, engine = trained_of(made, made.model)
    left = tmp_path / ".checkpoint-00000002.tmp"
    (left / "training").mkdir(parents=True)
    (left / "model.safetensors").write_bytes(b"half")
    assert newest_checkpoint(tmp_path) is None
    path = save_checkpoint(tmp_path, Progress(2, "key", ((0, 1),)), trained, engine, None, "card")
    assert newest_checkpoint(tmp_path) == path
    assert (path / "model.safetensors").stat().st_size > 4
    assert not left.exists()
