"""Comparing runs: what is read of their folders, what the page shows, and what is refused."""

import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from catalog.errors import CatalogError
from lode import app
from trainer.comparison import compare, final_values, write_comparison
from trainer.curves import MAX_POINTS, Curve, draw_curves, moving_mean, thin, value_bounds
from trainer.recorded_runs import Series, differing_settings, read_runs

SETTINGS = {"seed": 1, "steps": None, "optimizer": {"lr": 1e-5}, "negatives": {"rule": "v1"}}


def write_run(folder: Path, lines: list[dict[str, float]], **settings: Any) -> Path:
    """Write what a run leaves in its folder."""
    folder.mkdir(parents=True)
    record = {"snapshot": "v1", "settings": {**SETTINGS, **settings}}
    (folder / "run.json").write_text(json.dumps(record))
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (folder / "metrics.jsonl").write_text(text)
    return folder


def measured(steps: int, start: float = 4.0, every: int = 1) -> list[dict[str, float]]:
    """Make metrics: a loss that falls from ``start``, and a replacement every tenth step."""
    lines = []
    for step in range(every, steps + 1, every):
        line = {
            "step": step, "loss/retrieval": start / step, "lr": 1e-5, "tokens_per_second": 1000.0,
            "positive_score/retrieval": 0.9, "negative_score/retrieval": 0.5,
        }  # fmt: skip
        lines.append(line | ({"negatives/replaced": 8.0} if step % 10 == 0 else {}))
    return lines


def cells(lines: list[str], name: str) -> list[str]:
    """Return the values that the printed table has under a name."""
    (found,) = [line for line in lines if line.startswith(name)]
    return found.removeprefix(name).split()


def test_a_run_ends_with_the_mean_of_its_last_tenth_and_with_totals(tmp_path: Path) -> None:
    run = write_run(tmp_path / "a", measured(20))
    lines = write_comparison([run], tmp_path / "runs.html")
    assert lines[0].split() == ["a"]
    assert cells(lines, "steps") == ["20"]
    assert cells(lines, "loss, retrieval") == [f"{(4 / 19 + 4 / 20) / 2:.4f}"]
    assert cells(lines, "queries with new negatives") == ["16"]
    assert cells(lines, "of them per step") == ["0.80"]


def test_only_settings_that_differ_are_listed(tmp_path: Path) -> None:
    one = write_run(tmp_path / "a", measured(3))
    two = write_run(tmp_path / "b", measured(3), optimizer={"lr": 2e-5}, widths=[64, 32])
    found = differing_settings(read_runs([one, two]))
    assert found == [("optimizer.lr", ["1e-05", "2e-05"]), ("widths", ["–", "[64, 32]"])]
    assert differing_settings(read_runs([one])) == []


def test_a_killed_run_is_read_up_to_its_last_whole_line(tmp_path: Path) -> None:
    run = write_run(tmp_path / "a", measured(5))
    whole = (run / "metrics.jsonl").read_text()
    (run / "metrics.jsonl").write_text(whole[:-20])
    (found,) = read_runs([run])
    assert found.last_step == 4
    assert found.series("loss/retrieval").steps.tolist() == [1, 2, 3, 4]


def test_runs_of_different_length_and_tasks_share_a_page(tmp_path: Path) -> None:
    long = write_run(tmp_path / "long", measured(500))
    short = write_run(tmp_path / "short", [{"step": 1, "loss/sts": 2.0}])
    runs = read_runs([long, short])
    assert dict(final_values(runs))["loss, sts"] == ["–", "2.0000"]
    found = compare(runs)
    assert [chart.title for chart in found.losses] == ["Loss: retrieval", "Loss: sts"]
    assert [chart.title for chart in found.scores] == ["long"]  # the other has no scores
    assert "circle" in found.losses[1].drawing  # a single point is no line


def test_the_page_is_whole_and_needs_no_network(tmp_path: Path) -> None:
    runs = [write_run(tmp_path / name, measured(80)) for name in ("a", "b<script>&")]
    output = tmp_path / "new" / "runs.html"
    write_comparison(runs, output)
    page = output.read_text(encoding="utf-8")
    assert "b<script>" not in page
    assert "b&lt;script&gt;&amp;" in page
    addresses = re.findall(r"(?:src|href)=|url\(|https?://[^\"'\s]+", page)
    assert set(addresses) <= {"http://www.w3.org/2000/svg"}
    assert _unclosed(page) == []
    assert [path.name for path in output.parent.iterdir()] == ["runs.html"]


def test_replacements_are_marked_where_they_happened(tmp_path: Path) -> None:
    marks = Series(np.array([100]), np.array([8.0]))
    curve = Curve("negatives", Series(np.array([1, 400]), np.array([0.9, 0.5])), "negatives")
    drawing = draw_curves("scores", [curve], 400, marks=marks)
    (bar,) = re.findall(r'<rect x="([\d.]+)"[^>]*class="mark"', drawing)
    assert float(bar) == pytest.approx(46 + (512 - 46) * 100 / 400, abs=1)
    assert drawing.count("8 replaced") == 1
    assert 'class="mark"' not in draw_curves("scores", [curve], 400)


def test_a_step_that_diverged_does_not_break_the_picture(tmp_path: Path) -> None:
    lines = [*measured(3), {"step": 4, "loss/retrieval": float("inf")}]
    (run,) = read_runs([write_run(tmp_path / "a", lines)])
    assert run.series("loss/retrieval").steps.tolist() == [1, 2, 3]
    assert run.last_step == 4


def test_thinning_keeps_the_mean_and_the_order() -> None:
    many = Series(np.arange(1, 10_001), np.sin(np.arange(10_000) / 500))
    few = thin(many)
    assert len(few.steps) == MAX_POINTS
    assert (np.diff(few.steps) > 0).all()
    assert few.values.mean() == pytest.approx(many.values.mean())
    assert thin(few) is few


def test_the_moving_mean_is_that_of_a_slow_loop() -> None:
    values = np.random.default_rng(1).normal(size=200)
    found = moving_mean(Series(np.arange(200), values)).values
    for i in range(200):
        reach = min(4, i, 199 - i)  # four per cent of 200 points, both sides together
        assert found[i] == pytest.approx(values[i - reach : i + reach + 1].mean())


@pytest.mark.parametrize("values", [[], [0.0], [0.5, 0.5], [0.1, 1e9], [-3.0]])
def test_any_values_have_bounds_that_hold_them(values: list[float]) -> None:
    series = Series(np.arange(1, len(values) + 1), np.array(values, float))
    low, high = value_bounds([series])
    assert low < high
    assert all(low <= one <= high for one in values)
    assert "nan" not in draw_curves("any", [Curve("a", series, "run-0")], 1)


def test_runs_of_one_name_are_told_apart_by_their_paths(tmp_path: Path) -> None:
    folders = [write_run(tmp_path / where / "a", measured(2)) for where in ("old", "new")]
    assert [run.name for run in read_runs([*folders, folders[0]])] == [str(one) for one in folders]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda folder: folder.mkdir(), "is no run: it has no run.json"),
        (lambda folder: write_run(folder, []), "has not measured anything yet"),
    ],
)
def test_a_folder_that_cannot_be_compared_is_named(make: Any, message: str, tmp_path: Path) -> None:
    make(tmp_path / "x")
    with pytest.raises(CatalogError, match=message):
        write_comparison([write_run(tmp_path / "a", measured(2)), tmp_path / "x"], tmp_path / "o")
    assert not (tmp_path / "o").exists()


def test_the_command_prints_the_tables_and_says_where_the_page_is(tmp_path: Path) -> None:
    runs = [write_run(tmp_path / name, measured(5, start)) for name, start in (("a", 4), ("b", 2))]
    output = tmp_path / "page.html"
    done = CliRunner().invoke(app, ["runs", "compare", *map(str, runs), "-o", str(output)])
    assert done.exit_code == 0, done.output
    assert "loss, retrieval" in done.output
    assert f"curves written to {output}" in done.output


def test_comparing_loads_no_torch() -> None:
    code = "import sys, trainer.comparison; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


class _Tags(HTMLParser):
    """Follows the nesting of elements."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        if tag != "meta":
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def _unclosed(page: str) -> list[str]:
    tags = _Tags()
    tags.feed(page)
    return tags.open
