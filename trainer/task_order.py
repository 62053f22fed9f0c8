"""One task an update, in a random order: what cross-task batch balance is compared with."""

from collections.abc import Sequence
from typing import Final

import numpy as np

from catalog.draws import draw

PURPOSE: Final = "task order"


def task_at(seed: int, step: int, tasks: Sequence[str]) -> tuple[str, int]:
    """Return the task of a step, and the number of steps that the task has had before.

    Every ``len(tasks)`` steps hold each task once, in an order drawn by (seed, block), so that all
    tasks get on equally and every row is still seen once an epoch.
    """
    block, place = divmod(step, len(tasks))
    drawn = draw(seed, PURPOSE, np.array([block]), np.arange(len(tasks)))
    return tasks[int(np.argsort(drawn, kind="stable")[place])], block
