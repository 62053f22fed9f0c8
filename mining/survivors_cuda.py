"""Survivors of a search on a GPU: the same bits as ``mining.survivors``, by torch operations.

A GPU has no use for a loop over a row: a comparison with the thresholds makes a mask, and the few
places where it is true are appended to the buffers all at once.
Legend of suffixes: Q queries, P passages, D width, C capacity, H hits, N listed passages, L lanes.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from mining.canonical import LANES
from mining.passages import Bound, Passages, margins, round_rows
from mining.survivors import Floats, Listed, Tiles

# A tile as long as all before it brings k passages more: with three times that, a buffer of five
# times k is rarely full.
GROWTH = 3
# Listed passages scored at once; each takes 8 bytes x 64 lanes and twice its width.
SCORED_AT_ONCE = 1 << 18


@dataclass
class _Buffers:
    """What the queries of one tile have kept so far."""

    scores_QC: torch.Tensor
    positions_QC: torch.Tensor
    counts_Q: torch.Tensor
    thresholds_Q: torch.Tensor
    overflowed_Q: torch.Tensor

    @classmethod
    def empty(cls, rows: int, tiles: Tiles, device: str) -> "_Buffers":
        return cls(
            torch.empty((rows, tiles.capacity), dtype=tiles.product, device=device),
            torch.empty((rows, tiles.capacity), dtype=torch.int64, device=device),
            torch.zeros(rows, dtype=torch.int64, device=device),
            torch.full((rows,), -torch.inf, dtype=tiles.product, device=device),
            torch.zeros(rows, dtype=torch.bool, device=device),
        )

    def append(self, scores_QP: torch.Tensor, first: int, k: int, error_Q: torch.Tensor) -> None:
        """Keep every score above its query's threshold."""
        rows_H, columns_H, new_Q = self._hits(scores_QP)
        if self._lacks_room(new_Q):
            self.compact(k, error_Q)
            rows_H, columns_H, new_Q = self._hits(scores_QP)
        width, capacity = scores_QP.shape[1], self.scores_QC.shape[1]
        if self._lacks_room(new_Q) and width > capacity // 4:
            half = width // 2
            self.append(scores_QP[:, :half], first, k, error_Q)
            self.append(scores_QP[:, half:], first + half, k, error_Q)
            return
        if self._lacks_room(new_Q):
            self._give_up(self.counts_Q + new_Q > capacity)
            rows_H, columns_H, new_Q = self._hits(scores_QP)
        slots_H = self.counts_Q[rows_H] + _place_in_row(rows_H, new_Q)
        self.scores_QC[rows_H, slots_H] = scores_QP[rows_H, columns_H]
        self.positions_QC[rows_H, slots_H] = columns_H + first
        self.counts_Q += new_Q

    def compact(self, k: int, error_Q: torch.Tensor) -> None:
        """Drop what the rest proves to be outside the best k."""
        capacity = self.scores_QC.shape[1]
        slots_C = torch.arange(capacity, device=self.scores_QC.device)
        used_QC = slots_C < self.counts_Q[:, None]
        known_QC = self.scores_QC.masked_fill(~used_QC, -torch.inf)
        kth_Q = torch.topk(known_QC, k, dim=1).values[:, -1]
        raised_Q = _lower(kth_Q, error_Q).maximum(self.thresholds_Q)
        self.thresholds_Q = torch.where(self.overflowed_Q, self.thresholds_Q, raised_Q)
        keeps_QC = used_QC & (known_QC > self.thresholds_Q[:, None])
        rows_H, columns_H = keeps_QC.nonzero(as_tuple=True)
        counts_Q = keeps_QC.sum(dim=1)
        slots_H = _place_in_row(rows_H, counts_Q)
        self.scores_QC[rows_H, slots_H] = self.scores_QC[rows_H, columns_H]
        self.positions_QC[rows_H, slots_H] = self.positions_QC[rows_H, columns_H]
        self.counts_Q = counts_Q

    def _hits(self, scores_QP: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        rows_H, columns_H = (scores_QP > self.thresholds_Q[:, None]).nonzero(as_tuple=True)
        return rows_H, columns_H, torch.bincount(rows_H, minlength=len(scores_QP))

    def _lacks_room(self, new_Q: torch.Tensor) -> bool:
        return bool((self.counts_Q + new_Q > self.scores_QC.shape[1]).any())

    def _give_up(self, full_Q: torch.Tensor) -> None:
        self.overflowed_Q |= full_Q
        self.thresholds_Q[full_Q] = torch.inf
        self.counts_Q[full_Q] = 0


def select(queries_QD: Floats, corpus: Passages, k: int, tiles: Tiles, device: str) -> Listed:
    """List for each query every passage that can be among its k best."""
    rounded_QD, norms_Q, lost_Q = round_rows(
        torch.from_numpy(queries_QD).to(device), None, tiles.product, "query", 0
    )
    centre_D = torch.from_numpy(corpus.centre).to(device)
    starts = range(0, len(queries_QD), tiles.query_rows)
    places = [slice(start, min(start + tiles.query_rows, len(queries_QD))) for start in starts]
    buffers = [_Buffers.empty(here.stop - here.start, tiles, device) for here in places]
    norms, lost = norms_Q.double().cpu().numpy(), lost_Q.double().cpu().numpy()
    bound = Bound()
    error_Q = torch.zeros(len(queries_QD), device=device)
    for first, block in corpus.blocks():
        block_PD = torch.from_numpy(block).to(device)
        passages_PD, norms_P, lost_P = round_rows(
            block_PD, centre_D, tiles.product, "passage", first
        )
        bound = bound.join(Bound(float(norms_P.max()), float(lost_P.max())))
        error = margins(norms, lost, bound, len(centre_D))
        error_Q = torch.from_numpy(error).to(device)
        for here, buffer in zip(places, buffers, strict=True):
            for columns in _growing(first, len(passages_PD), tiles):
                scores_QP = _multiply(rounded_QD[here], passages_PD[columns])
                buffer.append(scores_QP, first + columns.start, k, error_Q[here])
    for here, buffer in zip(places, buffers, strict=True):
        buffer.compact(k, error_Q[here])
    return _listed(buffers)


def score(queries_QD: Floats, corpus: Passages, listed: Listed, device: str) -> Floats:
    """Score every listed passage canonically."""
    all_queries_QD = _pad_lanes(torch.from_numpy(queries_QD).to(device))
    positions_N = torch.from_numpy(listed.positions.astype(np.int64)).to(device)
    counts_Q = torch.from_numpy(np.diff(listed.offsets)).to(device)
    rows_N = torch.repeat_interleave(torch.arange(len(counts_Q), device=device), counts_Q)
    scores_N = torch.empty(len(positions_N), dtype=torch.float32, device=device)
    for first, block in corpus.blocks():
        passages_PD = _pad_lanes(torch.from_numpy(block).to(device, torch.float32))
        inside_N = (positions_N >= first) & (positions_N < first + len(block))
        for chosen_N in torch.split(inside_N.nonzero()[:, 0], SCORED_AT_ONCE):
            scores_N[chosen_N] = _dot(
                all_queries_QD[rows_N[chosen_N]], passages_PD[positions_N[chosen_N] - first]
            )
    return scores_N.cpu().numpy()


def _multiply(queries_QD: torch.Tensor, passages_PD: torch.Tensor) -> torch.Tensor:
    """Multiply with sums in float32: by default parts of a long sum are added in bfloat16."""
    settings = torch.backends.cuda.matmul
    before = settings.allow_bf16_reduced_precision_reduction
    settings.allow_bf16_reduced_precision_reduction = False
    try:
        return torch.mm(queries_QD, passages_PD.T)
    finally:
        settings.allow_bf16_reduced_precision_reduction = before


def _dot(queries_ND: torch.Tensor, passages_ND: torch.Tensor) -> torch.Tensor:
    """Do what ``mining.canonical.dot`` does, operation for operation."""
    sums_NL = torch.zeros((len(queries_ND), LANES), dtype=torch.float64, device=queries_ND.device)
    for start in range(0, queries_ND.shape[1], LANES):
        lanes = slice(start, start + LANES)
        sums_NL += queries_ND[:, lanes].double() * passages_ND[:, lanes].double()
    half = LANES // 2
    while half:
        sums_NL = sums_NL[:, :half] + sums_NL[:, half : 2 * half]
        half //= 2
    return sums_NL[:, 0].float() + 0.0


def _pad_lanes(rows_PD: torch.Tensor) -> torch.Tensor:
    missing = -rows_PD.shape[1] % LANES
    return torch.nn.functional.pad(rows_PD, (0, missing))  # adding zeros changes no sum


def _place_in_row(rows_H: torch.Tensor, counts_Q: torch.Tensor) -> torch.Tensor:
    """Number the hits of each row from 0; hits are in order of rows."""
    before_Q = counts_Q.cumsum(0) - counts_Q
    return torch.arange(len(rows_H), device=rows_H.device) - before_Q[rows_H]


def _lower(kth_Q: torch.Tensor, error_Q: torch.Tensor) -> torch.Tensor:
    """Return thresholds that no passage among the best k can be at or below.

    bfloat16 has 8 bits: a rounded number is within 2⁻⁸ of the number; 2⁻⁶ covers it three times,
    for the k-th score, the score that is compared, and the threshold itself.
    """
    rounding = 2.0**-6 if kth_Q.dtype == torch.bfloat16 else 2.0**-20
    lowest_Q = kth_Q.double() - kth_Q.double().abs() * rounding - 2 * error_Q.double()
    return (lowest_Q - lowest_Q.abs() * rounding).to(kth_Q.dtype)


def _growing(first: int, rows: int, tiles: Tiles) -> Iterator[slice]:
    """Cut a block so that a tile is at most GROWTH times as long as all that came before it."""
    start = 0
    most = max(1, tiles.scores // tiles.query_rows)
    while start < rows:
        width = min(max(tiles.capacity, GROWTH * (first + start)), most)
        yield slice(start, min(start + width, rows))
        start += width


def _listed(buffers: list[_Buffers]) -> Listed:
    counts_Q = torch.cat([buffer.counts_Q for buffer in buffers]).cpu().numpy()
    positions = [
        buffer.positions_QC[
            torch.arange(buffer.positions_QC.shape[1], device=buffer.counts_Q.device)
            < buffer.counts_Q[:, None]
        ]
        for buffer in buffers
    ]
    overflowed_Q = torch.cat([buffer.overflowed_Q for buffer in buffers]).cpu().numpy()
    return Listed(
        np.concatenate([np.zeros(1, np.int64), np.cumsum(counts_Q)]),
        torch.cat(positions).cpu().numpy().astype(np.uint32),
        np.flatnonzero(overflowed_Q),
    )
