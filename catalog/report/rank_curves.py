"""What happens with the rank: how scores fall, and how many candidates are kept."""

from collections.abc import Callable, Sequence
from typing import Final

from catalog.report.data import MiningData, RankRow
from catalog.report.numbers import share, short
from catalog.report.ranks import rank_place
from catalog.report.scales import round_values
from catalog.report.svg import element, line, picture, rect, text

WIDTH: Final = 340
HEIGHT: Final = 202
LEFT: Final = 34.0
RIGHT: Final = 336.0
TOP: Final = 12.0
BOTTOM: Final = 178.0
TICKS: Final = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000)
MIN_TICK_GAP: Final = 22.0

Rows = Sequence[RankRow]


def draw_rank_scores(mining: MiningData) -> str:
    """Draw the median of the scores at each rank in the bands of the middle half and of 80 %."""
    rows, reference = mining.ranks, mining.positive_median
    drawn = [score for row in rows for score in row.quantiles]
    drawn += [] if reference is None else [reference]
    lowest, highest = min(drawn), max(drawn)

    def height(score: float) -> float:
        return BOTTOM - (BOTTOM - TOP) * (score - lowest) / (highest - lowest)

    parts = _grid([(at, short(round(at, 9))) for at in round_values(lowest, highest)], height)
    for low, high in ((0, 4), (1, 3)):
        upper = [(_middle(rows, row), height(row.quantiles[high])) for row in rows]
        lower = [(_middle(rows, row), height(row.quantiles[low])) for row in rows]
        parts.append(element("polygon", points=_points([*upper, *lower[::-1]]), class_="band"))
    median = [(_middle(rows, row), height(row.quantiles[2])) for row in rows]
    parts.append(element("polyline", points=_points(median), class_="curve"))
    if reference is not None:
        y = height(reference)
        parts.append(line(LEFT, y, RIGHT, y, class_="threshold"))
        above = y - 6 if y > TOP + 14 else y + 15
        label = f"median of the positives {short(reference)}"
        parts.append(text(label, RIGHT, above, text_anchor="end", class_="small number halo"))
    parts += [_hit(rows, row, _scores_tip(row)) for row in rows]
    ends = " and ".join(f"{short(row.quantiles[2])} at {_name(row)}" for row in (rows[0], rows[-1]))
    return picture(WIDTH, HEIGHT, f"Scores by rank: median {ends}", *parts, *_axis(rows))


def draw_rank_kept(mining: MiningData) -> str:
    """Draw which share of the candidates at each rank is kept, removed, or known to answer."""
    rows = mining.ranks

    def height(part: float) -> float:
        return BOTTOM - (BOTTOM - TOP) * part

    parts = []
    for row in rows:
        x, end = _sides(rows, row)
        below = 0
        for class_, candidates in (
            ("kept", row.kept), ("lost", row.removed), ("lost-pale", row.known),
        ):  # fmt: skip
            top = height((below + candidates) / row.candidates)
            bar = height(below / row.candidates) - top
            if candidates:
                parts.append(rect(x, top, max(end - x - 0.4, 0.6), bar, class_=class_))
            below += candidates
        parts.append(_hit(rows, row, _kept_tip(row)))
    labels = [(part, f"{part:.0%}") for part in (0.0, 0.25, 0.5, 0.75, 1.0)]
    ends = " and ".join(f"{share(row.kept, row.candidates)} at {_name(row)}"
                        for row in (rows[0], rows[-1]))  # fmt: skip
    return picture(
        WIDTH, HEIGHT, f"Kept candidates: {ends}", *_grid(labels, height), *parts, *_axis(rows)
    )


def _grid(labels: Sequence[tuple[float, str]], height: Callable[[float], float]) -> list[str]:
    parts = []
    for at, label in labels:
        y = height(at)
        parts.append(line(LEFT, y, RIGHT, y, class_="axis"))
        parts.append(text(label, LEFT - 5, y + 4, text_anchor="end", class_="soft small number"))
    return parts


def _axis(rows: Rows) -> list[str]:
    """Write the ranks below the picture, those that do not touch."""
    parts = [text("rank", LEFT - 5, BOTTOM + 16, text_anchor="end", class_="soft small")]
    last = rows[-1].last
    taken = -MIN_TICK_GAP
    for tick in TICKS:
        x = _x(last, tick)
        if tick <= last and x - taken >= MIN_TICK_GAP:
            parts.append(line(x, BOTTOM, x, BOTTOM + 4, class_="axis"))
            anchor = "middle" if x < RIGHT - 9 else "end"
            parts.append(
                text(short(tick), x, BOTTOM + 16, text_anchor=anchor, class_="soft small number")
            )
            taken = x
    return parts


def _x(last: int, rank: float) -> float:
    """Return where a rank is drawn; half a rank beyond the first and the last are the edges."""
    start, end = rank_place(0.5), rank_place(last + 0.5)
    return LEFT + (RIGHT - LEFT) * (rank_place(rank) - start) / (end - start)


def _sides(rows: Rows, row: RankRow) -> tuple[float, float]:
    last = rows[-1].last
    return _x(last, row.first - 0.5), _x(last, row.last + 0.5)


def _middle(rows: Rows, row: RankRow) -> float:
    return _x(rows[-1].last, (row.first + row.last) / 2)


def _points(places: Sequence[tuple[float, float]]) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in places)


def _hit(rows: Rows, row: RankRow, tip: str) -> str:
    """Cover a rank from top to bottom with what a pointer shows over it."""
    x, end = _sides(rows, row)
    return rect(x, TOP, end - x, BOTTOM - TOP, class_="hit", tip=tip)


def _scores_tip(row: RankRow) -> str:
    low, first, median, third, high = (short(one) for one in row.quantiles)
    return f"{_name(row)}: median {median}, half {first} to {third}, 80% {low} to {high}"


def _kept_tip(row: RankRow) -> str:
    shares = [share(part, row.candidates) for part in (row.kept, row.removed, row.known)]
    return (
        f"{_name(row)}: {shares[0]} kept, {shares[1]} removed for their score, "
        f"{shares[2]} known to answer"
    )


def _name(row: RankRow) -> str:
    return f"rank {row.first}" if row.first == row.last else f"ranks {row.first} to {row.last}"
