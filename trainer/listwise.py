"""Listwise: losses of a reranker over the passages of one query.

A logit of minus infinity is a passage that is not there.
Legend of the tensors' suffixes: N queries, L passages of a query, the positive first.
"""

import torch
from torch import Tensor
from torch.nn import functional

from trainer.collectives import Group, gather_counts, share_of_mean
from trainer.cosines import widen


def listwise_losses(logits_NL: Tensor) -> Tensor:
    """Return -log softmax(logits)[positive] of every query [n], the loss of FlagEmbedding."""
    return -torch.log_softmax(widen(logits_NL), dim=1)[:, 0]


def pointwise_losses(logits_NL: Tensor) -> Tensor:
    """Return the binary cross-entropy of every passage that is there: 1 the positive, 0 the others.

    This is the default of sentence-transformers' rerankers, each passage a pair of its own.
    """
    is_there_NL = ~torch.isneginf(logits_NL)
    labels_NL = torch.zeros_like(widen(logits_NL))
    labels_NL[:, 0] = 1.0
    return functional.binary_cross_entropy_with_logits(
        widen(logits_NL)[is_there_NL], labels_NL[is_there_NL], reduction="none"
    )


def listwise_loss(logits_NL: Tensor, *, group: Group = None) -> Tensor:
    """Return the mean of ``listwise_losses``, as this process's share (``share_of_mean``)."""
    return _share(listwise_losses(logits_NL), group)


def pointwise_loss(logits_NL: Tensor, *, group: Group = None) -> Tensor:
    """Return the mean of ``pointwise_losses``, as this process's share (``share_of_mean``)."""
    return _share(pointwise_losses(logits_NL), group)


def _share(losses: Tensor, group: Group) -> Tensor:
    counts = gather_counts([len(losses)], losses.device, group)
    return share_of_mean(losses, sum(each[0] for each in counts), group)
