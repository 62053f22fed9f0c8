"""Which conditions fail together: a column for every combination, a row for every condition."""

from collections.abc import Sequence
from typing import Final

from catalog.report.data import Combination, Reason
from catalog.report.numbers import count, plural, short
from catalog.report.svg import circle, cut, element, line, picture, rect, text

MAX_ROWS: Final = 16
MAX_COLUMNS: Final = 24
LABEL_WIDTH: Final = 214.0
TOTAL_WIDTH: Final = 110.0
COLUMN_WIDTH: Final = 30.0
ROW_HEIGHT: Final = 24.0
BARS_HEIGHT: Final = 120.0
MAX_LABEL_CELLS: Final = 27


def draw_overlaps(reasons: Sequence[Reason], combinations: Sequence[Combination]) -> str:
    """Draw the most frequent combinations of the most frequent reasons (an UpSet plot).

    A combination of which a reason is not shown is left out: it would seem to be another.
    """
    rows = sorted((r for r in reasons if r.pairs), key=lambda r: (-r.pairs, r.name))[:MAX_ROWS]
    names = [row.name for row in rows]
    shown = [one for one in combinations if set(one.reasons) <= set(names)][:MAX_COLUMNS]
    left = LABEL_WIDTH + TOTAL_WIDTH
    width = left + COLUMN_WIDTH * len(shown) + 12
    height = BARS_HEIGHT + ROW_HEIGHT * len(rows) + 30
    parts = [_row(reason, position, rows, width) for position, reason in enumerate(rows)]
    most = max([one.pairs for one in shown] + [1])
    for position, combination in enumerate(shown):
        x = left + COLUMN_WIDTH * (position + 0.5)
        parts.append(_column(combination, x, most, names))
    label = f"{len(rows)} conditions and the {len(shown)} most frequent combinations that fail"
    # A plot of few columns keeps its size; one of many scrolls.
    return picture(width, height, label, *parts, class_="overlaps", style=f"width:{width:.0f}px")


def _row(reason: Reason, position: int, rows: Sequence[Reason], width: float) -> str:
    y = BARS_HEIGHT + 24 + ROW_HEIGHT * position
    middle = y + ROW_HEIGHT / 2
    total = (TOTAL_WIDTH - 50) * reason.pairs / rows[0].pairs
    stripe = rect(0, y, width, ROW_HEIGHT, class_="stripe") if position % 2 == 0 else ""
    tip = f"{reason.name}: {plural(reason.pairs, 'pair')}, {count(reason.alone)} for it alone"
    return (
        stripe
        + text(cut(reason.name, MAX_LABEL_CELLS), LABEL_WIDTH - 10, middle + 4, text_anchor="end",
               class_="small strong")
        + rect(LABEL_WIDTH, middle - 5, max(total, 1.5), 10, class_="lost", tip=tip)
        + text(short(reason.pairs), LABEL_WIDTH + total + 5, middle + 4, class_="soft small number")
    )  # fmt: skip


def _column(combination: Combination, x: float, most: int, names: Sequence[str]) -> str:
    places = sorted(names.index(name) for name in combination.reasons)
    middles = [BARS_HEIGHT + 24 + ROW_HEIGHT * (place + 0.5) for place in places]
    height = max((BARS_HEIGHT - 14) * combination.pairs / most, 1.5)
    top = BARS_HEIGHT + 16 - height
    tip = f"{' + '.join(combination.reasons)}: {plural(combination.pairs, 'pair')}"
    class_ = "lost" if len(places) > 1 else "lost-alone"
    parts = rect(x - 8, top, 16, height, class_=class_, tip=tip)
    parts += text(short(combination.pairs), x, top - 4, text_anchor="middle", class_="tiny number")
    parts += "".join(
        circle(x, BARS_HEIGHT + 24 + ROW_HEIGHT * (row + 0.5), 3, class_="faint")
        for row in range(len(names))
        if row not in places
    )
    if len(places) > 1:
        parts += line(x, middles[0], x, middles[-1], class_="joint")
    parts += "".join(circle(x, middle, 5.5, class_="ink", tip=tip) for middle in middles)
    return element("g", parts)
