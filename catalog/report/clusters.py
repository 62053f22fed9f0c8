"""How large duplicate clusters are, on two logarithmic axes."""

import math
from collections.abc import Sequence
from typing import Final

from catalog.report.data import ClusterSize
from catalog.report.numbers import plural, short
from catalog.report.svg import circle, line, picture, text

WIDTH: Final = 640
HEIGHT: Final = 320
LEFT: Final = 56.0
RIGHT: Final = 616.0
TOP: Final = 32.0
BOTTOM: Final = 270.0


def draw_clusters(sizes: Sequence[ClusterSize]) -> str:
    """Draw a point for every cluster size of a kind: how large, and how many.

    Of points that would cover each other only the first is drawn: a large lake has thousands.
    """
    widest = _decades(max(one.size for one in sizes))
    highest = _decades(max(one.clusters for one in sizes))
    parts = _grid(widest, highest)
    seen: set[tuple[str, int, int]] = set()
    for one in sizes:
        x = LEFT + (RIGHT - LEFT) * math.log10(one.size) / widest
        y = BOTTOM - (BOTTOM - TOP) * math.log10(one.clusters) / highest
        place = (one.kind, round(x), round(y))
        if place in seen:
            continue
        seen.add(place)
        tip = f"{plural(one.clusters, f'{one.kind} cluster')} of {plural(one.size, 'text')}"
        tip += f", {plural(one.pairs, 'pair')}"
        parts.append(circle(x, y, 4.0, class_=f"point-{one.kind}", tip=tip))
    parts.append(text("texts in a cluster", RIGHT, BOTTOM + 36, text_anchor="end", class_="soft"))
    parts.append(text("clusters", 4, TOP - 16, class_="soft"))
    return picture(WIDTH, HEIGHT, "Sizes of duplicate clusters", *parts)


def _decades(most: int) -> int:
    """Return how many powers of ten an axis needs."""
    return max(1, math.ceil(math.log10(most) - 1e-9))


def _grid(widest: int, highest: int) -> list[str]:
    parts = []
    for power in range(widest + 1):
        x = LEFT + (RIGHT - LEFT) * power / widest
        parts.append(line(x, TOP, x, BOTTOM, class_="axis"))
        parts.append(
            text(short(10**power), x, BOTTOM + 17, text_anchor="middle", class_="soft small number")
        )
    for power in range(highest + 1):
        y = BOTTOM - (BOTTOM - TOP) * power / highest
        parts.append(line(LEFT, y, RIGHT, y, class_="axis"))
        parts.append(
            text(short(10**power), LEFT - 8, y + 4, text_anchor="end", class_="soft small number")
        )
    return parts
