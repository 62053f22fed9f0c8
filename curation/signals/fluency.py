"""Fluency without labels: bits per character under an n-gram model that a recipe names."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from curation.signals.batch import PairBatch, Side
from curation.signals.registry import Columns, Family, Measure
from curation.signals.settings import SignalSettings, digest

FAMILY = "ngrams"


@dataclass(frozen=True)
class BitsSignal:
    """Mean bits per character of a side."""

    name: str
    path: Path

    def __call__(self, batch: PairBatch, side: Side, _: SignalSettings) -> Columns:
        """Measure one side; null where there is no character."""
        from curation.ngrams.model import load_ngrams

        bits = load_ngrams(self.path).bits(batch.texts(side))
        return {self.name: pa.array(bits, mask=np.isnan(bits) | ~batch.valid(side))}


def ngram_families(models: Mapping[str, str]) -> tuple[Family, ...]:
    """Make a family of each model, so that a changed model recomputes its own columns only."""
    return tuple(_family(name, Path(where)) for name, where in models.items())


def _family(name: str, path: Path) -> Family:
    measure = Measure(
        name, f"bits per character under the n-gram model {path.stem}", "bits", pa.float32(), 0,
        source="character trigrams, interpolated Kneser-Ney",
    )  # fmt: skip
    return Family(
        FAMILY, ("query", "passage"), (measure,), BitsSignal(name, path),
        depends=lambda _: (digest(path),),
    )  # fmt: skip
