"""The funnel: a picture that stands in a page or alone, and lines for a terminal."""

from collections.abc import Sequence
from typing import Final

from catalog.report.data import Stage
from catalog.report.numbers import count, plural, share
from catalog.report.svg import alone, cells, cut, picture, rect, text

EIGHTHS: Final = " ▏▎▍▌▋▊▉█"
WIDE: Final = 960
NARROW: Final = 420
STEP: Final = {True: 58, False: 74}  # pixels from stage to stage
BAR_HEIGHT: Final = 30
CELL_WIDTH: Final = 8.4  # a narrow character of a bold label
NUMBERS_WIDTH: Final = 170
MAX_LABEL_CELLS: Final = 18
TERMINAL_WIDTH: Final = 88


def funnel_svg(stages: Sequence[Stage]) -> str:
    """Draw the funnel as a file of its own, in light and dark colours."""
    drawing = draw_funnel(stages)
    return alone(drawing, WIDE, _height(stages, is_wide=True)) + "\n"


def draw_funnel(stages: Sequence[Stage], *, is_wide: bool = True) -> str:
    """Draw a bar a stage: what goes on, and beside it what is rejected; labels above if narrow."""
    width = WIDE if is_wide else NARROW
    left = _label_width(stages) if is_wide else 0
    room = width - left - (NUMBERS_WIDTH if is_wide else 0)
    scale = room / max([stage.rows_in for stage in stages] + [1])
    top = 8 if is_wide else 26
    parts = []
    for position, stage in enumerate(stages):
        y = top + position * STEP[is_wide]
        parts.append(_bar(stage, left, y, scale))
        if position + 1 < len(stages) and is_wide:
            parts.append(_flow(stage, left, y, scale))
        parts.append(_labels(stage, y, width, is_wide=is_wide))
    name = _described(stages)
    class_ = "wide" if is_wide else "narrow"
    return picture(width, _height(stages, is_wide=is_wide), name, *parts, class_=class_)


def funnel_text(stages: Sequence[Stage], width: int = TERMINAL_WIDTH) -> str:
    """Write the funnel for a terminal: a line a stage, aligned whatever script its name is in."""
    if not stages:
        return "no stage: the catalog is empty and has no policy"
    rows = [
        (stage.name, count(stage.rows_out), _lost(stage), share(stage.rows_out, stages[0].rows_in))
        for stage in stages
    ]
    widths = [max(cells(row[column]) for row in rows) for column in range(4)]
    room = max(10, width - sum(widths) - 8)
    most = max(stage.rows_in for stage in stages) or 1
    lines = []
    for stage, (name, out, lost, kept) in zip(stages, rows, strict=True):
        bar = _blocks(room * stage.rows_out / most, room)
        lines.append(
            f"{_pad(name, widths[0])}  {bar}  {out:>{widths[1]}}  {kept:>{widths[3]}}  "
            f"{lost:<{widths[2]}}".rstrip()
        )
    return "\n".join(lines)


def _bar(stage: Stage, left: float, y: float, scale: float) -> str:
    out, lost = stage.rows_out * scale, stage.lost * scale
    kept_tip = f"{stage.name}: {plural(stage.rows_out, 'row')} go on"
    lost_tip = f"{stage.name}: {plural(stage.lost, 'row')} rejected ({_lost_share(stage)})"
    return rect(left, y, out, BAR_HEIGHT, class_="kept", tip=kept_tip) + rect(
        left + out, y, lost, BAR_HEIGHT, class_="lost", tip=lost_tip
    )


def _flow(stage: Stage, left: float, y: float, scale: float) -> str:
    """Join a bar to the next one: what goes on is as wide as what comes in below."""
    bottom, width = y + BAR_HEIGHT, stage.rows_out * scale
    return rect(left, bottom, width, STEP[True] - BAR_HEIGHT, class_="kept-pale")


def _labels(stage: Stage, y: float, width: float, *, is_wide: bool) -> str:
    middle = y + BAR_HEIGHT / 2
    name = cut(stage.name, MAX_LABEL_CELLS)
    if not is_wide:
        return (
            text(name, 0, y - 7, class_="strong")
            + text(f"{count(stage.rows_out)}", width, y - 7, text_anchor="end", class_="number")
            + text(_lost(stage), 0, y + BAR_HEIGHT + 14, class_="soft small number")
        )
    right = width - NUMBERS_WIDTH + 20
    return (
        text(name, 0, middle + 5, class_="strong")
        + text(count(stage.rows_out), right, middle - 1, class_="strong number")
        + text(_lost(stage), right, middle + 15, class_="soft small number")
    )


def _label_width(stages: Sequence[Stage]) -> float:
    names = [cut(stage.name, MAX_LABEL_CELLS) for stage in stages]
    return 20 + CELL_WIDTH * max([cells(name) for name in names] + [0])


def _lost(stage: Stage) -> str:
    return f"−{count(stage.lost)} ({_lost_share(stage)})" if stage.lost else "nothing rejected"


def _lost_share(stage: Stage) -> str:
    return share(stage.lost, stage.rows_in)


def _height(stages: Sequence[Stage], *, is_wide: bool) -> float:
    if not stages:
        return 10.0
    step = STEP[is_wide]
    return step * len(stages) + (8 if is_wide else 12) - (step - BAR_HEIGHT - 8 if is_wide else 0)


def _described(stages: Sequence[Stage]) -> str:
    if not stages:
        return "An empty funnel"
    steps = ", ".join(f"{stage.name} {count(stage.rows_out)}" for stage in stages)
    return f"Funnel: {count(stages[0].rows_in)} rows read; {steps}"


def _blocks(length: float, room: int) -> str:
    """Write a bar in eighths of a character; what is not nothing shows."""
    eighths = round(length * 8) or (1 if length > 0 else 0)
    full, rest = divmod(min(eighths, room * 8), 8)
    return (("█" * full) + (EIGHTHS[rest] if rest else "")).ljust(room)


def _pad(name: str, width: int) -> str:
    return name + " " * (width - cells(name))
