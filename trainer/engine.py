"""Engines: gradients become an update, in one process or several, by plain torch or DeepSpeed.

Both have the same few calls. Every process calls ``backward`` with its share of the loss (see
``trainer.balance``) as often as it likes, then ``step`` once: gradients are averaged over the
processes, clipped by their global norm, and applied.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
import torch.distributed as dist
from torch import Tensor, nn

# Gradients averaged in one message; larger ones need as much memory again.
BUCKET_BYTES: Final = 64 << 20
OPTIMIZER_FILE: Final = "optimizer.safetensors"
_STATES: Final = ("exp_avg", "exp_avg_sq", "step")


@dataclass(frozen=True)
class OptimizerSettings:
    """AdamW with warm-up and decay. ``warmup`` is a share of all steps; ``clip`` 0 turns it off.

    Defaults are those of Conan-embedding v1 (arXiv 2408.15710, section 4.1) where it prints them.
    """

    lr: float = 1e-5
    warmup: float = 0.05
    decay: str = "linear"
    weight_decay: float = 0.001
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8
    clip: float = 1.0

    def __post_init__(self) -> None:
        if self.decay not in ("linear", "cosine", "constant"):
            raise ValueError(f"decay is {self.decay!r}; allowed are linear, cosine and constant")
        if not 0 <= self.warmup < 1 or self.lr <= 0 or self.weight_decay < 0 or self.clip < 0:
            raise ValueError(
                f"lr is {self.lr}, warmup {self.warmup}, weight_decay {self.weight_decay} and clip "
                f"{self.clip}; lr > 0, 0 <= warmup < 1, and neither of the others below 0"
            )


def lr_at(step: int, steps: int, settings: OptimizerSettings) -> float:
    """Return the learning rate of a step, counted from 0, out of ``steps``."""
    warmup = round(steps * settings.warmup)
    if step < warmup:
        return settings.lr * (step + 1) / warmup
    done = (step - warmup) / max(steps - warmup, 1)
    if settings.decay == "linear":
        return settings.lr * max(1.0 - done, 0.0)
    if settings.decay == "cosine":
        return settings.lr * 0.5 * (1.0 + float(torch.cos(torch.tensor(torch.pi * done))))
    return settings.lr


class NotFiniteError(RuntimeError):
    """The loss or a gradient is NaN or infinite; nothing of the step was applied."""


class Engine(ABC):
    """What a training step needs of an engine."""

    module: nn.Module
    is_split = False  # the saved state is one process's share, for as many processes only

    def accumulating(self) -> AbstractContextManager[Any]:
        """Enclose several calls of ``backward`` before one ``step``."""
        return nullcontext()

    @abstractmethod
    def backward(self, loss: Tensor) -> None:
        """Add the gradients of this process's share of the loss."""

    @abstractmethod
    def step(self, lr: float) -> float:
        """Apply the averaged gradients; return their norm before clipping."""

    @abstractmethod
    def save(self, folder: Path) -> None:
        """Write the optimizer's state; every process calls it."""

    @abstractmethod
    def load(self, folder: Path) -> None:
        """Read the optimizer's state; every process calls it."""


class TorchEngine(Engine):
    """Plain torch: gradients are averaged in buckets after the last backward."""

    def __init__(self, module: nn.Module, settings: OptimizerSettings) -> None:
        self.module, self.settings = module, settings
        self.names = [name for name, weight in module.named_parameters() if weight.requires_grad]
        self.optimizer = make_optimizer(module, settings)

    def backward(self, loss: Tensor) -> None:
        """Add gradients."""
        loss.backward()  # type: ignore[no-untyped-call]

    def step(self, lr: float) -> float:
        """Average, clip and apply."""
        weights = [weight for weight in self.module.parameters() if weight.requires_grad]
        average_gradients(weights)
        norm = clip_gradients(weights, self.settings.clip)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return norm

    def save(self, folder: Path) -> None:
        """Write the moments by parameter name; processes hold the same, so the first one writes."""
        from safetensors.torch import save_file

        if is_first_process():
            parameters = dict(self.module.named_parameters())
            tensors = {}
            for name in self.names:
                for key, value in self.optimizer.state[parameters[name]].items():
                    tensors[f"{name}/{key}"] = torch.as_tensor(value).contiguous()
            save_file(tensors, folder / OPTIMIZER_FILE)

    def load(self, folder: Path) -> None:
        """Read what ``save`` wrote; raise where it is of another model."""
        from safetensors.torch import load_file

        path = folder / OPTIMIZER_FILE
        if not path.exists():
            raise ValueError(f"{folder} has no {OPTIMIZER_FILE}; it was written by DeepSpeed")
        tensors = load_file(path)
        parameters = dict(self.module.named_parameters())
        # A weight that has had no gradient yet has no state.
        begun = {name.rpartition("/")[0] for name in tensors}
        expected = {f"{name}/{key}" for name in begun for key in _STATES}
        if begun - set(self.names) or set(tensors) != expected:
            odd = sorted((begun - set(self.names)) or (set(tensors) ^ expected))[0]
            raise ValueError(f"{path} is of another model (first: {odd})")
        for name in sorted(begun):
            weight = parameters[name]
            self.optimizer.state[weight] = {
                # Fused AdamW wants the count of steps beside the weight, too.
                key: tensors[f"{name}/{key}"].to(weight.device)
                for key in _STATES
            }


class DeepSpeedEngine(Engine):
    """DeepSpeed's ZeRO stage 1: each process keeps its share of the optimizer's state.

    Weights stay in float32 as with plain torch, so that checkpoints are the same; the model itself
    computes in bfloat16 where it is told so.
    """

    is_split = True

    def __init__(self, module: nn.Module, settings: OptimizerSettings) -> None:
        deepspeed = _import_deepspeed()
        optimizer = make_optimizer(module, settings)
        self.inner, *_ = deepspeed.initialize(
            model=module,
            optimizer=optimizer,
            config={
                "train_micro_batch_size_per_gpu": 1,
                "gradient_accumulation_steps": 1,
                "gradient_clipping": settings.clip,
                "zero_optimization": {"stage": 1},
                "zero_allow_untested_optimizer": True,
            },
        )
        self.module = self.inner.module

    def accumulating(self) -> AbstractContextManager[Any]:
        """Let DeepSpeed reduce once for several backwards."""
        context: AbstractContextManager[Any] = self.inner.coalesce_grad_reduction()
        return context

    def backward(self, loss: Tensor) -> None:
        """Add gradients."""
        self.inner.backward(loss)

    def step(self, lr: float) -> float:
        """Let DeepSpeed average, clip and apply."""
        for group in self.inner.optimizer.param_groups:
            group["lr"] = lr
        self.inner.step()
        norm = self.inner.get_global_grad_norm()
        value = float(norm) if norm is not None else 0.0
        _check_norm(value)
        return value

    def save(self, folder: Path) -> None:
        """Write every process's share."""
        self.inner.save_checkpoint(str(folder), tag="deepspeed", save_latest=False)

    def load(self, folder: Path) -> None:
        """Read every process's share; DeepSpeed wants as many processes as there were."""
        path, _ = self.inner.load_checkpoint(str(folder), tag="deepspeed")
        if path is None:
            raise ValueError(f"{folder} has no state of DeepSpeed; it was written by plain torch")


def make_engine(name: str, module: nn.Module, settings: OptimizerSettings) -> Engine:
    """Make the engine that settings name: ``torch`` or ``deepspeed``."""
    kind = DeepSpeedEngine if name == "deepspeed" else TorchEngine
    return kind(module, settings)


def make_optimizer(module: nn.Module, settings: OptimizerSettings) -> torch.optim.AdamW:
    """Make AdamW; biases and norms are not decayed, as in BERT's own training."""
    decayed: list[nn.Parameter] = []
    plain: list[nn.Parameter] = []
    for weight in module.parameters():
        if weight.requires_grad:
            (decayed if weight.ndim > 1 else plain).append(weight)
    groups = [
        {"params": decayed, "weight_decay": settings.weight_decay},
        {"params": plain, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(
        [group for group in groups if group["params"]],
        lr=settings.lr,
        betas=(settings.beta1, settings.beta2),
        eps=settings.eps,
        fused=True,
    )


def average_gradients(weights: Iterable[nn.Parameter]) -> None:
    """Average gradients over all processes; a weight that a process did not use counts as zero."""
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return
    for bucket in _buckets(weights):
        flat = torch.cat([weight.grad.reshape(-1) for weight in bucket if weight.grad is not None])
        dist.all_reduce(flat)
        flat /= dist.get_world_size()
        at = 0
        for weight in bucket:
            assert weight.grad is not None
            weight.grad.copy_(flat[at : at + weight.numel()].view_as(weight))
            at += weight.numel()


def clip_gradients(weights: Iterable[nn.Parameter], clip: float) -> float:
    """Scale gradients so that their common norm is at most ``clip``; return what it was."""
    norm = float(torch.nn.utils.clip_grad_norm_(list(weights), clip if clip else torch.inf))
    _check_norm(norm)
    return norm


def is_first_process() -> bool:
    """Say whether this process speaks for all."""
    return not dist.is_initialized() or dist.get_rank() == 0


def _check_norm(norm: float) -> None:
    if not norm < float("inf"):
        raise NotFiniteError(
            f"the norm of the gradients is {norm}; the last checkpoint is good: lower lr, or "
            "train in float32"
        )


def _buckets(weights: Iterable[nn.Parameter]) -> Iterator[list[nn.Parameter]]:
    """Group weights, each with a gradient, into messages of about BUCKET_BYTES."""
    bucket: list[nn.Parameter] = []
    size = 0
    for weight in weights:
        if weight.grad is None:
            weight.grad = torch.zeros_like(weight)
        bucket.append(weight)
        size += weight.numel() * weight.element_size()
        if size >= BUCKET_BYTES:
            yield bucket
            bucket, size = [], 0
    if bucket:
        yield bucket


def _import_deepspeed() -> Any:
    try:
        import deepspeed
    except ImportError:
        raise ValueError(
            "engine 'deepspeed' needs DeepSpeed: pip install 'lode-engine[deepspeed]', or take "
            "engine 'torch'"
        ) from None
    # Otherwise the first start on CPU compiles for minutes and needs g++ and ninja.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    return deepspeed
