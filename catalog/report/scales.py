"""Where a histogram begins and ends, and how wide its bars are: chosen from the values' sizes."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from catalog.report.data import Bar

BARS: Final = 40
MAX_WHOLE: Final = 48  # whole numbers get a bar each up to this many
MIN_WHOLE: Final = 12  # a single value is a bar, not a wall
# What is shown: all but the outermost values, which go into the first and the last bar.
LOW_QUANTILE: Final = 0.002
HIGH_QUANTILE: Final = 0.995
# Lengths spread over orders of size: their top is this many times their median.
LOG_SPREAD: Final = 6.0
LOG_MIN_TOP: Final = 16.0
# A threshold this far outside (in widths of the picture) is named at the edge, not drawn.
REACH: Final = 0.6
LOG_REACH: Final = 4.0

BUCKET_ORIGIN: Final = 1000
BUCKETS_PER_DOUBLING: Final = 8


@dataclass(frozen=True)
class Scale:
    """Bars of equal width from ``low``, in the signal or (``is_log``) in its logarithm."""

    low: float
    step: float
    bars: int
    is_log: bool

    def edge(self, bar: int) -> float:
        """Return the signal's value at the left of a bar."""
        place = self.low + self.step * bar
        return math.exp(place) if self.is_log else place


def choose_scale(
    buckets: Mapping[int, int], thresholds: Sequence[float], *, is_whole: bool
) -> Scale | None:
    """Choose the scale of a histogram from how often each size of value occurs; None for none."""
    if not buckets:
        return None
    low, median, high = (
        _quantile(buckets, share)[side]
        for share, side in ((LOW_QUANTILE, 0), (0.5, 0), (HIGH_QUANTILE, 1))
    )
    is_log = min(buckets) >= 0 and high >= LOG_MIN_TOP and high > LOG_SPREAD * max(median, 1e-9)
    if is_log:
        return _log_scale(max(low, 1.0), high, thresholds)
    low, high = _reached(low, high, thresholds)
    if low >= 0 and low < 0.5 * high:
        low = 0.0
    if is_whole:
        return _whole_scale(low, high, thresholds)
    if 1 < high <= bucket_values(BUCKET_ORIGIN)[1] and max(buckets) <= BUCKET_ORIGIN:
        high = 1.0  # a share
    return _even_scale(low, high, thresholds)


def make_bars(scale: Scale, counts: Mapping[tuple[int, bool], int], *, is_whole: bool) -> list[Bar]:
    """Make the bars out of (bin, failed) counts; what lies beyond goes into the outermost bars."""
    passed, failed = [0] * scale.bars, [0] * scale.bars
    for (bin_, fails), pairs in counts.items():
        place = min(max(bin_, 0), scale.bars - 1)
        (failed if fails else passed)[place] += pairs
    bars = [Bar(scale.edge(i), scale.edge(i + 1), passed[i], failed[i]) for i in range(scale.bars)]
    return _without_gaps(bars) if is_whole and scale.is_log else bars


def bucket_values(bucket: int) -> tuple[float, float]:
    """Return the smallest and the largest value of a bucket of ``report_buckets.sql``."""
    if bucket == 0:
        return 0.0, 0.0
    power = (abs(bucket) - BUCKET_ORIGIN) / BUCKETS_PER_DOUBLING
    low, high = 2.0**power, 2.0 ** (power + 1 / BUCKETS_PER_DOUBLING)
    return (low, high) if bucket > 0 else (-high, -low)


def round_values(low: float, high: float) -> list[float]:
    """List at most six round values between two others, evenly apart."""
    step = 10.0 ** math.floor(math.log10((high - low) / 2))
    while (high - low) / step > 6:
        step *= 2 if (high - low) / step <= 12 else 5
    first = math.floor(low / step) + 1
    return [step * at for at in range(first, math.ceil(high / step)) if low < step * at < high]


def _quantile(buckets: Mapping[int, int], share: float) -> tuple[float, float]:
    """Return the values of the bucket below which this share of the pairs lies."""
    wanted = share * sum(buckets.values())
    below = 0
    for bucket in sorted(buckets):
        below += buckets[bucket]
        if below >= wanted:
            return bucket_values(bucket)
    return bucket_values(max(buckets))


def _reached(low: float, high: float, thresholds: Sequence[float]) -> tuple[float, float]:
    """Widen a range to the thresholds that are near it."""
    width = high - low or abs(high) or 1.0
    near = [at for at in thresholds if low - REACH * width <= at <= high + REACH * width]
    return min([low, *near]), max([high, *(at + 0.05 * width for at in near)])


def _log_scale(low: float, high: float, thresholds: Sequence[float]) -> Scale:
    near = [at for at in thresholds if low / LOG_REACH <= at <= high * LOG_REACH and at > 0]
    low, high = min([low, *near]), max([high, *(at * 1.1 for at in near)])
    step = math.log(high / low) / BARS
    inner = [at for at in near if low < at < high]
    if inner:  # a bar begins at the first threshold
        step = math.log(inner[0] / low) / max(1, round(math.log(inner[0] / low) / step))
    return Scale(math.log(low), step, math.ceil(math.log(high / low) / step - 1e-9), is_log=True)


def _whole_scale(low: float, high: float, thresholds: Sequence[float]) -> Scale:
    first = math.floor(low)
    last = max(math.ceil(high), first + MIN_WHOLE)
    step = 1 if last - first <= MAX_WHOLE else math.ceil((last - first) / BARS)
    inner = [math.floor(at) for at in thresholds if first < at < last]
    if inner and step > 1:  # a bar begins at the first threshold if some width allows it
        widths = sorted(range(step // 2 + 1, 2 * step), key=lambda width: abs(width - step))
        step = next((width for width in widths if (inner[0] - first) % width == 0), step)
    return Scale(float(first), float(step), math.ceil((last - first) / step), is_log=False)


def _even_scale(low: float, high: float, thresholds: Sequence[float]) -> Scale:
    width = high - low or abs(high) or 1.0
    step = width / BARS
    inner = [at for at in thresholds if low < at < low + width]
    if inner:  # a bar begins at the first threshold
        step = (inner[0] - low) / max(1, round((inner[0] - low) / step))
    return Scale(low, step, max(1, math.ceil(width / step - 1e-9)), is_log=False)


def _without_gaps(bars: Sequence[Bar]) -> list[Bar]:
    """Join a bar that holds no whole number to the next: it would be a gap, not a low count."""
    joined: list[Bar] = []
    start: float | None = None
    for bar in bars:
        low = bar.low if start is None else start
        if math.ceil(low - 1e-9) >= bar.high - 1e-9 and not bar.pairs:
            start = low
            continue
        joined.append(Bar(low, bar.high, bar.passed, bar.failed))
        start = None
    return joined
