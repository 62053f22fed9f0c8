"""False negatives: columns of a batch that only look like negatives, and must not be pushed away.

A column is excluded for a query when it is known to be the query's positive under another name, or
when a model says that it fits better than the positive.

Legend of the tensors' suffixes: N queries, K negatives of a query, F kinds of identity, C columns,
B columns' owner (1: they serve all queries, N: each query has its own), J facts of a column.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

UNKNOWN = -1  # an identity that equals nothing; so does any number below 0


@dataclass(frozen=True)
class Known:
    """What is known of a process's texts before they are scored.

    Identities are integers that are equal when two texts are the same thing: F kinds of them for a
    passage (passage id, text, near-duplicate cluster, class of a classification task). Queries have
    one: two rows of one query are not each other's negatives. ``absent`` negatives only fill up a
    short list. Teacher scores are those stored of a query's own passages: a negative that scores
    above the positive is excluded for its query; a score that is NaN excludes nothing.
    """

    queries_N: Tensor
    positives_NF: Tensor
    negatives_NKF: Tensor | None = None
    absent_NK: Tensor | None = None
    teacher_positives_N: Tensor | None = None
    teacher_negatives_NK: Tensor | None = None

    def list_positives(self) -> Tensor:
        """Return facts of the positives (N x J): identity of query, of passage, not absent."""
        present_N1 = torch.zeros_like(self.queries_N[:, None])
        return torch.cat([self.queries_N[:, None], self.positives_NF, present_N1], dim=1)

    def list_negatives(self, num_negatives: int) -> Tensor:
        """Return facts of the negatives (N x K x J)."""
        rows, kinds = self.positives_NF.shape
        blank_NK1 = self.queries_N.new_full((rows, num_negatives, 1), UNKNOWN)
        identities_NKF = self.negatives_NKF
        if identities_NKF is None:
            identities_NKF = blank_NK1.expand(-1, -1, kinds)
        absent_NK1 = torch.zeros_like(blank_NK1)
        if self.absent_NK is not None:
            absent_NK1 = self.absent_NK[..., None].to(absent_NK1.dtype)
        return torch.cat([blank_NK1, identities_NKF, absent_NK1], dim=2)

    def find_surpassing(self) -> Tensor | None:
        """Return which own negatives (N x K) the teacher scores above the positive."""
        if self.teacher_positives_N is None or self.teacher_negatives_NK is None:
            return None
        return self.teacher_negatives_NK > self.teacher_positives_N[:, None]


def exclude_by_facts(queries_NJ: Tensor, columns_BCJ: Tensor) -> Tensor:
    """Return which columns (N x C) are absent, or share an identity with a query or its positive.

    The facts of a query are those of its positive.
    """
    excluded_NC = (columns_BCJ[..., -1] > 0).expand(len(queries_NJ), -1)
    for kind in range(queries_NJ.shape[1] - 1):  # one at a time: N x C x J is too much memory
        identity_N1 = queries_NJ[:, kind, None]
        same_NC = (identity_N1 == columns_BCJ[..., kind]) & (identity_N1 >= 0)
        excluded_NC = excluded_NC | same_NC
    return excluded_NC


def exclude_by_margin(scores_NC: Tensor, positive_scores_N: Tensor, margin: float) -> Tensor:
    """Return which columns (N x C) the model scores above the positive by more than a margin.

    The rule of Qwen3-Embedding (arXiv 2506.05176) with a margin of 0.1; it carries no gradient.
    """
    return scores_NC.detach() > positive_scores_N.detach()[:, None] + margin
