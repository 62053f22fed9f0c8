"""Scores of positives and negatives, one row a group over a common axis."""

from typing import Final

from catalog.report.data import POSITIVES, MiningData, ScoreGroup
from catalog.report.numbers import plural, share, short
from catalog.report.scales import round_values
from catalog.report.svg import element, line, picture, rect, text

WIDTH: Final = 640
NARROW: Final = 340
TOP: Final = 6.0
LABEL: Final = 22.0
ROW: Final = 64.0
GAP: Final = 16.0
AXIS: Final = 24.0
MARGIN: Final = 6.0
BARS: Final = 80
CLASSES: Final = {POSITIVES: "ink", "kept": "kept"}


def draw_score_groups(mining: MiningData, *, is_wide: bool = True) -> str:
    """Draw each group's distribution, as high as its own highest bar, and its median."""
    width = WIDTH if is_wide else NARROW
    bottom = TOP + len(mining.groups) * (LABEL + ROW + GAP) - GAP
    parts = []
    for at in round_values(mining.low, mining.high):
        x = _place(mining, at, width)
        parts.append(line(x, TOP + LABEL, x, bottom, class_="axis"))
        label = short(round(at, 9))
        parts.append(text(label, x, bottom + 18, text_anchor="middle", class_="soft small number"))
    for position, group in enumerate(mining.groups):
        parts += _row(mining, group, TOP + position * (LABEL + ROW + GAP), width)
    label = "Scores of " + ", ".join(
        f"{group.name} ({plural(group.total, group.noun, _many(group))}, "
        f"median {short(group.median)})"
        for group in mining.groups
    )
    class_ = "wide" if is_wide else "narrow"
    return picture(width, bottom + AXIS, label, *parts, class_=class_)


def _row(mining: MiningData, group: ScoreGroup, top: float, width: float) -> list[str]:
    bottom = top + LABEL + ROW
    class_ = CLASSES.get(group.name, "lost")
    merged = _merged(group.counts)
    scale = ROW / max(merged)
    step = (mining.high - mining.low) / len(merged)
    parts = []
    for bar, counted in enumerate(merged):
        if counted:
            low, high = mining.low + bar * step, mining.low + (bar + 1) * step
            x = _place(mining, low, width)
            height = max(counted * scale, 1.0)
            tip = f"{short(low)} to {short(high)}: {plural(counted, group.noun, _many(group))}"
            tip += f", {share(counted, group.total)} of {group.name}"
            bar_width = _place(mining, high, width) - x - 0.6
            parts.append(rect(x, bottom - height, bar_width, height, class_=class_, tip=tip))
    x = _place(mining, group.median, width)
    return [
        *parts,
        line(MARGIN, bottom, width - MARGIN, bottom, class_="axis"),
        line(x, bottom - ROW - 2, x, bottom + 4, class_="ground"),
        line(x, bottom - ROW - 2, x, bottom + 4, class_="threshold"),
        _label(group, top + 13, is_short=width < WIDTH),
    ]


def _label(group: ScoreGroup, y: float, *, is_short: bool) -> str:
    counted = short(group.total) if is_short else plural(group.total, group.noun, _many(group))
    counted += f", median {short(group.median)}"
    name = element("tspan", group.name, class_="strong")
    return element(
        "text",
        name + element("tspan", counted, dx=8, class_="soft small number"),
        x=MARGIN,
        y=y,
        class_="halo",
    )


def _many(group: ScoreGroup) -> str:
    return "queries" if group.noun == "query" else f"{group.noun}s"


def _merged(counts: tuple[int, ...]) -> list[int]:
    """Join neighboring bins into BARS bars."""
    size = max(len(counts) // BARS, 1)
    return [sum(counts[first : first + size]) for first in range(0, len(counts), size)]


def _place(mining: MiningData, at: float, width: float) -> float:
    room = width - 2 * MARGIN
    return MARGIN + room * (at - mining.low) / (mining.high - mining.low)
