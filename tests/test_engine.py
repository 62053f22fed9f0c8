"""Engines: the schedule, AdamW with averaged and clipped gradients, and DeepSpeed beside torch."""

import math
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file
from torch import Tensor, nn

from tests.train_process import ROOT, Made, make, run_group, train_in_group
from trainer import engine as engines
from trainer import processes
from trainer.engine import (
    NotFiniteError,
    OptimizerSettings,
    TorchEngine,
    average_gradients,
    clip_gradients,
    lr_at,
)
from trainer.settings import LEARNED, ContrastiveTask, CosentTask, TrainSettings

PLAIN = OptimizerSettings(lr=0.1, weight_decay=0.01, clip=0.5)


def network(seed: int = 3) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 3), nn.LayerNorm(3), nn.Linear(3, 2))


def batch(step: int) -> Tensor:
    return torch.randn(5, 4, generator=torch.Generator().manual_seed(step))


def test_the_learning_rate_warms_up_and_falls_to_nothing() -> None:
    settings = OptimizerSettings(lr=1.0, warmup=0.2)
    assert [lr_at(step, 10, settings) for step in range(3)] == [0.5, 1.0, 1.0]
    assert lr_at(9, 10, settings) == pytest.approx(1 / 8)
    assert lr_at(10, 10, settings) == 0
    half = lr_at(6, 10, replace(settings, decay="cosine"))
    assert half == pytest.approx(0.5 * (1 + math.cos(math.pi / 2)))
    assert lr_at(9, 10, replace(settings, decay="constant")) == 1.0
    assert [lr_at(step, 1, settings) for step in range(1)] == [1.0]


def test_a_step_is_that_of_adamw_written_out() -> None:
    module = network()
    engine = TorchEngine(module, PLAIN)
    before = {name: weight.detach().clone() for name, weight in module.named_parameters()}
    engine.backward(module(batch(0)).square().sum())
    gradients = {name: weight.grad.clone() for name, weight in module.named_parameters()}
    norm = math.sqrt(sum(float(g.square().sum()) for g in gradients.values()))
    assert engine.step(0.03) == pytest.approx(norm, rel=1e-5)
    assert norm > PLAIN.clip
    for name, weight in module.named_parameters():
        gradient = gradients[name] * PLAIN.clip / norm
        decay = 0.01 if weight.ndim > 1 else 0.0
        # The first step's moments, corrected for their start, are the gradient and its square.
        moved = gradient / (gradient.abs() + 1e-8)
        expected = before[name] * (1 - 0.03 * decay) - 0.03 * moved
        torch.testing.assert_close(weight.detach(), expected, rtol=1e-4, atol=1e-5)


def test_a_clip_of_zero_leaves_gradients_as_they_are() -> None:
    weight = nn.Parameter(torch.ones(4))
    weight.grad = torch.full((4,), 100.0)
    assert clip_gradients([weight], 0.0) == 200
    assert weight.grad.tolist() == [100.0] * 4
    weight.grad[0] = math.nan
    with pytest.raises(NotFiniteError, match="norm of the gradients is nan; the last checkpoint"):
        clip_gradients([weight], 1.0)


def test_a_weight_without_a_gradient_yet_is_saved_and_loaded(tmp_path: Path) -> None:
    module = network()
    engine = TorchEngine(module, PLAIN)
    engine.backward(module[0](batch(0)).square().sum())
    engine.step(0.1)
    engine.save(tmp_path)
    other = network()
    other.load_state_dict(module.state_dict())
    again = TorchEngine(other, PLAIN)
    again.load(tmp_path)
    for one in (engine, again):
        one.backward(one.module(batch(1)).square().sum())
        one.step(0.1)
    for one, two in zip(module.parameters(), other.parameters(), strict=True):
        assert torch.equal(one, two)
    assert set(again.optimizer.state) == set(other.parameters())


def test_a_state_of_another_engine_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="it was written by DeepSpeed"):
        TorchEngine(network(), PLAIN).load(tmp_path)


@pytest.mark.parametrize("changes", [{"decay": "step"}, {"warmup": 1.0}, {"lr": 0}, {"clip": -1}])
def test_settings_that_make_no_sense_are_refused(changes: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"allowed are linear|lr > 0, 0 <= warmup < 1"):
        OptimizerSettings(**changes)


def average_here(folder: Path) -> None:
    with processes.joined("torch"):
        engines.BUCKET_BYTES = 40  # several messages
        module = network()
        rank = dist.get_rank()
        (module if rank else module[:1])(batch(rank)).square().sum().backward()
        average_gradients(module.parameters())
        torch.save([weight.grad for weight in module.parameters()], folder / f"{rank}.pt")


@pytest.mark.slow
def test_gradients_are_averaged_and_missing_ones_are_zero(tmp_path: Path) -> None:
    assert run_group(average_here, [tmp_path]) == [0, 0]
    expected = []
    for rank in range(2):
        module = network()
        (module if rank else module[:1])(batch(rank)).square().sum().backward()
        expected.append([w.grad if w.grad is not None else w * 0 for w in module.parameters()])
    for rank in range(2):
        for found, one, two in zip(torch.load(tmp_path / f"{rank}.pt"), *expected, strict=True):
            torch.testing.assert_close(found, (one + two) / 2)


# DeepSpeed --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return make(tmp_path_factory.mktemp("engine"))


def deepspeed_settings(made: Made) -> TrainSettings:
    """Uneven tasks, of which one process knows no temperature; cached: several backwards."""
    return made.settings(
        steps=3, checkpoint_every=2, cached=True, batch_tokens=64,
        retrieval=ContrastiveTask(6, processes=1, temperature=LEARNED),
        sts=CosentTask(4, processes=1),
    )  # fmt: skip


def torchrun(made: Made, run: str, steps: int) -> "subprocess.CompletedProcess[str]":
    """Train with DeepSpeed in two processes, until a step at which the first one ends."""
    script = (
        "from dataclasses import replace; from pathlib import Path\n"
        "from tests.test_engine import deepspeed_settings\n"
        "from tests.train_process import Made\n"
        "from trainer.run import train\n"
        f"made = Made(Path({str(made.folder)!r}))\n"
        f"settings = replace(deepspeed_settings(made), engine='deepspeed')\n"
        f"def say(line):\n"
        f"    if line.startswith('step       {steps}/'): raise SystemExit(9)\n"
        f"train(made.place({run!r}), settings, say)\n"
    )
    path = made.folder / f"{run}-{steps}.py"
    path.write_text(script)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2",
               "--master_port", str(29500 + os.getpid() % 1000), str(path)]  # fmt: skip
    return subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=600
    )


@pytest.mark.slow
@pytest.mark.thorough
def test_deepspeed_makes_the_steps_of_torch_and_goes_on_after_a_stop(made: Made) -> None:
    train_in_group(made, deepspeed_settings(made), "torch")
    stopped = torchrun(made, "deepspeed", steps=3)
    assert stopped.returncode, stopped.stdout
    newest = (made.folder / "deepspeed" / "checkpoint").resolve()
    assert newest.name.endswith("2"), stopped.stderr[:6000]
    finished = torchrun(made, "deepspeed", steps=0)
    assert finished.returncode == 0, finished.stderr[-3000:]
    for name in ("model.safetensors", "training/losses.safetensors"):
        one = load_file(made.folder / "torch" / "checkpoint" / name)
        two = load_file(made.folder / "deepspeed" / "checkpoint" / name)
        assert set(one) == set(two)
        for key, weight in one.items():
            # A bias of keys moves all scores of a query alike: its gradient is rounding alone, and
            # Adam makes whole steps of that.
            if not key.endswith("key.bias"):
                torch.testing.assert_close(two[key], weight, rtol=1e-4, atol=2e-5, msg=key)
