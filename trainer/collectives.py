"""Collectives: what the processes of one task tell each other, with the gradient of all of them.

Every process differentiates its own loss; the backward passes below add up what all of them say
about a value, so the sum over processes of all gradients is the gradient of the sum of all losses.
All processes compute their losses in one order: backward runs the collectives in reverse order.

Legend of the tensors' suffixes: R processes, N rows of this process, D width.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import functional

# The processes that share a task; None: this process alone, also where others run beside it.
Group = dist.ProcessGroup | None


def count_processes(group: Group) -> int:
    """Count the processes of a group."""
    return 1 if group is None else dist.get_world_size(group)


def find_process_rank(group: Group) -> int:
    """Return this process's place in a group."""
    return 0 if group is None else dist.get_rank(group)


def gather_counts(counts: Sequence[int], device: torch.device, group: Group) -> list[list[int]]:
    """Return the counts of every process, in process order."""
    if group is None:
        return [list(counts)]
    own = torch.tensor(counts, dtype=torch.int64, device=device)
    return [each.tolist() for each in _all_gather(own, group)]


def gather_rows(rows_ND: Tensor, counts: Sequence[int], group: Group) -> list[Tensor]:
    """Return the rows of every process; ``counts`` are their numbers of rows, which may differ.

    Rows of floats carry gradients back to the process they came from. While gradients are
    recorded, a process without rows is part of the backward pass too: the others wait for it.
    """
    if group is None:
        return [rows_ND]
    padding = max(counts) - len(rows_ND)
    padded = functional.pad(rows_ND, (0, 0) * (rows_ND.dim() - 1) + (0, padding))
    if not rows_ND.is_floating_point():
        blocks: Sequence[Tensor] = _all_gather(padded, group)
    else:
        if torch.is_grad_enabled() and not padded.requires_grad:
            padded = padded.detach().requires_grad_()
        blocks = _Gather.apply(padded, group)  # type: ignore[no-untyped-call]
    return [block[:count] for block, count in zip(blocks, counts, strict=True)]


def share_of_mean(losses_N: Tensor, rows: int, group: Group) -> Tensor:
    """Return this process's share of the mean loss of all ``rows`` of a group's processes.

    The shares are sized so that their mean over the processes is the mean over the rows, however
    unevenly the rows are spread: gradients averaged over the group are those of one big batch.
    """
    return losses_N.sum() * (count_processes(group) / max(1, rows))


class _Gather(torch.autograd.Function):
    """All-gather of one tensor; backward returns the sum of what all processes send back."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, group: dist.ProcessGroup) -> tuple[Tensor, ...]:
        ctx.group = group
        return tuple(_all_gather(rows, group))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        total = torch.empty_like(gradients[0], memory_format=torch.contiguous_format)
        dist.reduce_scatter(total, [each.contiguous() for each in gradients], group=ctx.group)
        return total, None


def _all_gather(rows: Tensor, group: dist.ProcessGroup) -> list[Tensor]:
    rows = rows.detach().contiguous()
    blocks = [torch.empty_like(rows) for _ in range(dist.get_world_size(group))]
    dist.all_gather(blocks, rows, group=group)
    return blocks
