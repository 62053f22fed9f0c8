"""The model in training: heads, prompts, micro-batches and what stays frozen."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mining.pooling import Dense
from tests import model_folders
from trainer.model import EmbeddingModel, ModelSettings, seed_step
from trainer.model_export import save_model

TEXTS = ["q1", "a longer text, with many more signs in it", "", "怎么学钢琴", "q1"]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return model_folders.bge(tmp_path_factory.mktemp("models") / "bge")


def model_of(
    base: Path, batch_tokens: int = 64, precision: str = "float32", **more: Any
) -> EmbeddingModel:
    return EmbeddingModel(ModelSettings(str(base), **more), 1, precision, batch_tokens)


def test_micro_batches_change_neither_order_nor_vectors(base: Path) -> None:
    whole, cut = model_of(base, 4096).eval(), model_of(base, 8).eval()
    tokens = whole.tokenize(TEXTS)
    assert (len(whole.micro_batches(tokens)), len(cut.micro_batches(tokens))) == (1, 4)
    torch.testing.assert_close(whole(tokens), cut(tokens), rtol=1e-4, atol=1e-5)
    assert torch.equal(whole(tokens)[0], whole(tokens)[4])


def test_no_texts_are_no_rows_with_a_gradient_of_zero(base: Path) -> None:
    model = model_of(base, head_width=8)
    rows = model(model.tokenize([]))
    assert rows.shape == (0, 8)
    rows.sum().backward()
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    assert all(weight.grad is not None and not weight.grad.any() for weight in trained)


def test_a_pooler_that_nothing_reads_is_not_trained(base: Path) -> None:
    named = model_of(base).named_parameters()
    frozen = [name for name, weight in named if not weight.requires_grad]
    assert frozen
    assert all(".pooler." in name for name in frozen)


def test_a_new_head_is_drawn_from_the_seed_and_trained(base: Path) -> None:
    one, two = (model_of(base, head_width=24).heads[0].linear for _ in range(2))
    assert torch.equal(one.weight, two.weight)
    other = EmbeddingModel(ModelSettings(str(base), head_width=24), 2, "float32", 64)
    assert not torch.equal(one.weight, other.heads[0].linear.weight)
    assert one.weight.requires_grad
    assert one.bias.requires_grad


def test_a_base_that_has_the_head_keeps_it(tmp_path: Path, base: Path) -> None:
    first = model_of(base, head_width=24)
    save_model(first, tmp_path / "first", "")
    second = model_of(tmp_path / "first", head_width=24)
    (kept,) = (head for head in second.heads.children() if isinstance(head, Dense))
    assert torch.equal(kept.linear.weight, first.heads[0].linear.weight)
    assert second.width == 24
    wider = model_of(tmp_path / "first", head_width=48)
    assert sum(isinstance(head, Dense) for head in wider.heads.children()) == 2


def test_prompts_are_the_folders_unless_others_are_given(tmp_path: Path, base: Path) -> None:
    folder = model_folders.prompted(tmp_path / "prompted")
    assert [model_of(folder).prompt(side) for side in ("query", "passage")] == ["query: ", "doc: "]
    other = model_of(folder, query_instruction="")
    assert [other.prompt(side) for side in ("query", "passage")] == ["", "doc: "]
    assert model_of(base).prompt("query") == ""


def test_texts_are_cut_at_the_smaller_of_both_limits(base: Path) -> None:
    long = ["a " * 100]
    assert model_of(base).tokenize(long).lengths.tolist() == [48]
    assert model_of(base, max_tokens=10).tokenize(long).lengths.tolist() == [10]
    assert model_of(base, max_tokens=1000).tokenize(long).lengths.tolist() == [48]


def test_pooling_is_given_to_a_base_that_names_none(tmp_path: Path) -> None:
    folder = model_folders.bert(tmp_path / "plain")
    with pytest.raises(ValueError, match="does not say how token vectors become one"):
        model_of(folder)
    tokens = model_of(folder, pooling="cls").tokenize(TEXTS[:2])
    cls, mean = (model_of(folder, pooling=mode).eval()(tokens) for mode in ("cls", "mean"))
    assert not torch.allclose(cls, mean)


def test_bfloat16_is_near_float32_and_its_gradients_are_float32(base: Path) -> None:
    vectors = []
    for precision in ("float32", "bfloat16"):
        model = model_of(base, precision=precision).eval()
        found = model(model.tokenize(TEXTS))
        assert found.dtype == torch.float32
        found.square().sum().backward()
        gradients = [w.grad for w in model.parameters() if w.requires_grad]
        assert all(g is not None and g.dtype == torch.float32 for g in gradients)
        vectors.append(found.detach())
    assert torch.nn.functional.cosine_similarity(*vectors).min() > 0.99


def test_dropout_is_drawn_from_step_and_process(base: Path) -> None:
    model = model_of(base)
    tokens = model.tokenize(TEXTS)

    def vectors(step: int, process: int) -> np.ndarray:
        seed_step(1, step, process)
        return model(tokens).detach().numpy()

    np.testing.assert_array_equal(vectors(3, 0), vectors(3, 0))
    assert not np.allclose(vectors(3, 0), vectors(4, 0))
    assert not np.allclose(vectors(3, 0), vectors(3, 1))


@pytest.mark.parametrize("name", ["max_tokens", "head_width"])
def test_sizes_below_one_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} is 0; it must be at least 1"):
        ModelSettings("m", **{name: 0})
