"""Curves over the steps of training, drawn as SVG: many points, smoothed, with tips.

What was measured is drawn pale, its moving mean strong.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from catalog.report.numbers import count, short, value
from catalog.report.scales import round_values
from catalog.report.svg import element, line, picture, rect, text
from trainer.recorded_runs import Series, Steps, Values

WIDTH: Final = 520
HEIGHT: Final = 250
LEFT: Final = 46.0
RIGHT: Final = 512.0
TOP: Final = 10.0
BOTTOM: Final = 222.0
MAX_POINTS: Final = 400  # of a curve: neighbors beyond are drawn as their mean
SMOOTH_FROM: Final = 60  # shorter curves are drawn as they are
WINDOW_SHARE: Final = 0.04  # of a curve's points, in the moving mean
STRIPS: Final = 80  # places with a tip of their own
MARK_SHARE: Final = 0.22  # of the height, for the tallest mark
EDGE: Final = 0.005  # of the values lies beyond the picture at either end


@dataclass(frozen=True)
class Curve:
    """A series under its name, coloured by a class of the page's style.

    ``is_exact``: it is not measured, so there is nothing to smooth.
    """

    name: str
    series: Series
    class_: str
    is_exact: bool = False


@dataclass(frozen=True)
class _Frame:
    """Where steps and values are on the picture."""

    last: float
    low: float
    high: float

    def x(self, step: float) -> float:
        return LEFT + (RIGHT - LEFT) * step / self.last

    def y(self, number: float) -> float:
        place = (number - self.low) / (self.high - self.low)
        return BOTTOM - (BOTTOM - TOP) * min(max(place, 0.0), 1.0)


def draw_curves(
    label: str,
    curves: Sequence[Curve],
    last_step: int,
    *,
    marks: Series | None = None,
    bounds: tuple[float, float] | None = None,
) -> str:
    """Draw curves over steps 0 to ``last_step``; ``marks`` are counts, bars from the bottom."""
    drawn = [curve for curve in curves if len(curve.series.steps)]
    low, high = bounds or value_bounds([curve.series for curve in drawn])
    frame = _Frame(max(last_step, 1), low, high)
    parts = [*_grid(frame), *_steps_axis(frame)]
    if marks is not None and len(marks.steps):
        parts += _marks(frame, marks)
    for curve in drawn:
        parts += _lines(frame, curve)
    parts += _tips(frame, drawn, marks)
    return picture(WIDTH, HEIGHT, label, *parts)


def value_bounds(series: Sequence[Series]) -> tuple[float, float]:
    """Return between which values curves are drawn: all but the outermost, with some air."""
    together = np.concatenate([np.empty(0), *(one.values for one in series)])
    if not len(together):
        return 0.0, 1.0
    low, high = (float(edge) for edge in np.quantile(together, (EDGE, 1 - EDGE)))
    air = 0.06 * (high - low) or 0.06 * abs(high) or 1.0
    low_is_zero = low >= 0 and low < 0.3 * high
    return (0.0 if low_is_zero else low - air), high + air


def thin(series: Series, max_points: int = MAX_POINTS) -> Series:
    """Replace neighbors by their mean, so that at most so many points are left."""
    if len(series.steps) <= max_points:
        return series
    edges = np.linspace(0, len(series.steps), max_points + 1).astype(np.int64)[:-1]
    sizes = np.diff(np.append(edges, len(series.steps)))
    steps: Steps = np.add.reduceat(series.steps, edges) // sizes
    return Series(steps, np.add.reduceat(series.values, edges) / sizes)


def moving_mean(series: Series) -> Series:
    """Return the mean over the neighbors of each point, fewer at the ends."""
    half = round(len(series.values) * WINDOW_SHARE / 2)
    sums = np.concatenate([[0.0], np.cumsum(series.values)])
    at = np.arange(len(series.values))
    reach = np.minimum(half, np.minimum(at, len(at) - 1 - at))  # as far to the left as to the right
    means: Values = (sums[at + reach + 1] - sums[at - reach]) / (2 * reach + 1)
    return Series(series.steps, means)


def _lines(frame: _Frame, curve: Curve) -> list[str]:
    series = thin(curve.series)
    if len(series.steps) == 1:
        x, y = frame.x(series.steps[0]), frame.y(series.values[0])
        return [element("circle", cx=x, cy=y, r=3.0, class_=f"dot {curve.class_}")]
    if curve.is_exact or len(series.steps) < SMOOTH_FROM:
        return [_polyline(frame, series, f"curve {curve.class_}")]
    return [
        _polyline(frame, series, f"curve raw {curve.class_}"),
        _polyline(frame, moving_mean(series), f"curve {curve.class_}"),
    ]


def _polyline(frame: _Frame, series: Series, class_: str) -> str:
    points = " ".join(
        f"{frame.x(step):.1f},{frame.y(number):.1f}"
        for step, number in zip(series.steps, series.values, strict=True)
    )
    return element("polyline", points=points, class_=class_)


def _marks(frame: _Frame, marks: Series) -> list[str]:
    """Draw how much happened in each strip of steps as bars, the tallest of the same height."""
    width = frame.last / STRIPS
    strips = np.minimum((marks.steps / width).astype(np.int64), STRIPS - 1)
    totals = np.bincount(strips, marks.values, STRIPS)
    most = totals.max() or 1.0
    parts = []
    for strip in np.flatnonzero(totals):
        height = max((BOTTOM - TOP) * MARK_SHARE * totals[strip] / most, 2.0)
        x, bar = frame.x(strip * width), (RIGHT - LEFT) / STRIPS
        parts.append(rect(x + 0.5, BOTTOM - height, bar - 1.0, height, class_="mark"))
    return parts


def _grid(frame: _Frame) -> list[str]:
    parts = []
    for at in (frame.low, *round_values(frame.low, frame.high)):
        if at == frame.low and at != 0:
            continue  # not a round number
        y = frame.y(at)
        parts.append(line(LEFT, y, RIGHT, y, class_="axis"))
        label = f"{at:.0e}" if 0 < abs(at) < 1e-3 else short(round(at, 9))
        parts.append(text(label, LEFT - 6, y + 4, text_anchor="end", class_="soft small number"))
    return parts


def _steps_axis(frame: _Frame) -> list[str]:
    parts = [line(LEFT, BOTTOM, RIGHT, BOTTOM, class_="axis")]
    parts.append(text("step", LEFT - 6, BOTTOM + 18, text_anchor="end", class_="soft small"))
    ticks = [at for at in round_values(0.0, frame.last) if at == int(at)]
    if not ticks or frame.last - ticks[-1] > 0.08 * frame.last:
        ticks.append(frame.last)
    for at in ticks:
        x = frame.x(at)
        anchor = "end" if x > RIGHT - 12 else "middle"
        parts.append(line(x, BOTTOM, x, BOTTOM + 4, class_="axis"))
        label = text(count(at), x, BOTTOM + 18, text_anchor=anchor, class_="soft small number")
        parts.append(label)
    return parts


def _tips(frame: _Frame, curves: Sequence[Curve], marks: Series | None) -> list[str]:
    """Cover the picture with strips that say the values of all curves there."""
    width = frame.last / STRIPS
    parts = []
    for strip in range(STRIPS):
        within = _within(strip * width, (strip + 1) * width, strip == STRIPS - 1)
        said = [
            f"{curve.name} {value(float(mean))}"
            for curve in curves
            if (mean := _mean(curve.series, within)) is not None
        ]
        replaced = _total(marks, within)
        said += [f"{count(replaced)} replaced"] if replaced else []
        if said:
            steps = f"steps {count(strip * width)} to {count((strip + 1) * width)}"
            x, bar = frame.x(strip * width), (RIGHT - LEFT) / STRIPS
            tip = "\n".join([steps, *said])
            parts.append(rect(x, TOP, bar, BOTTOM - TOP, class_="hit", tip=tip))
    return parts


Within = Callable[[Steps], np.ndarray]


def _within(start: float, end: float, is_last: bool) -> Within:
    return lambda steps: (steps >= start) & ((steps <= end) if is_last else (steps < end))


def _mean(series: Series, within: Within) -> float | None:
    inside = series.values[within(series.steps)]
    return float(inside.mean()) if len(inside) else None


def _total(marks: Series | None, within: Within) -> float:
    return 0.0 if marks is None else float(marks.values[within(marks.steps)].sum())
