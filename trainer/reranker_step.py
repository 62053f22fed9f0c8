"""The step of a reranker: lists become logits, the loss one gradient, the gradient an update.

A query's loss needs its own list only, so every micro-batch is differentiated as soon as it is
computed: the memory is that of one.
Legend of the tensors' suffixes: N queries, L passages of a query, the positive first; P pairs.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from catalog.pack.layout import Integers
from trainer import processes
from trainer.cosines import widen
from trainer.distillation import divergences
from trainer.engine import Engine
from trainer.listwise import listwise_losses, pointwise_losses
from trainer.reranker import Reranker
from trainer.reranker_settings import RerankSettings
from trainer.reranker_updates import ABSENT, RerankUpdate


@dataclass(frozen=True)
class RerankResult:
    """What a step says of itself, over all processes.

    ``values``: big-batch losses by name, mean logits of positives and negatives, and the share of
    the lists whose positive is the first. ``tokens`` are those of this process.
    """

    values: dict[str, float]
    gradient_norm: float
    tokens: int


@dataclass
class _Sums:
    """Sums over this process's lists."""

    loss: float = 0.0
    distillation: float = 0.0
    positives: float = 0.0
    negatives: float = 0.0
    firsts: float = 0.0


def rerank_step(
    model: Reranker,
    engine: Engine,
    update: RerankUpdate,
    lr: float,
    settings: RerankSettings,
) -> RerankResult:
    """Make one update of the weights; raise NotFiniteError, and change nothing, where it is NaN."""
    counts = processes.totals([update.num_lists, update.num_pairs])
    lists, pairs = counts
    rows = lists if settings.loss == "listwise" else pairs
    scale = processes.count()  # the engine averages over the processes
    sums = _Sums()
    with engine.accumulating():
        for chosen in update.micro_batches(settings.batch_tokens):
            logits_NL = read_lists(model, update, chosen)
            loss = rerank_losses(logits_NL, settings).sum()
            total = loss * (scale / rows)
            if update.teacher is not None:
                missed = _missed(logits_NL, update.teacher[chosen], settings).sum()
                total = total + settings.distillation * missed * (scale / lists)
                sums.distillation += float(missed.detach())
            engine.backward(total)
            sums.loss += float(loss.detach())
            _observe(sums, logits_NL.detach())
    norm = engine.step(lr)
    return RerankResult(_means(sums, counts, rows, settings), norm, len(update.pairs.ids.tokens))


def read_lists(model: Reranker, update: RerankUpdate, lists: Integers) -> Tensor:
    """Return the logits of some of the update's lists, minus infinity where a list is short."""
    places = update.places[lists]
    is_there = places != ABSENT
    logits_P = widen(model(update.pairs.take(places[is_there])))
    mask_NL = torch.from_numpy(is_there).to(logits_P.device)
    absent_NL = torch.full(places.shape, -torch.inf, dtype=logits_P.dtype, device=logits_P.device)
    return absent_NL.masked_scatter(mask_NL, logits_P)


def rerank_losses(logits_NL: Tensor, settings: RerankSettings) -> Tensor:
    """Return the losses: one a query where it is listwise, one a passage where it is binary."""
    scores_NL = logits_NL / settings.temperature
    if settings.loss == "listwise":
        return listwise_losses(scores_NL)
    return pointwise_losses(scores_NL)


def _missed(logits_NL: Tensor, teacher: np.ndarray, settings: RerankSettings) -> Tensor:
    return divergences(
        logits_NL, torch.from_numpy(teacher).to(logits_NL.device),
        temperature=settings.temperature, teacher_temperature=settings.teacher_temperature,
    )  # fmt: skip


def _observe(sums: _Sums, logits_NL: Tensor) -> None:
    others_NL = logits_NL[:, 1:]
    sums.positives += float(logits_NL[:, 0].sum())
    sums.negatives += float(others_NL[~torch.isneginf(others_NL)].sum())
    sums.firsts += float((logits_NL[:, :1] > others_NL).all(dim=1).sum())


def _means(
    own: _Sums, counts: list[float], rows: float, settings: RerankSettings
) -> dict[str, float]:
    lists, pairs = counts
    loss, missed, positives, negatives, firsts = processes.totals(
        [own.loss, own.distillation, own.positives, own.negatives, own.firsts]
    )
    values = {
        "loss/rerank": loss / rows,
        "positive_score/rerank": positives / lists,
        "negative_score/rerank": negatives / (pairs - lists),
        "positive_first/rerank": firsts / lists,
    }
    if settings.distillation:
        values["loss/distillation"] = missed / lists
    return values
