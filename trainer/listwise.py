"""Listwise: losses of a reranker over the passages of one query.

Legend of the tensors' suffixes: N queries, L passages of a query, the positive first.
"""

import torch
from torch import Tensor
from torch.nn import functional

from trainer.collectives import Group, gather_counts, share_of_mean
from trainer.cosines import widen


def listwise_loss(logits_NL: Tensor, *, group: Group = None) -> Tensor:
    """Return the mean of -log softmax(logits)[positive], the loss of FlagEmbedding's rerankers.

    The result is this process's share (``share_of_mean``).
    """
    losses_N = -torch.log_softmax(widen(logits_NL), dim=1)[:, 0]
    return _share(losses_N, group)


def pointwise_loss(logits_NL: Tensor, *, group: Group = None) -> Tensor:
    """Return the mean binary cross-entropy of all passages: 1 for the positive, 0 for the others.

    This is the default of sentence-transformers' rerankers, each passage a pair of its own.
    """
    logits_NL = widen(logits_NL)
    labels_NL = torch.zeros_like(logits_NL)
    labels_NL[:, 0] = 1.0
    losses_NL = functional.binary_cross_entropy_with_logits(logits_NL, labels_NL, reduction="none")
    return _share(losses_NL.flatten(), group)


def _share(losses: Tensor, group: Group) -> Tensor:
    counts = gather_counts([len(losses)], losses.device, group)
    return share_of_mean(losses, sum(each[0] for each in counts), group)
