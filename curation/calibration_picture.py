"""The picture of a calibration: precision, recall and kept share over the threshold."""

from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from catalog.report import svg
from curation.calibration import Choice, Curve

WIDTH: Final = 680
HEIGHT: Final = 360
LEFT: Final = 44
TOP: Final = 56
BOTTOM: Final = 320
LABELS_FROM: Final = 560
POINTS: Final = 240  # a curve of more points looks no different
# Also told apart without colour: each line has a dash of its own.
LINES: Final = {
    "precision": ("var(--kept)", None),
    "recall": ("var(--lost)", "7 4"),
    "kept": ("var(--soft)", "2 3"),
}
NAMES: Final = {"precision": "precision", "recall": "recall", "kept": "kept share"}


def write_picture(curve: Curve, choice: Choice | None, title: str, path: Path) -> None:
    """Write the picture as an SVG file of its own."""
    path.write_text(svg.alone(draw(curve, choice, title), WIDTH, HEIGHT) + "\n", encoding="utf-8")


def draw(curve: Curve, choice: Choice | None, title: str) -> str:
    """Draw the three lines, and the chosen threshold."""
    parts = [svg.text(title, 0, 8, class_="strong"), *_grid()]
    shown: list[tuple[float, str, str]] = []
    for name, (colour, dash) in LINES.items():
        values = getattr(curve, name)
        parts.append(_line(curve.thresholds, values, colour, dash))
        shown.append((_y(float(values[-1])), NAMES[name], colour))
    parts += _line_names(shown)
    if choice is not None:
        parts += _chosen(choice)
    says = f"{title}: precision, recall and kept share for each threshold from 0 to 1"
    return svg.picture(WIDTH, HEIGHT, says, *parts)


def _grid() -> list[str]:
    parts = []
    for tick in (0.0, 0.25, 0.5, 0.75, 1.0):
        parts.append(svg.line(LEFT, _y(tick), LABELS_FROM, _y(tick), class_="axis"))
        parts.append(
            svg.text(f"{tick:.0%}", LEFT - 8, _y(tick) + 4, class_="soft small", text_anchor="end")
        )
        parts.append(
            svg.text(f"{tick:g}", _x(tick), BOTTOM + 18, class_="soft small", text_anchor="middle")
        )
    middle = (LEFT + LABELS_FROM) / 2
    parts.append(
        svg.text("threshold", middle, BOTTOM + 36, class_="soft small", text_anchor="middle")
    )
    return parts


def _line(
    thresholds: npt.NDArray[np.float64],
    values: npt.NDArray[np.float64],
    colour: str,
    dash: str | None,
) -> str:
    places = np.unique(np.linspace(0, len(thresholds) - 1, POINTS).astype(np.int64))
    points = " ".join(f"{_x(thresholds[at]):.1f},{_y(values[at]):.1f}" for at in places)
    return svg.element(
        "polyline", points=points, fill="none", stroke=colour, stroke_width=2, stroke_dasharray=dash
    )


def _line_names(shown: list[tuple[float, str, str]]) -> list[str]:
    """Name each line at its right end, the names a line apart."""
    parts, lowest = [], float(TOP) - 18
    for y, name, colour in sorted(shown):
        lowest = max(y, lowest + 18)
        style = f"fill:{colour}"
        parts.append(
            svg.text(name, LABELS_FROM + 10, lowest + 4, style=style, class_="small strong")
        )
    return parts


def _chosen(choice: Choice) -> list[str]:
    x = _x(choice.threshold)
    says = (
        f"{choice.threshold:g}: precision {choice.precision:.2f}, recall {choice.recall:.2f}, "
        f"keeps {choice.kept:.1%}"
    )
    anchor = "end" if choice.threshold > 0.5 else "start"
    return [
        svg.line(x, TOP - 12, x, BOTTOM, class_="threshold"),
        svg.text(says, x, TOP - 18, class_="small", text_anchor=anchor),
    ]


def _x(threshold: float) -> float:
    return LEFT + (LABELS_FROM - LEFT) * min(max(float(threshold), 0.0), 1.0)


def _y(share: float) -> float:
    return BOTTOM - (BOTTOM - TOP) * share
