"""Runs side by side: one page of curves and tables that opens from the disk, and lines to print."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final

import jinja2
import numpy as np
from markupsafe import Markup

from catalog.records import writing
from catalog.report import numbers, svg
from trainer.curves import Curve, draw_curves, value_bounds
from trainer.recorded_runs import REPLACED, RecordedRun, Series, differing_settings, read_runs

FOLDER: Final = Path(__file__).parent
REPORT_STYLE: Final = Path(svg.__file__).parent / "style.css"
COLORS: Final = 6  # runs beyond are dashed
NOTHING: Final = "–"


@dataclass(frozen=True)
class Chart:
    """A picture of the page."""

    title: str
    about: str
    drawing: Markup


@dataclass(frozen=True)
class Comparison:
    """All that the page shows; ``finals`` are values by row, one a run."""

    runs: list[RecordedRun]
    losses: list[Chart]
    scores: list[Chart]
    progress: list[Chart]
    differences: list[tuple[str, list[str]]]
    finals: list[tuple[str, list[str]]]


def write_comparison(folders: Sequence[Path], output: Path) -> list[str]:
    """Write the page about runs, and return its tables as lines of text."""
    runs = read_runs(folders)
    found = compare(runs)
    page = _template().render(data=found, swatch=_swatch)
    with writing(output.parent):
        output.parent.mkdir(parents=True, exist_ok=True)
        aside = output.with_name(f".{output.name}.tmp")
        aside.write_text(page, encoding="utf-8")
        aside.rename(output)
    heading = ["", *(run.name for run in runs)]
    lines = _align([heading, *([name, *values] for name, values in found.finals)])
    if found.differences:
        differences = [[name, *values] for name, values in found.differences]
        lines += ["", *_align([["setting", *heading[1:]], *differences])]
    return lines


def compare(runs: Sequence[RecordedRun]) -> Comparison:
    """Draw the curves of runs and gather what they ended with."""
    longest = max(run.last_step for run in runs)
    return Comparison(
        runs=list(runs),
        losses=[
            _overlay(runs, name, longest, f"Loss: {task}", "of the batch at hand")
            for task, name in _measured(runs, "loss/")
        ],
        scores=_score_charts(runs, longest),
        progress=_progress_charts(runs, longest),
        differences=differing_settings(runs),
        finals=final_values(runs),
    )


def final_values(runs: Sequence[RecordedRun]) -> list[tuple[str, list[str]]]:
    """Say what each run ended with: means over its last tenth, and totals."""
    rows = [("steps", [numbers.count(run.last_step) for run in runs])]
    for label, prefix in (
        ("loss", "loss/"), ("positive score", "positive_score/"),
        ("negative score", "negative_score/"),
    ):  # fmt: skip
        for task, name in _measured(runs, prefix):
            finals = [run.series(name).final(run.last_step) for run in runs]
            rows.append((f"{label}, {task}", [_number(final, ".4f") for final in finals]))
    if _measured(runs, REPLACED):
        totals = [run.series(REPLACED).values.sum() for run in runs]
        rows.append(("queries with new negatives", [numbers.count(total) for total in totals]))
        rates = [total / run.last_step for total, run in zip(totals, runs, strict=True)]
        rows.append(("of them per step", [_number(rate, ".2f") for rate in rates]))
    speeds = [_median(run.series("tokens_per_second")) for run in runs]
    rows.append(("tokens per second, median", [_number(speed, ",.0f") for speed in speeds]))
    return rows


def _score_charts(runs: Sequence[RecordedRun], longest: int) -> list[Chart]:
    """Draw positives, negatives and replacements: a picture a run and task, all to one scale."""
    sides = ("positive_score/", "negative_score/")
    tasks = [task for task, _ in _measured(runs, sides[0])]
    charts = []
    for task in tasks:
        names = [side + task for side in sides]
        bounds = value_bounds([run.series(name) for run in runs for name in names])
        for run in runs:
            curves = [
                Curve(side.split("_")[0], run.series(name), class_)
                for side, name, class_ in zip(sides, names, ("positives", "negatives"), strict=True)
            ]
            if not any(len(curve.series.steps) for curve in curves):
                continue
            marks = run.series(REPLACED) if task == "retrieval" else None
            label = f"Scores of positives and negatives, {task}, of {run.name}"
            drawing = draw_curves(label, curves, longest, marks=marks, bounds=bounds)
            charts.append(Chart(run.name, _about_scores(run, task, marks), Markup(drawing)))
    return charts


def _about_scores(run: RecordedRun, task: str, marks: Series | None) -> str:
    ends = [run.series(f"{side}_score/{task}").final(run.last_step) for side in _SIDES]
    said = " and ".join(_number(end, ".3f") for end in ends)
    about = f"{task}: ends with {said}"
    if marks is not None and len(marks.steps):
        about += f"; {numbers.plural(marks.values.sum(), 'replacement')}"
    return about


_SIDES: Final = ("positive", "negative")


def _progress_charts(runs: Sequence[RecordedRun], longest: int) -> list[Chart]:
    charts = [
        _overlay(runs, "lr", longest, "Learning rate", "", is_exact=True),
        _overlay(runs, "tokens_per_second", longest, "Tokens per second", "of all processes"),
        _overlay(runs, "gradient_norm", longest, "Gradient norm", "before clipping"),
    ]
    if _measured(runs, REPLACED):
        curves = [
            Curve(run.name, _running_total(run), _color(at), is_exact=True)
            for at, run in enumerate(runs)
        ]
        label = "Queries with new negatives"
        charts.append(Chart(label, "so far", Markup(draw_curves(label, curves, longest))))
    return charts


def _overlay(
    runs: Sequence[RecordedRun], name: str, longest: int, title: str, about: str, *,
    is_exact: bool = False,
) -> Chart:  # fmt: skip
    curves = [
        Curve(run.name, run.series(name), _color(at), is_exact) for at, run in enumerate(runs)
    ]
    return Chart(title, about, Markup(draw_curves(title, curves, longest)))


def _running_total(run: RecordedRun) -> Series:
    replaced = run.series(REPLACED)
    # From the first step to the last: a total stays what it is between replacements.
    steps = np.concatenate([[0], np.repeat(replaced.steps, 2), [run.last_step]])
    totals = np.repeat(np.concatenate([[0.0], np.cumsum(replaced.values)]), 2)
    return Series(steps, totals)


def _measured(runs: Sequence[RecordedRun], prefix: str) -> list[tuple[str, str]]:
    """List the metrics with a prefix that any run has, each after the prefix and whole."""
    names = dict.fromkeys(name for run in runs for name in run.metrics if name.startswith(prefix))
    return [(name.removeprefix(prefix), name) for name in names]


def _color(at: int) -> str:
    return f"run-{at % COLORS}" + (f" dashed-{min(at // COLORS, 2)}" if at >= COLORS else "")


def _swatch(at: int) -> Markup:
    """Draw a piece of a run's line, as a legend."""
    piece = svg.line(0, 6, 28, 6, class_=f"curve {_color(at)}")
    return Markup(svg.picture(28, 12, "colour of the run", piece, class_="key"))


def _median(series: Series) -> float:
    return float(np.median(series.values)) if len(series.values) else float("nan")


def _number(number: float, form: str) -> str:
    return NOTHING if np.isnan(number) else format(number, form)


def _align(rows: Sequence[Sequence[str]]) -> list[str]:
    """Write rows as text, the first column to the left and the others to the right."""
    widths = [max(svg.cells(cell) for cell in column) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        gaps = [" " * (width - svg.cells(cell)) for cell, width in zip(row, widths, strict=True)]
        others = [gap + cell for gap, cell in zip(gaps[1:], row[1:], strict=True)]
        lines.append("  ".join([row[0] + gaps[0], *others]).rstrip())
    return lines


@cache
def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(FOLDER), autoescape=True,
        undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    style: Any = svg.palette() + svg.PICTURE_STYLE + REPORT_STYLE.read_text(encoding="utf-8")
    own = (FOLDER / "comparison.css").read_text(encoding="utf-8")
    environment.globals.update(style=Markup(style + own))
    return environment.get_template("comparison.html")
