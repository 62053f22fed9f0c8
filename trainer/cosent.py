"""CoSENT: pairs of a higher label shall have a higher cosine.

The loss is log(1 + sum over all (i, j) with label_i > label_j of exp((cosine_j - cosine_i) / t)),
by Jianlin Su (https://kexue.fm/archives/8847) and in Conan-embedding (arXiv 2408.15710). Sorted by
label, the inner sum of row i is a prefix of one cumulative sum: n log n instead of n squared.

Legend of the tensors' suffixes: N pairs of this process, P pairs of all processes.
"""

import torch
from torch import Tensor

from trainer.collectives import Group, gather_counts, gather_rows
from trainer.cosines import widen

COSENT_TEMPERATURE = 0.05  # Su's and text2vec's scale of 20


def cosent_loss(
    cosines_N: Tensor,
    labels_N: Tensor,
    *,
    temperature: float | Tensor = COSENT_TEMPERATURE,
    group: Group = None,
) -> Tensor:
    """Return the CoSENT loss of the pairs of all processes of a group.

    Equal labels make no pair. Every process of the group gets the whole loss, so its mean over the
    group is the loss of one big batch; only the cosines and labels travel. A process without pairs
    takes part with empty tensors.
    """
    if cosines_N.shape != labels_N.shape or cosines_N.dim() != 1:
        raise ValueError(
            f"cosines have shape {tuple(cosines_N.shape)} and labels {tuple(labels_N.shape)}: "
            "give one cosine and one label per pair"
        )
    cosines_P, labels_P = _gather(widen(cosines_N), labels_N, group)
    order_P = torch.argsort(labels_P, stable=True)
    ordered_P = labels_P[order_P].contiguous()
    scores_P = cosines_P[order_P] / temperature
    # lower_P: how many pairs have a smaller label; below_P: the logarithm of their summed exp.
    lower_P = torch.searchsorted(ordered_P, ordered_P)
    cumulated_P = torch.logcumsumexp(scores_P, dim=0)
    below_P = cumulated_P[(lower_P - 1).clamp(min=0)]
    terms_P = torch.where(lower_P > 0, below_P - scores_P, -torch.inf)
    return torch.logsumexp(torch.cat([terms_P, terms_P.new_zeros(1)]), dim=0)


def _gather(cosines_N: Tensor, labels_N: Tensor, group: Group) -> tuple[Tensor, Tensor]:
    counts = [each[0] for each in gather_counts([len(cosines_N)], cosines_N.device, group)]
    rows = torch.stack([cosines_N, labels_N.to(cosines_N.dtype)], dim=1)
    gathered = torch.cat(gather_rows(rows, counts, group))
    return gathered[:, 0], gathered[:, 1].detach()
