"""Signals: the measured columns of a pair, documented and computed in one place.

To add a signal, write a family (see curation/signals/registry.py) and name it in ``FAMILIES``.
"""

from collections.abc import Sequence
from typing import Final

import pyarrow as pa

from curation.signals import registry
from curation.signals.batch import PairBatch
from curation.signals.characters import KINDS, LENGTHS
from curation.signals.domains import DOMAIN
from curation.signals.language import LANGUAGE
from curation.signals.likeness import LIKENESS
from curation.signals.lines import LINES
from curation.signals.markers import MARKERS
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
    "markdown",
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
    WORDS,
    DOMAIN,
    LIKENESS,
)
signals: Final[dict[str, Signal]] = registry.registry(FAMILIES)


def compute(
    rows: pa.RecordBatch | pa.Table | PairBatch,
    names: Sequence[str],
    settings: SignalSettings | None = None,
    families: Sequence[Family] = FAMILIES,
) -> pa.Table:
    """Compute the named signals of pairs: pair_id and a column each, in the order of the names."""
    return registry.compute(rows, names, settings or SignalSettings(), families)


def versions(
    settings: SignalSettings | None = None, families: Sequence[Family] = FAMILIES
) -> dict[str, str]:
    """Return the version of every signal under these settings; another version is recomputed."""
    found = registry.registry(families, settings or SignalSettings())
    return {name: signal.version for name, signal in found.items()}


def catalog_table() -> pa.Table:
    """Return a row per signal: what `lode signals` prints."""
    return registry.catalog_table(signals)


def markdown() -> str:
    """Write the reference of signals."""
    return registry.markdown(FAMILIES)
