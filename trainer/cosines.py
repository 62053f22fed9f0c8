"""Cosines: the scores of embeddings, in float32 or wider.

Legend of the tensors' suffixes: N queries or pairs, K negatives of a query, L = 1 + K, D width.
"""

import torch
from torch import Tensor
from torch.nn import functional


def widen(values: Tensor) -> Tensor:
    """Return values as float32 unless they are wider: a bfloat16 cosine has two or three digits."""
    return values.float() if values.dtype in (torch.float16, torch.bfloat16) else values


def normalize(embeddings_D: Tensor) -> Tensor:
    """Return unit vectors."""
    return functional.normalize(widen(embeddings_D), dim=-1)


def multiply(left: Tensor, right: Tensor) -> Tensor:
    """Return a matrix product in the precision of its factors, also under autocast.

    In bfloat16 a cosine near 1 is off by up to 0.002, at a temperature of 0.02 a tenth of a logit.
    """
    with torch.autocast(left.device.type, enabled=False):
        return left @ right


def score_pairs(left_ND: Tensor, right_ND: Tensor) -> Tensor:
    """Return the cosine of each pair (N)."""
    return (normalize(left_ND) * normalize(right_ND)).sum(dim=-1)


def score_lists(queries_ND: Tensor, positives_ND: Tensor, negatives_NKD: Tensor) -> Tensor:
    """Return the cosines of each query with its positive and its own negatives (N x L)."""
    lists_NLD = torch.cat([positives_ND[:, None], negatives_NKD], dim=1)
    return multiply(normalize(lists_NLD), normalize(queries_ND)[:, :, None])[..., 0]
