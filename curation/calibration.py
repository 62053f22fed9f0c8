"""Calibration: what every threshold of a classifier would do, and which one does what is wanted.

A threshold splits texts into those that score at least so much and those below. Precision and
recall are those of the label among the former, on labelled rows that the classifier has not learned
from. The kept share is counted on a corpus, where a policy keeps one of the two sides.
"""

import math
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
import numpy.typing as npt

from catalog.policies import Condition
from curation.texts import Flags

Keep = Literal["below", "above"]
KEEPS: Final = ("below", "above")
_Numbers = npt.NDArray[np.float64]
_Z: Final = 1.96  # of a 95 % interval
_FLOAT_STEP: Final = 2e-7  # more than float32 numbers from .5 to 1 are apart


@dataclass(frozen=True, eq=False)
class Distribution:
    """The scores of a corpus, each with the number of texts that have it; scores ascend."""

    scores: _Numbers
    counts: npt.NDArray[np.int64]

    @classmethod
    def of(cls, scores: npt.NDArray[np.floating]) -> "Distribution":
        """Count scores."""
        values, counts = np.unique(scores.astype(np.float64), return_counts=True)
        return cls(values, counts.astype(np.int64))

    @property
    def texts(self) -> int:
        """Count the texts."""
        return int(self.counts.sum())

    def share_below(self, thresholds: _Numbers) -> _Numbers:
        """Give the share of texts that score less than each threshold."""
        before = np.concatenate([[0], np.cumsum(self.counts)])
        below: _Numbers = before[np.searchsorted(self.scores, thresholds, "left")] / self.texts
        return below


@dataclass(frozen=True, eq=False)
class Curve:
    """What each threshold does; thresholds ascend, none below the lowest labelled score."""

    keep: Keep
    thresholds: _Numbers
    precision: _Numbers
    recall: _Numbers
    called: npt.NDArray[np.int64]  # labelled rows that score at least the threshold
    rows: int
    positives: int
    corpus: Distribution  # on which the kept share is counted

    @property
    def texts(self) -> int:
        """Count the texts of the corpus."""
        return self.corpus.texts

    def kept_from(self, thresholds: _Numbers) -> _Numbers:
        """Give the share of the corpus that is kept at each threshold."""
        below = self.corpus.share_below(thresholds)
        return below if self.keep == "below" else 1 - below

    @property
    def kept(self) -> _Numbers:
        """Give the share of the corpus that is kept at each threshold of the curve."""
        return self.kept_from(self.thresholds)


@dataclass(frozen=True)
class Choice:
    """One threshold of a curve; the interval is that of the precision, Wilson's of 95 %."""

    keep: Keep
    threshold: float
    precision: float
    interval: tuple[float, float]
    recall: float
    kept: float


def make_curve(
    scores: npt.NDArray[np.floating], positive: Flags, corpus: Distribution, keep: Keep = "below"
) -> Curve:
    """Work out what every threshold does that tells labelled rows apart."""
    if keep not in KEEPS:
        raise ValueError(f"keep is {keep!r}: below or above the threshold")
    positives = int(positive.sum())
    if not 0 < positives < len(scores) or not corpus.texts:
        raise ValueError(
            f"{positives} of {len(scores)} labelled rows have the label and the corpus has "
            f"{corpus.texts} texts: some rows must have it, some not, and some texts be there"
        )
    scores = scores.astype(np.float64)
    order = np.argsort(scores, kind="stable")
    values, first = np.unique(scores[order], return_index=True)
    called = len(scores) - first
    right = positives - np.concatenate([[0], np.cumsum(positive[order])])[first]
    return Curve(
        keep=keep,
        thresholds=values,
        precision=right / called,
        recall=right / positives,
        called=called,
        rows=len(scores),
        positives=positives,
        corpus=corpus,
    )


def choose_by_precision(curve: Curve, wanted: float) -> Choice:
    """Choose the threshold of the highest recall that has this precision; ValueError if none."""
    _check_share("precision", wanted)
    fitting = np.flatnonzero(curve.precision >= wanted)
    if not len(fitting):
        best = int(np.argmax(curve.precision))
        raise ValueError(
            f"no threshold has a precision of {wanted:g}: the highest is "
            f"{curve.precision[best]:.3f}, from {curve.thresholds[best]:.4g} on; ask for less"
        )
    return _choice(curve, int(fitting[0]))  # recall falls with the threshold


def choose_by_kept_share(curve: Curve, wanted: float) -> Choice:
    """Choose the strictest threshold that keeps this share of the corpus; ValueError if none."""
    _check_share("kept share", wanted)
    fitting = np.flatnonzero(curve.kept >= wanted)
    for at in fitting if curve.keep == "below" else fitting[::-1]:
        choice = _choice(curve, int(at))
        if choice.kept >= wanted:  # a threshold is written a little lower than the score
            return choice
    raise ValueError(
        f"no threshold keeps {wanted:g} of the corpus: the most is {curve.kept.max():.3f}; "
        "ask for less"
    )


def _check_share(name: str, wanted: float) -> None:
    if not 0 < wanted <= 1:
        raise ValueError(f"the wanted {name} is {wanted:g}: more than 0, at most 1")


def _choice(curve: Curve, at: int) -> Choice:
    called = int(curve.called[at])
    precision = float(curve.precision[at])
    under = curve.thresholds[at - 1] if at else 0.0
    threshold = short_between(float(under), float(curve.thresholds[at]))
    return Choice(
        keep=curve.keep,
        threshold=threshold,
        precision=precision,
        interval=wilson(precision, called),
        recall=float(curve.recall[at]),
        kept=float(curve.kept_from(np.array([threshold]))[0]),
    )


def short_between(low: float, high: float) -> float:
    """Give a number of few decimals that is more than `low` and a little less than `high`.

    A policy's literal becomes a float32 in SQL, whose last bit must not decide about a text.
    """
    for digits in range(4, 9):
        found: float = math.floor((high - _FLOAT_STEP) * 10.0**digits) / 10.0**digits
        if low < found:
            return found
    return (low + high) / 2


def wilson(share: float, size: int) -> tuple[float, float]:
    """Give Wilson's 95 % interval of a share of so many."""
    middle = share + _Z**2 / (2 * size)
    half = _Z * math.sqrt(share * (1 - share) / size + _Z**2 / (4 * size**2))
    whole = 1 + _Z**2 / size
    return (max(0.0, (middle - half) / whole), min(1.0, (middle + half) / whole))


def make_condition(choice: Choice, column: str, stage: str, evidence: str) -> Condition:
    """Write a choice as a condition of a policy, with its evidence as source."""
    sign = "<" if choice.keep == "below" else ">="
    return Condition(
        name=column,
        stage=stage,
        require=f"{column} {sign} {choice.threshold!r}",
        source=evidence,
    )


def describe(choice: Choice, curve: Curve, classifier: str, labelled: str, corpus: str) -> str:
    """Say what a threshold rests on, in one line."""
    low, high = choice.interval
    return (
        f"{classifier}: from {choice.threshold!r} on precision {choice.precision:.3f} "
        f"({low:.3f} to {high:.3f}), recall {choice.recall:.3f} on {curve.rows:,} rows of "
        f"{labelled}; keeps {choice.kept:.1%} of {curve.texts:,} texts of {corpus}"
    )


def condition_toml(condition: Condition) -> str:
    """Write a condition as a recipe has it."""
    lines = ["[[policy.conditions]]"]
    for key in ("name", "stage", "require", "source"):
        value = str(getattr(condition, key)).replace("\\", "\\\\").replace('"', '\\"')
        lines.append(f'{key} = "{value}"')
    return "\n".join(lines) + "\n"
