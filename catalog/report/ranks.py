"""Ranks on an axis: where each one lies, and which are drawn together."""

import math
from typing import Final

MAX_GROUPS: Final = 100


def rank_groups(depth: int) -> list[tuple[int, int]]:
    """Cut the ranks 1 to depth into neighbors that are as wide as each other on the picture's axis.

    The first ranks stand alone; there are fewer than MAX_GROUPS groups for any depth.
    """
    width = (rank_place(depth + 0.5) - rank_place(0.5)) / MAX_GROUPS
    groups = []
    first = 1
    while first <= depth:
        last = first
        while last < depth and rank_place(last + 0.5) - rank_place(first - 0.5) < width:
            last += 1
        groups.append((first, last))
        first = last + 1
    return groups


def rank_place(rank: float) -> float:
    """Return where a rank lies on an axis: logarithmic, but the first ranks not half of it."""
    return math.log(rank + 2)
