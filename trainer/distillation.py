"""Distillation: the stored scores of a teacher as soft labels.

Legend of the tensors' suffixes: N queries, L passages of a query, the positive first.
"""

import torch
from torch import Tensor

from trainer.collectives import Group, gather_counts, share_of_mean
from trainer.cosines import widen


def distillation_loss(
    scores_NL: Tensor,
    teacher_NL: Tensor,
    *,
    temperature: float | Tensor,
    teacher_temperature: float = 1.0,
    group: Group = None,
) -> Tensor:
    """Return the mean of ``divergences``, as this process's share (``share_of_mean``)."""
    losses_N = divergences(
        scores_NL, teacher_NL, temperature=temperature, teacher_temperature=teacher_temperature
    )
    counts = gather_counts([len(losses_N)], losses_N.device, group)
    return share_of_mean(losses_N, sum(each[0] for each in counts), group)


def divergences(
    scores_NL: Tensor,
    teacher_NL: Tensor,
    *,
    temperature: float | Tensor,
    teacher_temperature: float = 1.0,
) -> Tensor:
    """Return KL(softmax of the teacher's scores || softmax of the model's scores) of queries [n].

    FlagEmbedding's ``kl_div`` is the same but for the teacher's entropy, which has no gradient; it
    takes a reranker's scores at a teacher temperature of 1. A teacher's score of minus infinity is
    a passage that is not there.
    """
    if scores_NL.shape != teacher_NL.shape:
        raise ValueError(
            f"scores have shape {tuple(scores_NL.shape)} and the teacher's "
            f"{tuple(teacher_NL.shape)}: give one teacher score per passage"
        )
    teacher_NL = teacher_NL.detach().to(widen(scores_NL).dtype)
    absent_NL = torch.isneginf(teacher_NL)
    student_NL = (widen(scores_NL) / temperature).masked_fill(absent_NL, -torch.inf)
    expected_NL = torch.log_softmax(teacher_NL / teacher_temperature, dim=1)
    missed_NL = expected_NL - torch.log_softmax(student_NL, dim=1)
    # 0 x (inf - inf) of an absent passage would be NaN, in the gradient too: cut it off inside.
    return (expected_NL.exp() * missed_NL.masked_fill(absent_NL, 0.0)).sum(dim=1)
