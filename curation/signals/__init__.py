"""Signals: the measured columns of a pair, documented and computed in one place.

To add a signal, write a family (see curation/signals/registry.py) and name it in ``FAMILIES``. The
classifiers that a recipe names are families of their own, beside those.
"""

from collections.abc import Sequence
from typing import Final

import pyarrow as pa

from curation.signals import registry
from curation.signals.batch import PairBatch
from curation.signals.characters import KINDS, LENGTHS
from curation.signals.classifiers import classifier_families
from curation.signals.domains import DOMAIN
from curation.signals.fluency import ngram_families
from curation.signals.language import LANGUAGE
from curation.signals.likeness import LIKENESS
from curation.signals.lines import LINES
from curation.signals.markers import MARKERS
from curation.signals.personal import PERSONAL
from curation.signals.registry import Family, Signal
from curation.signals.repetition import NGRAMS, VARIETY
from curation.signals.settings import SignalSettings
from curation.signals.words import WORDS

__all__ = [
    "FAMILIES",
    "Family",
    "PairBatch",
    "Signal",
    "SignalSettings",
    "catalog_table",
    "compute",
    "families_of",
    "markdown",
    "registered",
    "signals",
    "versions",
]

FAMILIES: Final[tuple[Family, ...]] = (
    LENGTHS,
    KINDS,
    LINES,
    NGRAMS,
    VARIETY,
    LANGUAGE,
    MARKERS,
    PERSONAL,
    WORDS,
    DOMAIN,
    LIKENESS,
)
signals: Final[dict[str, Signal]] = registry.registry(FAMILIES)


def families_of(settings: SignalSettings) -> tuple[Family, ...]:
    """Return the families that are measured under these settings, classifiers among them."""
    return (
        *FAMILIES,
        *classifier_families(settings.classifiers),
        *ngram_families(settings.ngrams),
    )


def registered(settings: SignalSettings | None = None) -> dict[str, Signal]:
    """Return every signal under these settings, by name."""
    settings = settings or SignalSettings()
    return registry.registry(families_of(settings), settings)


def compute(
    rows: pa.RecordBatch | pa.Table | PairBatch,
    names: Sequence[str],
    settings: SignalSettings | None = None,
    families: Sequence[Family] | None = None,
) -> pa.Table:
    """Compute the named signals of pairs: pair_id and a column each, in the order of the names."""
    settings = settings or SignalSettings()
    families = families_of(settings) if families is None else families
    return registry.compute(rows, names, settings, families)


def versions(
    settings: SignalSettings | None = None, families: Sequence[Family] | None = None
) -> dict[str, str]:
    """Return the version of every signal under these settings; another version is recomputed."""
    settings = settings or SignalSettings()
    families = families_of(settings) if families is None else families
    found = registry.registry(families, settings)
    return {name: signal.version for name, signal in found.items()}


def catalog_table() -> pa.Table:
    """Return a row per signal: what `lode signals` prints."""
    return registry.catalog_table(signals)


def markdown() -> str:
    """Write the reference of signals."""
    return registry.markdown(FAMILIES)
