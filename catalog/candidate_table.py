"""A query's candidates as lines of a terminal; East Asian characters take two columns."""

from collections.abc import Sequence
from typing import Final

from catalog.candidates import CandidateList, Positive
from catalog.mining_runs import MiningRun
from catalog.results import cut, display_width, pad

MIN_TEXT_WIDTH: Final = 24
INDENT: Final = "  "
NO_RANK: Final = "–"


def render_candidates(
    found: CandidateList, run: MiningRun, width: int = 120, limit: int | None = 20
) -> str:
    """Write a query, its positives and the first ``limit`` ranks, no line wider than ``width``."""
    if limit is not None and limit < 1:
        raise ValueError(f"limit is {limit}; it must be at least 1")
    shown = found.candidates if limit is None else found.candidates[:limit]
    rows = [
        [str(one.rank), f"{one.score:.4f}", one.verdict, _line(one.text, width)] for one in shown
    ]
    lines = [
        cut(f"query {found.query_id}: {_line(found.query, width)}", width),
        cut(f"run {run.run_id}: {run_summary(run)}", width),
        "",
        f"{_count(len(found.positives), 'positive')}{_lowest(found)}",
        *_aligned(["rank", "score", "teacher scores", "passage"], _positives(found, width), width),
        "",
        f"{_count(len(found.candidates), 'candidate')}, {len(found.kept):,} kept",
        *_aligned(["rank", "score", "verdict", "passage"], rows, width),
    ]
    if len(shown) < len(found.candidates):
        lines.append(f"the first {len(shown):,} are shown; --limit shows more")
    return "\n".join(line.rstrip() for line in lines)


def run_summary(run: MiningRun) -> str:
    """Say which model ranked how deep, and for which snapshot."""
    settings = run.settings
    passage = settings.get("embeddings", {}).get("passage", {})
    model = f"{passage['model']} revision {passage['revision']}, " if passage else ""
    miners = " + ".join(settings.get("miners", []))
    return f"snapshot {run.snapshot}, {model}{miners} search, depth {settings.get('depth')}"


def _lowest(found: CandidateList) -> str:
    if found.positive_score is None:
        return "; none is kept, so no margin applies"
    return f", the lowest kept one scores {found.positive_score:.4f}"


def _positives(found: CandidateList, width: int) -> list[list[str]]:
    return [
        [
            NO_RANK if one.rank is None else str(one.rank),
            NO_RANK if one.score is None else f"{one.score:.4f}",
            _teachers(one) or NO_RANK,
            _line(one.text, width),
        ]
        for one in found.positives
    ]


def _teachers(positive: Positive) -> str:
    return ", ".join(f"{model} {score:.4f}" for model, score in positive.teacher_scores.items())


def _aligned(header: Sequence[str], rows: Sequence[Sequence[str]], width: int) -> list[str]:
    """Write rows under their header; the last column gets the width that is left."""
    if not rows:
        return []
    widths = [max(map(display_width, column)) for column in zip(header, *rows, strict=True)]
    fixed = widths[:-1]
    # A long list of models or reasons must leave room for the text.
    taken = sum(fixed[:2]) + len(INDENT) * len(fixed) + len(INDENT)
    fixed[2] = max(min(fixed[2], width - taken - MIN_TEXT_WIDTH), display_width(header[2]))
    last = max(width - taken - fixed[2], 1)
    lines = []
    for row in (header, *rows):
        cells = [pad(cut(row[place], fixed[place]), fixed[place], right=place < 2)
                 for place in range(len(fixed))]  # fmt: skip
        lines.append(INDENT + INDENT.join([*cells, cut(row[-1], last)]))
    return lines


def _line(text: str, width: int) -> str:
    """Write the start of a text on one line; control characters must not reach the terminal."""
    start = " ".join(text[: 4 * width].split())
    return "".join(character if character.isprintable() else "�" for character in start)


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
