"""A signal's histogram: the pairs that pass and that fail, and the thresholds between them."""

import math
from typing import Final

from catalog.report.data import Bar, Histogram
from catalog.report.numbers import count, plural, share, short, value
from catalog.report.scales import round_values
from catalog.report.svg import cut, line, picture, rect, text

WIDTH: Final = 340
HEIGHT: Final = 168
LEFT: Final = 4.0
RIGHT: Final = 336.0
TOP: Final = 26.0
BOTTOM: Final = 136.0
# A bar this many times the next one is broken, so that the others can be seen.
BREAK_AT: Final = 4.0
BROKEN_TO: Final = 1.3
MAX_CATEGORIES: Final = 8
CATEGORY_LABEL: Final = 96.0
CATEGORY_NUMBERS: Final = 64.0


def draw_histogram(histogram: Histogram) -> str:
    """Draw bars over a signal's values, or a bar a category."""
    if histogram.is_category:
        return _draw_categories(histogram)
    bars = histogram.bars
    low, high = bars[0].low, bars[-1].high
    top = _height_of_one(bars)
    parts = [_draw_bar(histogram, bar, low, high, top) for bar in bars if bar.pairs]
    parts.append(line(LEFT, BOTTOM, RIGHT, BOTTOM, class_="axis"))
    parts += _ticks(histogram, low, high)
    parts += [_threshold(histogram, one, low, high) for one in histogram.thresholds]
    return picture(WIDTH, HEIGHT, _described(histogram), *parts)


def _height_of_one(bars: tuple[Bar, ...]) -> float:
    """Return how many pairs fill the height: the tallest bar, unless it dwarfs all others."""
    tallest, second = [*sorted((bar.pairs for bar in bars), reverse=True), 0][:2]
    is_dwarfing = second and tallest > BREAK_AT * second
    return float(second * BROKEN_TO if is_dwarfing else tallest or 1)


def _draw_bar(histogram: Histogram, bar: Bar, low: float, high: float, top: float) -> str:
    x, end = (_place(histogram, edge, low, high) for edge in (bar.low, bar.high))
    width = max(end - x - 0.6, 0.8)
    room = BOTTOM - TOP
    is_broken = bar.pairs > top
    scale = room / (bar.pairs if is_broken else top)
    tip = f"{_range(histogram, bar)}: {plural(bar.pairs, histogram.noun)}"
    if bar.failed:
        tip += f", {count(bar.failed)} {histogram.outcome}"
    # A bar that is not empty can be seen, and its failing part as well.
    failed = max(bar.failed * scale, 1.5) if bar.failed else 0.0
    passed = max(bar.passed * scale, 1.5) if bar.passed else 0.0
    parts = rect(x, BOTTOM - passed, width, passed, class_="kept", tip=tip)
    parts += rect(x, BOTTOM - passed - failed, width, failed, class_="lost", tip=tip)
    if is_broken:
        parts += _break(x, width, share(bar.pairs, histogram.measured))
    return parts


def _break(x: float, width: float, label: str) -> str:
    """Strike through a bar that is taller than the picture, and say beside it how tall it is."""
    strokes = "".join(
        line(x - 2, TOP + gap + 3, x + width + 2, TOP + gap - 2, class_="break")
        for gap in (9.0, 14.0)
    )
    is_left = x + width < WIDTH - 60
    place, anchor = (x + width + 4, "start") if is_left else (x - 4, "end")
    return strokes + text(label, place, TOP + 9, text_anchor=anchor, class_="small number halo")


def _ticks(histogram: Histogram, low: float, high: float) -> list[str]:
    """Write the axis: its ends and round values between that do not touch."""
    ends = [(low, "start", "≤ " if histogram.opens_low else "")]
    ends.append((high, "end", "≥ " if histogram.opens_high else ""))
    parts = [
        text(sign + short(at), _place(histogram, at, low, high), BOTTOM + 15,
             text_anchor=anchor, class_="soft small number")
        for at, anchor, sign in ends
    ]  # fmt: skip
    taken = [LEFT + 20, RIGHT - 30]
    for at in _round_values(histogram, low, high):
        x = _place(histogram, at, low, high)
        if all(abs(x - other) > 34 for other in taken):
            taken.append(x)
            parts.append(
                text(short(at), x, BOTTOM + 15, text_anchor="middle", class_="soft small number")
            )
            parts.append(line(x, BOTTOM, x, BOTTOM + 4, class_="axis"))
    return parts


def _round_values(histogram: Histogram, low: float, high: float) -> list[float]:
    if histogram.is_log:
        powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        return [10.0**power for power in powers if low < 10.0**power < high]
    return round_values(low, high)


def _threshold(histogram: Histogram, at: float, low: float, high: float) -> str:
    """Draw a threshold; one outside the picture is named at the edge that it is beyond."""
    inside = min(max(at, low), high)
    x = _place(histogram, inside, low, high)
    label = value(at) if inside == at else f"{'←' if at < low else '→'} {value(at)}"
    anchor = "start" if x < WIDTH / 2 else "end"
    offset = 4 if anchor == "start" else -4
    return line(x, TOP - 12, x, BOTTOM + 4, class_="threshold") + text(
        label, x + offset, TOP - 14 + 2, text_anchor=anchor, class_="small strong number halo"
    )


def _place(histogram: Histogram, at: float, low: float, high: float) -> float:
    """Return the x of a value; the scale is logarithmic where the histogram says so."""
    if high <= low:
        return LEFT
    if histogram.is_log:
        at, low, high = math.log(at), math.log(low), math.log(high)
    return LEFT + (RIGHT - LEFT) * (at - low) / (high - low)


def _range(histogram: Histogram, bar: Bar) -> str:
    if histogram.opens_low and bar is histogram.bars[0]:
        return f"below {value(bar.high)}"
    if histogram.opens_high and bar is histogram.bars[-1]:
        return f"{value(bar.low)} and more"
    return f"{value(bar.low)} to {value(bar.high)}"


def _draw_categories(histogram: Histogram) -> str:
    bars = histogram.bars[:MAX_CATEGORIES]
    room = RIGHT - CATEGORY_LABEL - CATEGORY_NUMBERS
    scale = room / max([bar.pairs for bar in bars] + [1])
    step = min(22.0, (HEIGHT - 8) / max(len(bars), 1))
    parts = []
    for position, bar in enumerate(bars):
        y = 4 + position * step
        # A part that is not empty can be seen.
        passed, failed = (
            max(pairs * scale, 1.5) if pairs else 0.0 for pairs in (bar.passed, bar.failed)
        )
        tip = f"{bar.label}: {plural(bar.pairs, 'pair')}, {count(bar.failed)} fail"
        label, end = cut(bar.label, 13), CATEGORY_LABEL + passed + failed
        middle = y + step / 2 + 2
        parts += [
            text(label, CATEGORY_LABEL - 8, middle, text_anchor="end", class_="small"),
            rect(CATEGORY_LABEL, y, passed, step - 4, class_="kept", tip=tip),
            rect(CATEGORY_LABEL + passed, y, failed, step - 4, class_="lost", tip=tip),
            text(share(bar.pairs, histogram.measured), end + 6, middle, class_="soft small number"),
        ]
    return picture(WIDTH, HEIGHT, _described(histogram), *parts)


def _described(histogram: Histogram) -> str:
    return (
        f"Distribution of {histogram.signal}; condition {histogram.condition}: {histogram.rule}; "
        f"{count(histogram.failed)} of {plural(histogram.measured, histogram.noun)} "
        f"{histogram.outcome}"
    )
