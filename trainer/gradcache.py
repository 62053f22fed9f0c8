"""GradCache: a contrastive batch larger than memory, with the gradient of the whole batch.

Gao et al. (arXiv 2101.06983): encode all texts in chunks without a graph, differentiate the loss by
the embeddings alone, then encode each chunk again and pass its embeddings' gradient on.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch
from torch import Tensor

Inputs = TypeVar("Inputs")


@dataclass(frozen=True)
class RandomState:
    """The states of the generators that dropout draws from: the CPU's and each used GPU's."""

    cpu: Tensor
    devices: tuple[tuple[int, Tensor], ...]

    @classmethod
    def read(cls) -> "RandomState":
        """Return the present states; of GPUs the current one's, where this process has used any."""
        if not torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
            return cls(torch.get_rng_state(), ())
        device = torch.cuda.current_device()
        return cls(torch.get_rng_state(), ((device, torch.cuda.get_rng_state(device)),))

    @contextmanager
    def restored(self) -> Iterator[None]:
        """Draw again what was drawn from this state on; afterwards all is as it was before."""
        with torch.random.fork_rng(devices=[device for device, _ in self.devices]):
            torch.set_rng_state(self.cpu)
            for device, state in self.devices:
                torch.cuda.set_rng_state(state, device)
            yield


@dataclass(frozen=True)
class _Side(Generic[Inputs]):
    """The chunks of one side (queries, positives, ...) and the random state each began with."""

    chunks: Sequence[Inputs]
    states: list[RandomState]
    embeddings: list[Tensor]


def cached_step(
    encode: Callable[[Inputs], Tensor],
    sides: Sequence[Sequence[Inputs]],
    loss: Callable[..., Tensor],
    backward: Callable[[Tensor], None] = torch.Tensor.backward,
) -> Tensor:
    """Add the gradient of ``loss(side 0, side 1, ...)`` to the parameters; return the loss.

    Each side is a list of inputs; ``encode`` makes rows of embeddings of one, and ``loss`` takes
    the joined rows of each side and may use collectives: it runs once. Parameters of the loss
    itself, such as a temperature, get their gradient too. ``backward`` is called with a number to
    differentiate: once for the loss and once for each chunk, in order. A process without rows gives
    an input of which ``encode`` makes no rows.
    """
    if not sides or not all(sides):
        raise ValueError(
            f"sides have {[len(chunks) for chunks in sides]} chunks: give each side at least one, "
            "if need be an input without rows"
        )
    cached = [_encode_unrecorded(encode, chunks) for chunks in sides]
    leaves = [torch.cat(side.embeddings).requires_grad_() for side in cached]
    value = loss(*leaves)
    backward(value)
    for side, leaf in zip(cached, leaves, strict=True):
        gradient = torch.zeros_like(leaf) if leaf.grad is None else leaf.grad
        _pass_on(encode, side, gradient, backward)
    return value.detach()


def _encode_unrecorded(
    encode: Callable[[Inputs], Tensor], chunks: Sequence[Inputs]
) -> _Side[Inputs]:
    states, embeddings = [], []
    with torch.no_grad():
        for chunk in chunks:
            states.append(RandomState.read())
            embeddings.append(encode(chunk))
    return _Side(chunks, states, embeddings)


def _pass_on(
    encode: Callable[[Inputs], Tensor],
    side: _Side[Inputs],
    gradient: Tensor,
    backward: Callable[[Tensor], None],
) -> None:
    """Encode each chunk again, with the same dropout, and differentiate its part of the loss."""
    rows = [len(each) for each in side.embeddings]
    parts = zip(side.chunks, side.states, torch.split(gradient, rows), strict=True)
    for chunk, state, part in parts:
        with state.restored():
            embeddings = encode(chunk)
        if embeddings.requires_grad:  # not those of a frozen encoder, or of no rows
            # The gradient of this number by the embeddings is the cached one.
            backward((embeddings * part).sum())
