"""Runs as their folders record them: what they were told, and what was measured step by step.

No catalog is needed, and a run may be of any age: going on, ended or killed.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from catalog.errors import CatalogError
from trainer.metrics import FILE as METRICS_FILE
from trainer.metrics import read_metrics
from trainer.run_record import read_record

REPLACED: Final = "negatives/replaced"
# One step's batch says little: what a run ended with is the mean over this share of its steps.
LAST_SHARE: Final = 0.1
_DATA_KEYS: Final = ("snapshot", "snapshot_digest", "candidates_run")

Steps = npt.NDArray[np.int64]
Values = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Series:
    """A metric of a run: a value at each of some steps, ascending."""

    steps: Steps
    values: Values

    def final(self, last: int) -> float:
        """Return the mean over the last steps of a run that has made ``last``; NaN for none."""
        recent = self.values[self.steps > (1 - LAST_SHARE) * last]
        return float(recent.mean()) if len(recent) else float("nan")


@dataclass(frozen=True)
class RecordedRun:
    """A run: ``settings`` by dotted name, what it was trained on included."""

    name: str
    settings: Mapping[str, Any]
    metrics: Mapping[str, Series]
    last_step: int

    def series(self, name: str) -> Series:
        """Return a metric; an empty one where it was never measured."""
        return self.metrics.get(name, Series(np.empty(0, np.int64), np.empty(0)))


def read_runs(folders: Sequence[Path]) -> list[RecordedRun]:
    """Read runs; those whose folders have one name are told apart by their paths."""
    paths = list(dict.fromkeys(folder.resolve() for folder in folders))
    if not paths:
        raise ValueError("there is nothing to compare; give folders of runs")
    names = [path.name for path in paths]
    return [
        _read_run(path, path.name if names.count(path.name) == 1 else str(path)) for path in paths
    ]


def differing_settings(runs: Sequence[RecordedRun]) -> list[tuple[str, list[str]]]:
    """List the settings that are not the same in all runs, with the value of each run."""
    names = sorted({name for run in runs for name in run.settings})
    rows = [(name, [_written(run.settings.get(name)) for run in runs]) for name in names]
    return [(name, values) for name, values in rows if len(set(values)) > 1]


def _read_run(folder: Path, name: str) -> RecordedRun:
    record = read_record(folder)
    lines = read_metrics(folder / METRICS_FILE)
    if not lines:
        raise CatalogError(f"the run in {folder} has not measured anything yet; compare it later")
    settings = {key: record.get(key) for key in _DATA_KEYS} | _flat(record["settings"])
    return RecordedRun(name, settings, _series(lines), int(max(line["step"] for line in lines)))


def _series(lines: Sequence[Mapping[str, float]]) -> dict[str, Series]:
    found: dict[str, dict[int, float]] = {}
    for line in lines:
        for name, value in line.items():
            # A loss that is infinite ends a run; it has no place in a picture.
            if name != "step" and np.isfinite(value):
                found.setdefault(name, {})[int(line["step"])] = float(value)
    return {
        name: Series(
            np.array(sorted(values), np.int64), np.array([values[s] for s in sorted(values)])
        )
        for name, values in found.items()
    }


def _flat(document: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in document.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


def _written(value: Any) -> str:
    if value is None:
        return "–"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
