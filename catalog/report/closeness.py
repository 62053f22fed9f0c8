"""How close candidates come to their positive: where a relative margin would cut."""

from collections.abc import Sequence
from typing import Any, Final

import numpy as np

from catalog import duck
from catalog.candidates import KNOWN
from catalog.mining_runs import MiningRun
from catalog.report.data import Bar, Histogram
from catalog.report.statements import statement

STEP: Final = 0.025  # 0.95, the margin of most recipes, begins a bar
BINS: Final = 120
# What goes into the outermost bars: shares of weak positives have no end.
LOW_TAIL: Final = 0.002
HIGH_TAIL: Final = 0.01


def gather_closeness(
    connection: duck.Connection, sampled: dict[str, Any], run: MiningRun
) -> Histogram | None:
    """Measure candidates' scores as shares of the positive's; None where there is nothing."""
    bound = {**sampled, "known": int(KNOWN), "step": STEP, "bins": BINS}
    kept, removed = np.zeros(BINS, np.int64), np.zeros(BINS, np.int64)
    rows = connection.execute(statement("mining_closeness"), bound).fetchall()
    for bin_, is_removed, candidates in rows:
        (removed if is_removed else kept)[bin_] += candidates
    if not rows:
        return None
    margin = run.settings["filters"]["relative_margin"]
    thresholds = () if margin is None else (float(margin),)
    first, last = _shown(kept + removed, thresholds)
    return Histogram(
        condition="relative-margin",
        signal="score / score of the positive",
        rule="no relative margin" if margin is None else f"keep below {margin}",
        scope=None,
        bars=_bars(kept.tolist(), removed.tolist(), first, last),
        thresholds=thresholds,
        opens_low=bool((kept + removed)[:first].any()),
        opens_high=bool((kept + removed)[last + 1 :].any()) or last == BINS - 1,
        is_of_candidates=True,
    )


def _shown(counts: np.ndarray, thresholds: Sequence[float]) -> tuple[int, int]:
    """Return the first and the last bar to draw: without the tails, but with the threshold."""
    below = np.cumsum(counts) / counts.sum()
    first, last = (int(np.searchsorted(below, share)) for share in (LOW_TAIL, 1 - HIGH_TAIL))
    near = [int(at / STEP) for at in thresholds]
    return max(min([first, *near]) - 1, 0), min(max([last, *near]) + 1, BINS - 1)


def _bars(kept: list[int], removed: list[int], first: int, last: int) -> tuple[Bar, ...]:
    bars = []
    for at in range(first, last + 1):
        below = range(at + 1) if at == first else [at]
        own = range(at, BINS) if at == last else below
        bars.append(
            Bar(
                STEP * at,
                STEP * (at + 1),
                passed=sum(kept[i] for i in own),
                failed=sum(removed[i] for i in own),
            )
        )
    return tuple(bars)
