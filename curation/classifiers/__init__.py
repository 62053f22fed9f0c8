"""Classifiers of texts: one interface, fastText models and Hugging Face models behind it.

A classifier is a folder with a model and a card (card.json): what it finds, which label says so,
how it reads a text, what it was trained on and what it was measured to do. A fastText file or a
Hugging Face folder without a card is read too; the label is then named after a #, as in
models/toxic#1.
"""

from curation.classifiers.cards import Card, write_card
from curation.classifiers.classifier import Classifier, load_classifier
from curation.classifiers.places import Place, find_classifier, name_from, shipped_classifiers

__all__ = [
    "Card",
    "Classifier",
    "Place",
    "find_classifier",
    "load_classifier",
    "name_from",
    "shipped_classifiers",
    "write_card",
]
