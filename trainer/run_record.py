"""The record in a run's folder: what it trains on and its settings, as it began."""

import json
from pathlib import Path
from typing import Any, Final

from catalog.errors import CatalogError

RUN_FILE: Final = "run.json"
# Kinds of runs, as the catalog's table of runs names them; a record without a kind is of training.
TRAIN: Final = "train"
PRETRAIN: Final = "pretrain"
RERANK: Final = "rerank"


def find_record(folder: Path) -> dict[str, Any] | None:
    """Return the record of the run in a folder; None: there is none."""
    path = folder / RUN_FILE
    if not path.exists():
        return None
    record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return record


def read_record(folder: Path) -> dict[str, Any]:
    """Return the record of the run in a folder; raise CatalogError where there is none."""
    record = find_record(folder)
    if record is None:
        raise CatalogError(f"{folder} is no run: it has no {RUN_FILE}; lode train --out makes one")
    return record


def run_of_model(model: str) -> str | None:
    """Name the training run that a checkpoint's folder lies in; None: a model from elsewhere."""
    place = Path(model).absolute().parent
    return place.name if find_record(place) else None
