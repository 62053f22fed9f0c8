"""Calibration as a whole: score labelled rows, count a corpus, choose a threshold, say why."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from catalog import duck
from catalog.columns import available_columns
from catalog.lake import Catalog
from catalog.policies import Condition
from curation.calibration import (
    Choice,
    Curve,
    Distribution,
    Keep,
    choose_by_kept_share,
    choose_by_precision,
    condition_toml,
    describe,
    make_condition,
    make_curve,
)
from curation.calibration_picture import write_picture
from curation.classifier_training import held_out_rows
from curation.classifiers import Place, find_classifier, load_classifier
from curation.classifiers.labelled import Columns, Split
from curation.signals import SignalSettings, registered

_SIDES = ("query_", "passage_")


@dataclass(frozen=True)
class Calibration:
    """What to calibrate with, and what is wanted: a precision, a kept share, or only the table."""

    table: Path
    columns: Columns
    split: Split | None = None
    keep: Keep = "below"
    precision: float | None = None
    kept: float | None = None
    signal: str | None = None  # a measured column of the catalog
    stage: str = "safety"

    def __post_init__(self) -> None:
        """Check what is wanted; ValueError says what is allowed."""
        if self.precision is not None and self.kept is not None:
            raise ValueError("a precision and a kept share are wanted: give one of them")


@dataclass(frozen=True, eq=False)
class Calibrated:
    """A curve, and what was chosen on it."""

    name: str
    curve: Curve
    choice: Choice | None
    condition: Condition | None

    def toml(self) -> str:
        """Write the condition as a recipe has it."""
        assert self.condition is not None
        return condition_toml(self.condition)

    def write_picture(self, path: Path) -> None:
        """Write the picture of the curve."""
        write_picture(self.curve, self.choice, self.name, path)

    def table(self) -> list[str]:
        """Write precision, recall and kept share at round thresholds."""
        lines = [f"{'threshold':>10}{'precision':>11}{'recall':>8}{'kept':>8}"]
        for threshold in (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99):
            at = int(np.searchsorted(self.curve.thresholds, threshold))
            if at < len(self.curve.thresholds):
                found = (self.curve.precision[at], self.curve.recall[at], self.curve.kept[at])
                lines.append(f"{threshold:>10g}{found[0]:>11.3f}{found[1]:>8.3f}{found[2]:>8.1%}")
        return lines


def calibrate(model: str, asked: Calibration, catalog: Catalog | None = None) -> Calibrated:
    """Work out a curve on held-out rows; without a signal the corpus is those rows themselves."""
    place = find_classifier(model)
    classifier = load_classifier(place)
    held = held_out_rows(classifier, asked.table, asked.columns, asked.split)
    scores = classifier.scores(held.texts)
    corpus = Distribution.of(scores)
    if asked.signal is not None:
        assert catalog is not None
        corpus = measured_scores(catalog, asked.signal, model, place)
    curve = make_curve(scores, held.labels == place.card.label, corpus, asked.keep)
    choice = _choose(curve, asked)
    name = f"{place.card.name} ({place.fingerprint()})"
    if choice is None:
        return Calibrated(name, curve, None, None)
    counted = f"the catalog ({asked.signal})" if asked.signal else "the same rows"
    evidence = describe(choice, curve, name, asked.table.name, counted)
    column = asked.signal or f"passage_{_first_word(place.card.name)}"
    return Calibrated(name, curve, choice, make_condition(choice, column, asked.stage, evidence))


def measured_scores(catalog: Catalog, signal: str, model: str, place: Place) -> Distribution:
    """Count the scores of a measured column; ValueError if another model measured it."""
    side = next((side for side in _SIDES if signal.startswith(side)), None)
    if side is None:
        raise ValueError(f"{signal!r} is no signal of a classifier: passage_… or query_…")
    settings = SignalSettings(classifiers={signal.removeprefix(side): model})
    wanted = registered(settings)[signal].version
    with catalog.reader() as connection:
        stored = connection.execute(
            "select version from signal_columns where signal = ? order by position desc", [signal]
        ).fetchone()
        if stored is None or stored[0] != wanted:
            found = "is not measured" if stored is None else f"has the version {stored[0]}"
            raise ValueError(
                f"{signal} {found} in this catalog, {place.card.name} gives version {wanted}: "
                "name the classifier in the recipe's [signals] and run lode curate"
            )
        columns = available_columns(connection)
        relation = columns.providers[columns.of_column[signal]].relation
        column = duck.identifier(signal)
        rows = connection.execute(
            f"select {column}::double, count(*) from {relation} "
            f"where {column} is not null group by 1 order by 1"
        ).fetchnumpy()
    values = list(rows.values())
    return Distribution(values[0].astype(np.float64), values[1].astype(np.int64))


def _choose(curve: Curve, asked: Calibration) -> Choice | None:
    if asked.precision is not None:
        return choose_by_precision(curve, asked.precision)
    return None if asked.kept is None else choose_by_kept_share(curve, asked.kept)


def _first_word(name: str) -> str:
    return name.split("-")[0].lower()
