"""Candidates: which of a query's ranked passages may be its negatives, and why the others may not.

A removed passage stays in its place with every reason, so that another choice is a query and not a
new run. Matrices are queries x depth, best first; NO_PASSAGE fills up short lists.
"""

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from catalog.candidates import Reason, reason_names
from catalog.schema import CANDIDATES
from mining.kernels import kernel
from mining.search import NO_PASSAGE, Ids, Scores

Flags = npt.NDArray[np.uint8]

__all__ = [
    "FilterSettings",
    "Flags",
    "Known",
    "Reason",
    "candidate_rows",
    "judge",
    "lowest_scores",
    "reason_names",
]


@dataclass(frozen=True)
class FilterSettings:
    """Which passages are too good to be negatives; None turns a rule off.

    ``relative_margin``: keep s < s⁺ - |s⁺|·(1 - margin), which is s < 0.95·s⁺ for a positive s⁺ and
    0.95 (TopK-PercPos of NV-Retriever, arXiv 2407.15831), and stays below s⁺ where scores are
    negative. ``absolute_margin``: keep s < s⁺ - margin. ``max_score``: keep s <= max_score. Of
    several positives s⁺ is the lowest score: a passage must be worse than every one of them.
    """

    relative_margin: float | None = 0.95
    absolute_margin: float | None = None
    max_score: float | None = None

    def __post_init__(self) -> None:
        if self.relative_margin is not None and not 0 < self.relative_margin <= 1:
            raise ValueError(
                f"relative_margin is {self.relative_margin}; it is the share of the positive's "
                "score that a negative must stay below: 0 < margin <= 1, for example 0.95"
            )
        if self.absolute_margin is not None and self.absolute_margin < 0:
            raise ValueError(f"absolute_margin is {self.absolute_margin}; it must be at least 0")


@dataclass(frozen=True)
class Known:
    """What the catalog knows of some queries and of the passages in near-duplicate clusters.

    Query i's positives are positives[offsets[i]:offsets[i + 1]], ascending. ``same_text`` is the
    passage with the query's text, or NO_PASSAGE. ``clustered`` are the ids (ascending) of all
    passages in clusters, ``clusters`` the ids of their clusters.
    """

    offsets: Ids
    positives: Ids
    same_text: Ids
    clustered: Ids
    clusters: Ids


def judge(
    passage_ids: Ids,
    scores: Scores,
    known: Known,
    positive_scores: Scores,
    settings: FilterSettings,
    relevant: npt.NDArray[np.bool_] | None = None,
) -> Flags:
    """Return for every candidate the sum of the reasons against it, 0 where it is kept.

    ``positive_scores`` holds each query's lowest positive score, NaN where it has no positive: then
    the margins do not apply. ``relevant`` is a cross-encoder's verdict on each candidate.
    """
    flags = np.zeros(passage_ids.shape, np.uint8)
    _mark_known(
        passage_ids, known.offsets, known.positives, known.same_text,
        known.clustered, known.clusters, flags,
    )  # fmt: skip
    exact = scores.astype(np.float64)
    positive = positive_scores.astype(np.float64)[:, None]
    if settings.relative_margin is not None:
        # float32 scores against a float64 bound: rounding the bound could move it past a score.
        bound = positive - np.abs(positive) * (1 - settings.relative_margin)
        flags |= _flag(exact >= bound, Reason.RELATIVE_MARGIN)
    if settings.absolute_margin is not None:
        flags |= _flag(exact >= positive - settings.absolute_margin, Reason.ABSOLUTE_MARGIN)
    if settings.max_score is not None:
        flags |= _flag(exact > settings.max_score, Reason.MAX_SCORE)
    if relevant is not None:
        flags |= _flag(relevant, Reason.CROSS_ENCODER)
    flags[passage_ids == NO_PASSAGE] = 0
    return flags


def lowest_scores(offsets: Ids, scores: Scores) -> Scores:
    """Return each query's lowest of scores[offsets[i]:offsets[i + 1]], NaN where it has none."""
    lowest = np.full(len(offsets) - 1, np.nan, np.float32)
    present = np.diff(offsets) > 0
    if present.any():
        lowest[present] = np.minimum.reduceat(scores, offsets[:-1][present])
    return lowest


def candidate_rows(
    run: str,
    query_ids: Ids,
    passage_ids: Ids,
    scores: Scores,
    filtered_by: Flags,
    positive_scores: Scores,
) -> pa.Table:
    """Make rows of the table ``candidates``; the empty places of short lists are left out."""
    present = passage_ids != NO_PASSAGE
    offsets = pa.array(np.concatenate([[0], np.cumsum(present.sum(axis=1))]), pa.int32())

    def lists(matrix: npt.NDArray[Any], kind: pa.DataType) -> pa.Array:
        return pa.ListArray.from_arrays(offsets, pa.array(matrix[present], kind))

    return pa.table(
        [
            pa.array(query_ids, pa.int64()),
            pa.array([run] * len(query_ids), pa.string()),
            lists(passage_ids, pa.int64()),
            lists(scores, pa.float32()),
            lists(filtered_by, pa.uint8()),
            pa.array(positive_scores, pa.float32(), mask=np.isnan(positive_scores)),
        ],
        schema=CANDIDATES,
    )


def _flag(holds: npt.NDArray[np.bool_], reason: Reason) -> Flags:
    return np.where(holds, np.uint8(reason), np.uint8(0))


# Plain numbers for compiled code.
_POSITIVE: Final = int(Reason.POSITIVE)
_SAME_TEXT: Final = int(Reason.SAME_TEXT)
_NEAR_DUPLICATE: Final = int(Reason.NEAR_DUPLICATE)


@kernel
def _mark_known(
    passage_ids: Ids,
    offsets: Ids,
    positives: Ids,
    same_text: Ids,
    clustered: Ids,
    clusters: Ids,
    flags: Flags,
) -> None:
    for query in range(len(passage_ids)):
        own = positives[offsets[query] : offsets[query + 1]]
        own_clusters = np.empty(own.size, np.int64)
        num_clusters = 0
        for passage in own:
            at = _find(clustered, passage)
            if at >= 0:
                own_clusters[num_clusters] = clusters[at]
                num_clusters += 1
        for rank in range(passage_ids.shape[1]):
            passage = passage_ids[query, rank]
            at = _find(clustered, passage) if num_clusters else -1
            shared = at >= 0 and (own_clusters[:num_clusters] == clusters[at]).any()
            flags[query, rank] = (
                (_find(own, passage) >= 0) * _POSITIVE
                + (passage == same_text[query]) * _SAME_TEXT
                + shared * _NEAR_DUPLICATE
            )


@kernel
def _find(ascending: Ids, value: int) -> Any:
    """Return where a value is, or -1."""
    at = np.searchsorted(ascending, value)
    return at if at < ascending.size and ascending[at] == value else -1
