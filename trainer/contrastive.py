"""Contrastive loss (InfoNCE): the positive of a query against its batch and its hard negatives.

The loss of query i, with scores s = cosines, temperature t and the columns c that are not excluded:

    log(sum over positives c of exp(s_ic / t) + sum over negatives c of exp(s_ic / t + h s_ic))
    - s_ii / t

h is the hardness weight: a negative counts exp(h s) times, without gradient (EmbeddingGemma, arXiv
2509.20354, with h = 5). With a focus f the loss is multiplied by (1 - p)^f, where p is the
positive's share of the softmax (focal loss, arXiv 1708.02002).

Legend of the tensors' suffixes: N queries of this process, K negatives of a query, D width,
C columns, B the columns' owner (1: they serve all queries, N: each query has its own), J facts of a
column, X whatever a row consists of, R processes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal, get_args

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from trainer.collectives import (
    Group,
    count_processes,
    find_process_rank,
    gather_counts,
    gather_rows,
    share_of_mean,
)
from trainer.cosines import multiply, widen
from trainer.false_negatives import Known, exclude_by_facts, exclude_by_margin
from trainer.matryoshka import Widths, matryoshka

Negatives = Literal["local", "gathered", "shared_query"]

# Scores that are computed at once: 64 MB, of which some four are held. Of a larger batch each part
# is computed again in backward: 19,200 queries would else hold 7 GB for their scores alone.
SCORES: Final = 1 << 24


@dataclass(frozen=True)
class Contrast:
    """Which columns a query is set against, and how much each counts.

    ``negatives``: ``local``, those of this process; ``gathered``, those of all processes;
    ``shared_query``, all processes hold the same queries and positives and each holds other
    negatives of them, and only one number per query is gathered. ``in_batch`` False: a query sees
    its own negatives only. ``margin`` None: a high score excludes no column. ``widths`` None: the
    full width alone.
    """

    negatives: Negatives = "local"
    in_batch: bool = True
    margin: float | None = None
    hardness: float = 0.0
    focus: float = 0.0
    widths: Widths | None = None

    def __post_init__(self) -> None:
        if self.negatives not in get_args(Negatives):
            raise ValueError(
                f"negatives is {self.negatives!r}: take one of {', '.join(get_args(Negatives))}"
            )
        if self.negatives == "gathered" and not self.in_batch:
            raise ValueError(
                "negatives are gathered but in_batch is false: "
                "a query's own negatives are all local, set negatives to local"
            )
        if min(self.hardness, self.focus) < 0 or (self.margin is not None and self.margin < 0):
            raise ValueError(
                f"margin is {self.margin}, hardness {self.hardness}, focus {self.focus}: "
                "none may be below 0"
            )


@dataclass(frozen=True)
class _Columns:
    """Where passages stand among the columns, and what is excluded whatever the scores.

    own_NK are the columns that belong to each query: its positive, or its own negatives.
    """

    own_NK: Tensor
    excluded_NC: Tensor | None


def info_nce(
    queries_ND: Tensor,
    positives_ND: Tensor,
    negatives_NKD: Tensor | None,
    contrast: Contrast,
    *,
    temperature: float | Tensor,
    known: Known | None = None,
    group: Group = None,
) -> Tensor:
    """Return this process's share (``share_of_mean``) of the contrastive loss of its group.

    Embeddings need not be unit vectors. All processes of a group call this with the same settings;
    one without rows takes part with empty tensors, and in the backward pass too.
    """
    _check(queries_ND, positives_ND, negatives_NKD, temperature)
    if negatives_NKD is None:
        negatives_NKD = positives_ND.new_zeros(len(positives_ND), 0, positives_ND.shape[1])
    rows, num_negatives = negatives_NKD.shape[:2]
    counts = gather_counts([rows, rows * num_negatives], queries_ND.device, group)
    if contrast.negatives == "shared_query":
        _check_shared(counts)
    # Wide before they are gathered: backward adds up the gradients of all processes.
    vectors = _place(widen(positives_ND), widen(negatives_NKD), contrast, counts, group)
    owns = _find_own(negatives_NKD, contrast, counts, group)
    facts = _place_facts(known, owns, contrast, counts, group)

    def measure(queries_ND: Tensor, positives_BCD: Tensor, negatives_BCD: Tensor) -> Tensor:
        def contrast_part(part: slice) -> Tensor:
            scores = [_score(queries_ND[part], each) for each in (positives_BCD, negatives_BCD)]
            return _contrast((scores[0], scores[1]), facts.of(part), contrast, temperature, group)

        parts = _parts(contrast, len(queries_ND), positives_BCD.shape[1] + negatives_BCD.shape[1])
        if len(parts) == 1:
            return contrast_part(slice(None))
        return torch.cat([
            checkpoint(contrast_part, part, use_reentrant=False, preserve_rng_state=False)
            for part in parts
        ])  # fmt: skip

    widths = contrast.widths or Widths.equal([queries_ND.shape[1]])
    losses_N = matryoshka(measure, [queries_ND, *vectors], widths)
    return share_of_mean(losses_N, sum(count[0] for count in counts), group)


def _parts(contrast: Contrast, rows: int, columns: int) -> list[slice]:
    """Cut the queries into parts of at most SCORES scores.

    Not where processes tell each other a number for each query, or each has columns of its own.
    """
    size = max(1, SCORES // max(1, columns))
    if size >= rows or contrast.negatives == "shared_query" or not contrast.in_batch:
        return [slice(None)]
    return [slice(first, first + size) for first in range(0, rows, size)]


def _contrast(
    scores: tuple[Tensor, Tensor],
    columns: tuple[_Columns, _Columns],
    contrast: Contrast,
    temperature: float | Tensor,
    group: Group,
) -> Tensor:
    """Return the loss of each query (N) from its scores (N x C) of positives and of negatives."""
    positives_NC, negatives_NC = scores
    own_N = positives_NC.gather(1, columns[0].own_NK)[:, 0]
    positives_NC = _exclude(positives_NC / temperature, positives_NC, own_N, columns[0], contrast)
    weighted_NC = negatives_NC / temperature
    if contrast.hardness > 0:
        weighted_NC = weighted_NC + contrast.hardness * negatives_NC.detach()
    negatives_NC = _exclude(weighted_NC, negatives_NC, own_N, columns[1], contrast)
    hard_N = _sum_exp(negatives_NC)
    if contrast.negatives == "shared_query":
        every_RN = torch.stack(gather_rows(hard_N, [len(hard_N)] * count_processes(group), group))
        hard_N = _sum_exp(every_RN.T)
    losses_N = torch.logaddexp(_sum_exp(positives_NC), hard_N) - own_N / temperature
    if contrast.focus > 0:
        # Below the clamp a power under 1 would have an infinite slope, where the loss is 0 anyway.
        missing_N = -torch.expm1(-losses_N)
        smallest = torch.finfo(losses_N.dtype).eps
        losses_N = losses_N * missing_N.clamp(min=smallest) ** contrast.focus
    return losses_N


def _sum_exp(logits_NC: Tensor) -> Tensor:
    """Return the logarithm of the summed exp of each row; of no columns, as good as nothing."""
    if logits_NC.shape[1] == 0:
        return logits_NC.new_full((len(logits_NC),), _nothing(logits_NC))
    return torch.logsumexp(logits_NC, dim=1)


def _nothing(logits: Tensor) -> float:
    # Minus infinity would turn rows of nothing else into NaN; this has a weight of exactly 0 too.
    return torch.finfo(logits.dtype).min


def _exclude(
    logits_NC: Tensor, scores_NC: Tensor, own_N: Tensor, columns: _Columns, contrast: Contrast
) -> Tensor:
    """Return logits without the columns that are excluded by facts or by their own score."""
    excluded_NC = columns.excluded_NC
    if contrast.margin is not None:
        above_NC = exclude_by_margin(scores_NC, own_N, contrast.margin)
        excluded_NC = above_NC if excluded_NC is None else excluded_NC | above_NC
    if excluded_NC is None:
        return logits_NC
    return logits_NC.masked_fill(excluded_NC, _nothing(logits_NC))


def _score(queries_ND: Tensor, columns_BCD: Tensor) -> Tensor:
    if len(columns_BCD) == 1:
        return multiply(queries_ND, columns_BCD[0].T)
    return multiply(columns_BCD, queries_ND[:, :, None])[..., 0]


def _place(
    positives_NX: Tensor,
    negatives_NKX: Tensor,
    contrast: Contrast,
    counts: Sequence[Sequence[int]],
    group: Group,
) -> tuple[Tensor, Tensor]:
    """Return positives and negatives as columns (B x C x X), in process order, then row order."""
    if not contrast.in_batch:
        return positives_NX[:, None], negatives_NKX
    negatives_CX = negatives_NKX.flatten(0, 1)
    if contrast.negatives != "gathered":
        return positives_NX[None], negatives_CX[None]
    # Positives and negatives travel together: one collective forward and one backward.
    rows_CX = torch.cat([positives_NX, negatives_CX])
    blocks = gather_rows(rows_CX, [sum(count) for count in counts], group)
    halves = [torch.split(block, list(count)) for block, count in zip(blocks, counts, strict=True)]
    positives_CX, negatives_CX = (torch.cat(each) for each in zip(*halves, strict=True))
    return positives_CX[None], negatives_CX[None]


def _find_own(
    negatives_NKD: Tensor, contrast: Contrast, counts: Sequence[Sequence[int]], group: Group
) -> tuple[Tensor, Tensor]:
    """Return the column of each query's positive (N x 1) and of its own negatives (N x K)."""
    rows, num_negatives = negatives_NKD.shape[:2]
    rows_N1 = torch.arange(rows, device=negatives_NKD.device)[:, None]
    negatives_K = torch.arange(num_negatives, device=negatives_NKD.device)
    if not contrast.in_batch:
        return torch.zeros_like(rows_N1), negatives_K.expand(rows, -1)
    before = counts[: find_process_rank(group)] if contrast.negatives == "gathered" else []
    own_NK = rows_N1 * num_negatives + negatives_K
    return rows_N1 + sum(count[0] for count in before), own_NK + sum(count[1] for count in before)


@dataclass(frozen=True)
class _Facts:
    """What says which columns are excluded: facts of this process's queries and of all columns."""

    owns: tuple[Tensor, Tensor]
    queries_NJ: Tensor | None = None
    columns: tuple[Tensor, Tensor] | None = None
    surpassing_NK: Tensor | None = None

    def of(self, part: slice) -> tuple[_Columns, _Columns]:
        """Return the columns of positives and of negatives for a part of the queries.

        No query's own positive is excluded.
        """
        own_N1, own_NK = (own[part] for own in self.owns)
        if self.queries_NJ is None or self.columns is None:
            return _Columns(own_N1, None), _Columns(own_NK, None)
        facts_NJ, (positives_BCJ, negatives_BCJ) = self.queries_NJ[part], self.columns
        positives_NC = exclude_by_facts(facts_NJ, positives_BCJ).scatter(1, own_N1, False)
        negatives_NC = exclude_by_facts(facts_NJ, negatives_BCJ)
        if self.surpassing_NK is not None:
            surpassing_NK = self.surpassing_NK[part] | negatives_NC.gather(1, own_NK)
            negatives_NC = negatives_NC.scatter(1, own_NK, surpassing_NK)
        return _Columns(own_N1, positives_NC), _Columns(own_NK, negatives_NC)


def _place_facts(
    known: Known | None,
    owns: tuple[Tensor, Tensor],
    contrast: Contrast,
    counts: Sequence[Sequence[int]],
    group: Group,
) -> _Facts:
    """Bring the facts of all columns here."""
    if known is None:
        return _Facts(owns)
    facts_NJ, facts_NKJ = known.list_positives(), known.list_negatives(owns[1].shape[1])
    placed = _place(facts_NJ, facts_NKJ, contrast, counts, group)
    return _Facts(owns, facts_NJ, placed, known.find_surpassing())


def _check(
    queries_ND: Tensor,
    positives_ND: Tensor,
    negatives_NKD: Tensor | None,
    temperature: float | Tensor,
) -> None:
    shapes = [tuple(each.shape) for each in (queries_ND, positives_ND)]
    if len(shapes[0]) != 2 or shapes[0] != shapes[1]:
        raise ValueError(
            f"queries have shape {shapes[0]} and positives {shapes[1]}: give one row for each query"
        )
    if negatives_NKD is not None and (
        negatives_NKD.dim() != 3 or negatives_NKD.shape[::2] != queries_ND.shape
    ):
        raise ValueError(
            f"negatives have shape {tuple(negatives_NKD.shape)} for queries of {shapes[0]}: "
            "give rows x negatives x width"
        )
    if not isinstance(temperature, Tensor) and temperature <= 0:
        raise ValueError(f"temperature is {temperature}: give a number above 0, such as 0.02")


def _check_shared(counts: Sequence[Sequence[int]]) -> None:
    rows = [count[0] for count in counts]
    if len(set(rows)) > 1:
        raise ValueError(
            f"the processes hold {rows} queries, but negatives is shared_query: "
            "give every process of the group the same queries and positives"
        )
