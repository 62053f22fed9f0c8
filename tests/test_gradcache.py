"""GradCache gives the gradient of the whole batch, dropout and all."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from trainer.contrastive import Contrast, info_nce
from trainer.gradcache import RandomState, cached_step
from trainer.temperature import Temperature

ROWS, NEGATIVES, INPUTS, WIDTH = 6, 2, 5, 4


class Encoder(nn.Module):
    """Two layers with dropout; keeps the number of rows that were encoded with a graph at once."""

    def __init__(self, dropout: float) -> None:
        super().__init__()
        torch.manual_seed(0)
        layers = [nn.Linear(INPUTS, 8), nn.Tanh(), nn.Dropout(dropout), nn.Linear(8, WIDTH)]
        self.layers = nn.Sequential(*layers).double()
        self.recorded: list[int] = []

    def forward(self, rows: Tensor) -> Tensor:
        if torch.is_grad_enabled():
            self.recorded.append(len(rows))
        embeddings: Tensor = self.layers(rows)
        return embeddings


def make_sides() -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    rows = (ROWS, ROWS, ROWS * NEGATIVES)
    return [torch.randn(n, INPUTS, generator=generator, dtype=torch.float64) for n in rows]


def make_loss(temperature: Temperature) -> object:
    def loss(queries: Tensor, positives: Tensor, negatives: Tensor) -> Tensor:
        lists = negatives.unflatten(0, (len(queries), NEGATIVES))
        return info_nce(queries, positives, lists, Contrast(), temperature=temperature())

    return loss


def gradients(*modules: nn.Module) -> list[Tensor]:
    found = [parameter.grad for module in modules for parameter in module.parameters()]
    assert all(each is not None and each.abs().sum() > 0 for each in found)
    return found


def encode_plainly(encoder: Encoder, sides: list[list[Tensor]]) -> list[Tensor]:
    """Encode the same chunks in the same order, so that dropout draws the same numbers."""
    return [torch.cat([encoder(chunk) for chunk in chunks]) for chunks in sides]


def assert_equal(left: list[Tensor], right: list[Tensor]) -> None:
    for one, other in zip(left, right, strict=True):
        np.testing.assert_allclose(one.detach().numpy(), other.detach().numpy(), rtol=1e-10)


@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize("chunk_rows", [1, 4, 100])
def test_gradcache_is_the_plain_gradient(dropout: float, chunk_rows: int) -> None:
    sides = [list(side.split(chunk_rows)) for side in make_sides()]
    plain, plain_temperature = Encoder(dropout), Temperature(0.1).double()
    torch.manual_seed(5)
    value = make_loss(plain_temperature)(*encode_plainly(plain, sides))
    value.backward()
    cached, temperature = Encoder(dropout), Temperature(0.1).double()
    torch.manual_seed(5)
    cached_value = cached_step(cached, sides, make_loss(temperature))
    assert_equal([cached_value], [value])
    assert_equal(gradients(cached, temperature), gradients(plain, plain_temperature))
    assert max(cached.recorded) <= chunk_rows


def test_gradients_are_added_to_those_of_earlier_steps() -> None:
    sides = [[side] for side in make_sides()]
    encoder, temperature = Encoder(0.0), Temperature(0.1).double()
    cached_step(encoder, sides, make_loss(temperature))
    once = [each.clone() for each in gradients(encoder, temperature)]
    cached_step(encoder, sides, make_loss(temperature))
    assert_equal(gradients(encoder, temperature), [2 * each for each in once])


def test_the_random_generator_ends_as_after_a_plain_step() -> None:
    sides = [list(side.split(2)) for side in make_sides()]
    encoder = Encoder(0.3)
    torch.manual_seed(5)
    encode_plainly(encoder, sides)
    expected = torch.get_rng_state()
    torch.manual_seed(5)
    cached_step(encoder, sides, make_loss(Temperature(0.1).double()))
    assert torch.equal(torch.get_rng_state(), expected)


def test_each_chunk_draws_its_own_dropout() -> None:
    same = torch.ones(2, INPUTS, dtype=torch.float64)
    seen: list[Tensor] = []
    cached_step(Encoder(0.3), [[same, same]], lambda rows: seen.append(rows.detach()) or rows.sum())
    assert not torch.equal(seen[0][:2], seen[0][2:])


def test_a_random_state_draws_again_and_then_steps_aside() -> None:
    state = RandomState.read()
    first = torch.rand(3)
    after = torch.get_rng_state()
    with state.restored():
        assert torch.equal(torch.rand(3), first)
    assert torch.equal(torch.get_rng_state(), after)


def test_a_side_that_the_loss_does_not_use_adds_no_gradient() -> None:
    queries, positives, _ = make_sides()
    encoder = Encoder(0.0)
    used = cached_step(encoder, [[queries]], lambda rows: rows.square().sum())
    expected = [each.clone() for each in gradients(encoder)]
    encoder.zero_grad()
    both = cached_step(encoder, [[queries], [positives]], lambda rows, _: rows.square().sum())
    assert_equal([both, *gradients(encoder)], [used, *expected])


def test_the_callers_backward_is_called_for_the_loss_and_for_each_chunk() -> None:
    calls: list[Tensor] = []

    def backward(number: Tensor) -> None:
        calls.append(number.detach())
        number.backward()

    sides = [list(side.split(3)) for side in make_sides()]
    value = cached_step(Encoder(0.0), sides, make_loss(Temperature(0.1).double()), backward)
    assert len(calls) == 1 + 2 + 2 + 4
    assert calls[0] == value


def test_a_side_without_chunks_is_refused() -> None:
    with pytest.raises(ValueError, match=r"sides have \[1, 0\] chunks"):
        cached_step(Encoder(0.0), [[make_sides()[0]], []], lambda *sides: sides[0].sum())
