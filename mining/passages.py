"""Passages of a search: read in blocks, centred, and rounded for the product with known error."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np
import numpy.typing as npt
import torch

from mining.vectors import Rows, Vectors

# Rows that the centre is taken from: any centre is right, a good one makes the margins small.
CENTRE_ROWS: Final = 4096
CENTRE_PLACES: Final = 4
# Norms are computed in float32; this covers their own error.
SLACK: Final = 1.001
EPSILON: Final = 2.0**-23


@dataclass(frozen=True)
class Bound:
    """The largest norm of some rows, and the largest norm of what rounding cut off them."""

    norm: float = 0.0
    lost: float = 0.0

    def join(self, other: "Bound") -> "Bound":
        """Return the bound of both sets of rows."""
        return Bound(max(self.norm, other.norm), max(self.lost, other.lost))


class Passages:
    """A corpus as blocks, the next one being read while one is worked on."""

    def __init__(self, vectors: Vectors, block_rows: int) -> None:
        self.vectors = vectors
        self.block_rows = block_rows
        self.centre = _centre(vectors)

    def __len__(self) -> int:
        return len(self.vectors)

    def blocks(self) -> Iterator[tuple[int, Rows]]:
        """Yield (first row, rows as stored) of every block, in order.

        Rows are good until the next block is asked for: its successor is read into their memory.
        """
        starts = range(0, len(self.vectors), self.block_rows)
        coming = [self._reader.submit(self._read, 0, start) for start in starts[:1]]
        for i, start in enumerate(starts):
            block = coming.pop().result()
            coming += [
                self._reader.submit(self._read, i + 1, later) for later in starts[i + 1 : i + 2]
            ]
            yield start, block

    @cached_property
    def _reader(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(1)  # its thread ends with this object

    @cached_property
    def _memory(self) -> Rows:
        """Return room for two blocks; what is never read into takes none."""
        shape = (2, min(self.block_rows, len(self)), self.vectors.width)
        return np.empty(shape, self.vectors.dtype)

    def _read(self, number: int, start: int) -> Rows:
        stop = min(start + self.block_rows, len(self.vectors))
        return self.vectors.read(start, stop, self._memory[number % 2])


def round_rows(
    rows_PD: torch.Tensor,
    centre_D: torch.Tensor | None,
    product: torch.dtype,
    name: str,
    first: int,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Subtract the centre and round; return rows, norms, and norms of what rounding cut off.

    Subtracting one vector from all passages moves all scores of a query by the same amount: the
    order stays, while scores near zero are rounded less. ``name`` and ``first`` name a row that is
    not finite.
    """
    exact_PD = rows_PD.to(torch.float32, copy=centre_D is not None)
    if centre_D is not None:
        exact_PD -= centre_D
    norms_P = _norms(exact_PD, name, first)
    if product == torch.float32:
        return exact_PD, norms_P, torch.zeros_like(norms_P)
    rounded_PD = exact_PD.to(product)
    lost_P = torch.linalg.vector_norm(exact_PD - rounded_PD, dim=1)
    return rounded_PD, norms_P, lost_P


def round_into(
    rounded_PD: torch.Tensor,
    exact_PD: torch.Tensor,
    rows_PD: torch.Tensor,
    centre_D: torch.Tensor,
    first: int,
) -> Bound:
    """Do what ``round_rows`` does to passages, in memory that is there; return their bound.

    ``exact_PD`` is float32 and is used up.
    """
    exact_PD.copy_(rows_PD)
    exact_PD -= centre_D
    norms_P = _norms(exact_PD, "passage", first)
    rounded_PD.copy_(exact_PD)
    exact_PD -= rounded_PD
    lost_P = torch.linalg.vector_norm(exact_PD, dim=1)
    return Bound(float(norms_P.max()), float(lost_P.max()))


def _norms(exact_PD: torch.Tensor, name: str, first: int) -> torch.Tensor:
    """Return the rows' norms; raise where one is not finite."""
    norms_P: torch.Tensor = torch.linalg.vector_norm(exact_PD, dim=1)
    if not bool(torch.isfinite(norms_P).all()):
        row = first + int(torch.isfinite(norms_P).logical_not().nonzero()[0])
        raise ValueError(
            f"{name} {row} has a value that is not finite, or too large to multiply: its text "
            "could not be encoded; remove it, or encode it again"
        )
    return norms_P


def margins(
    norms_Q: npt.NDArray[np.float64], lost_Q: npt.NDArray[np.float64], bound: Bound, width: int
) -> npt.NDArray[np.float32]:
    """Bound, for each query, the error of its products with passages inside the bound.

    With q = q' + dq and p = p' + dp: |q·p − q'·p'| ≤ |dq||p| + |q'||dp|, and adding up ``width``
    products in float32, in any order, is off by width·2⁻²⁴·|q'||p'| at most.
    """
    rounded_Q = norms_Q + lost_Q
    adding = (width + 8) * EPSILON * rounded_Q * (bound.norm + bound.lost)
    error_Q = lost_Q * bound.norm + rounded_Q * bound.lost + adding
    return (error_Q * SLACK + 1e-30).astype(np.float32)


def _centre(vectors: Vectors) -> npt.NDArray[np.float32]:
    rows = len(vectors)
    size = CENTRE_ROWS // CENTRE_PLACES
    starts = [rows * i // CENTRE_PLACES for i in range(CENTRE_PLACES)]
    sample = np.concatenate([vectors.read(s, min(s + size, rows)) for s in starts])
    if not len(sample):
        return np.zeros(vectors.width, np.float32)
    centre = sample.astype(np.float64).mean(axis=0).astype(np.float32)
    # A row that is not finite is found, and named, where it is multiplied.
    return centre if np.isfinite(centre).all() else np.zeros_like(centre)
