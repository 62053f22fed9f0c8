"""Classifiers as signals: a column a side for each classifier that a recipe names."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pyarrow as pa

from curation.signals.batch import PairBatch, Side
from curation.signals.registry import Columns, Family, Measure
from curation.signals.settings import SignalSettings

if TYPE_CHECKING:
    from curation.classifiers import Place

FAMILY = "classifiers"


@dataclass(frozen=True)
class ClassifierSignal:
    """Score of a classifier's label."""

    name: str
    place: "Place"

    def __call__(self, batch: PairBatch, side: Side, _: SignalSettings) -> Columns:
        """Score one side; the model is loaded when the first batch comes."""
        from curation.classifiers import load_classifier

        return {self.name: load_classifier(self.place).scores(batch.texts(side))}


def classifier_families(classifiers: Mapping[str, str]) -> tuple[Family, ...]:
    """Make a family of each classifier, so that a changed model recomputes its own columns only."""
    return tuple(_family(name, where) for name, where in classifiers.items())


def _family(name: str, where: str) -> Family:
    # Not at the top: the engines use kernels of this package.
    from curation.classifiers import find_classifier

    place = find_classifier(where)
    card = place.card
    about = card.about or f"score of the label {card.label} of the classifier {card.name}"
    measure = Measure(name, about, "score", pa.float32(), source=f"{card.engine}: {card.name}")
    return Family(
        FAMILY,
        ("query", "passage"),
        (measure,),
        ClassifierSignal(name, place),
        depends=lambda _: (place.fingerprint(),),
    )
