"""Balance: the losses of all tasks in one update, each with its own number of processes.

Data-parallel training averages gradients over all processes. Each loss of this package is a share
whose mean over the processes *of its task* is the loss of one big batch. An average over *all*
processes would silently divide a task by (all processes / its processes); multiplying by exactly
that undoes it. The factor is the same for every kind of negatives: local and gathered losses are
shares of one mean, and a loss that every process computes whole (shared queries, gathered CoSENT)
is its own mean.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from torch import Tensor

CBB_BETA = 0.8  # the weight of CoSENT beside retrieval in Conan-embedding (arXiv 2408.15710)


@dataclass(frozen=True)
class TaskLoss:
    """This process's loss of one task, the task's weight, and how many processes work on it."""

    loss: Tensor
    weight: float
    processes: int


def gradient_scale(all_processes: int, task_processes: int) -> float:
    """Return the factor that undoes the average over processes that do not work on the task."""
    if not 1 <= task_processes <= all_processes:
        raise ValueError(
            f"a task has {task_processes} of {all_processes} processes: "
            "give it at least one and at most all of them"
        )
    return all_processes / task_processes


def balance_losses(losses: Iterable[TaskLoss], all_processes: int) -> Tensor:
    """Return what this process must differentiate.

    The mean of the results of all processes is the weighted sum of the tasks' big-batch losses.
    """
    scaled = [
        each.loss * (each.weight * gradient_scale(all_processes, each.processes)) for each in losses
    ]
    if not scaled:
        raise ValueError(
            "this process has no task: give every process at least one, "
            "if need be without rows of it in this step"
        )
    total = scaled[0]
    for each in scaled[1:]:
        total = total + each
    return total


def cbb_loss(
    retrieval: Tensor | None,
    sts: Tensor | None,
    *,
    retrieval_processes: int,
    sts_processes: int,
    all_processes: int,
    beta: float = CBB_BETA,
) -> Tensor:
    """Return retrieval + beta CoSENT for this process; None is a task that others work on.

    This is the cross-GPU batch balance of Conan-embedding (arXiv 2408.15710, formula 4) for any
    spread of the two tasks: on disjoint processes, of any numbers, or both on all of them.
    """
    losses = []
    if retrieval is not None:
        losses.append(TaskLoss(retrieval, 1.0, retrieval_processes))
    if sts is not None:
        losses.append(TaskLoss(sts, beta, sts_processes))
    return balance_losses(losses, all_processes)
