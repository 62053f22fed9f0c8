"""Exports: a snapshot's kept pairs, with their negatives, in the formats of other tools.

negatives = NegativeSettings(7, ranks=(2, 200), seed=0)
settings = ExportSettings("flagembedding", negatives)
export_pairs(catalog, load_snapshot(catalog, "v1"), Path("v1.jsonl"), settings)
"""

from catalog.export.formats import FORMATS, ExportSettings
from catalog.export.negatives import NegativeSettings, negative_settings
from catalog.export.write import Exported, export_pairs

__all__ = [
    "FORMATS",
    "ExportSettings",
    "Exported",
    "NegativeSettings",
    "export_pairs",
    "negative_settings",
]
