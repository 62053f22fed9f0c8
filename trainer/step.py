"""The step: texts become embeddings, the losses of all tasks one gradient, the gradient an update.

Everything that training does to a model is on this page.
"""

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from mining.token_batches import TokenizedTexts
from trainer.engine import Engine, NotFiniteError
from trainer.gradcache import cached_step
from trainer.model import EmbeddingModel
from trainer.model_export import save_model
from trainer.task_losses import TaskLosses
from trainer.updates import Update


class Trained(nn.Module):
    """What is trained: the model, and the losses with their learned temperatures."""

    def __init__(self, model: EmbeddingModel, losses: TaskLosses) -> None:
        super().__init__()
        self.model, self.losses = model, losses

    def save_model(self, folder: Path, card: str) -> None:
        """Write the model with its card as a folder that others load."""
        save_model(self.model, folder, card)


@dataclass(frozen=True)
class StepResult:
    """What a step says of itself: big-batch losses by task, and the norm of the gradient."""

    losses: dict[str, float]
    gradient_norm: float
    tokens: int  # of this process


def train_step(
    trained: Trained, engine: Engine, update: Update, lr: float, *, cached: bool = False
) -> StepResult:
    """Make one update of the weights; raise NotFiniteError, and change nothing, where it is NaN.

    ``cached``: encode in micro-batches without their graphs, then each again with its own
    (GradCache): the same gradient from the memory of one micro-batch.
    """
    model, losses = trained.model, trained.losses
    with engine.accumulating():
        if cached:
            chunks, order = _cut(model, update.texts)
            cached_step(
                model,
                [chunks],
                lambda rows_TD: _checked(losses(rows_TD[order], update), update),
                engine.backward,
            )
        else:
            embeddings_TD = model(update.texts)
            engine.backward(_checked(losses(embeddings_TD, update), update))
    norm = engine.step(lr)
    return StepResult(big_batch_losses(losses), norm, len(update.texts.tokens))


def big_batch_losses(losses: TaskLosses) -> dict[str, float]:
    """Return each task's loss over all processes: the mean of the shares of its processes."""
    names = list(losses.settings.tasks)
    device = next(iter(losses.values.values())).device
    shares = torch.zeros(len(names), dtype=torch.float64, device=device)
    for place, name in enumerate(names):
        if name in losses.values:
            shares[place] = losses.values[name].double()
    if dist.is_initialized() and dist.get_world_size() > 1:
        dist.all_reduce(shares)
    means = shares / torch.tensor([len(losses.spans[name]) for name in names], device=device)
    return dict(zip(names, means.tolist(), strict=True))


def _checked(loss: Tensor, update: Update) -> Tensor:
    """Return a loss that is a number; where one process has none, all of them stop."""
    bad = torch.logical_not(torch.isfinite(loss.detach())).double()
    if dist.is_initialized() and dist.get_world_size() > 1:
        dist.all_reduce(bad)
    if bool(bad):
        value = float(loss.detach())
        where = "" if not math.isfinite(value) else " on another process"
        raise NotFiniteError(
            f"the loss of step {update.step} is {value}{where}; the last checkpoint is good: "
            "lower lr, raise the temperature, or train in float32"
        )
    return loss


def _cut(model: EmbeddingModel, texts: TokenizedTexts) -> tuple[list[TokenizedTexts], Tensor]:
    """Cut texts into micro-batches; return them, and where each text is among their rows."""
    batches = model.micro_batches(texts)
    if not batches:
        return [texts], torch.zeros(0, dtype=torch.int64)
    order = np.argsort(np.concatenate(batches))
    return [texts.take(rows) for rows in batches], torch.from_numpy(order).to(model.device)
