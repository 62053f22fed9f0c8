"""The interface of classifiers, and the one place where an engine is chosen."""

from functools import lru_cache
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from curation.classifiers.cards import Card
from curation.classifiers.places import Place, find_classifier
from curation.texts import Texts

Scores = npt.NDArray[np.float32]


class Classifier(Protocol):
    """A model that gives each text a score per label."""

    @property
    def labels(self) -> tuple[str, ...]:
        """Give the labels in the order of the scores' columns."""
        ...

    def scores(self, texts: Texts) -> Scores:
        """Score texts: texts x labels, probabilities; what a null gets means nothing."""
        ...


class LabelScores:
    """A classifier as its card means it: one score a text, that of the card's label."""

    def __init__(self, card: Card, classifier: Classifier) -> None:
        """Take a card and its model; ValueError names the labels if the card's is not one."""
        if card.label not in classifier.labels:
            shown = ", ".join(classifier.labels[:20])
            raise ValueError(f"{card.name} has no label {card.label!r}: its labels are {shown}")
        self.card = card
        self.classifier = classifier
        self.column = classifier.labels.index(card.label)

    def scores(self, texts: Texts) -> Scores:
        """Give the score of the card's label for each text."""
        return np.ascontiguousarray(self.classifier.scores(texts)[:, self.column])


def load_classifier(name: Path | str | Place) -> LabelScores:
    """Load a classifier by path, by a shipped one's name or as it was found.

    It is kept: a process loads each version of a model once.
    """
    place = name if isinstance(name, Place) else find_classifier(name)
    return _load(place.card, place.model, place.fingerprint())


@lru_cache(maxsize=16)
def _load(card: Card, model: Path, fingerprint: str) -> LabelScores:
    if card.engine == "fasttext":
        from curation.classifiers.fasttext_engine import load_fasttext

        return LabelScores(card, load_fasttext(model, card.reads, card.max_chars))
    from curation.classifiers.transformer_engine import TransformerClassifier

    return LabelScores(card, TransformerClassifier(model, card.reads, card.max_chars))
