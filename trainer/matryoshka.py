"""Matryoshka: one loss at several widths of the same embeddings (arXiv 2205.13147)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

from trainer.cosines import normalize


@dataclass(frozen=True)
class Widths:
    """How many leading dimensions are kept, ascending, and the weight of the loss at each."""

    dims: tuple[int, ...]
    weights: tuple[float, ...]

    def __post_init__(self) -> None:
        ascending = all(left < right for left, right in zip(self.dims, self.dims[1:], strict=False))
        if not self.dims or self.dims[0] < 1 or not ascending:
            raise ValueError(
                f"matryoshka dims are {list(self.dims)}: give positive numbers in ascending order"
            )
        if len(self.weights) != len(self.dims) or min(self.weights) < 0:
            raise ValueError(
                f"matryoshka weights are {list(self.weights)} for {len(self.dims)} dims: "
                "give one weight for each, none below 0"
            )

    @classmethod
    def equal(cls, dims: Sequence[int]) -> "Widths":
        """Return widths that all weigh 1, as in the paper."""
        return cls(tuple(dims), (1.0,) * len(dims))


def matryoshka(loss: Callable[..., Tensor], embeddings: Sequence[Tensor], widths: Widths) -> Tensor:
    """Return the weighted sum of the loss of the embeddings' truncations to unit vectors.

    ``loss`` takes the truncated embeddings one by one and may return a number or one per row.
    """
    narrowest = min(each.shape[-1] for each in embeddings)
    if widths.dims[-1] > narrowest:
        raise ValueError(
            f"matryoshka dim {widths.dims[-1]} is wider than the embeddings ({narrowest}): "
            f"give dims of at most {narrowest}, or a wider head"
        )
    total = None
    for dim, weight in zip(widths.dims, widths.weights, strict=True):
        value = loss(*(normalize(each[..., :dim]) for each in embeddings)) * weight
        total = value if total is None else total + value
    assert total is not None
    return total
