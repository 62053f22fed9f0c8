"""Resuming a run from its folder alone."""

import json
from pathlib import Path

from catalog.errors import CatalogError
from catalog.snapshots import load_snapshot
from catalog.terminal import open_catalog
from trainer.run import RUN_FILE, RunPlace
from trainer.settings import TrainSettings, from_document


def load_run(folder: Path, catalog: str | None = None) -> tuple[RunPlace, TrainSettings]:
    """Return where a run is and its settings; ``catalog`` says where the catalog is by now."""
    path = folder / RUN_FILE
    if not path.exists():
        raise CatalogError(f"{folder} is no run: it has no {RUN_FILE}; lode train --out makes one")
    record = json.loads(path.read_text(encoding="utf-8"))
    document = {key: value for key, value in record["settings"].items() if value is not None}
    settings = from_document(path, document)
    found = open_catalog(catalog or record["catalog"])
    snapshot = load_snapshot(found, record["snapshot"])
    if snapshot.digest != record["snapshot_digest"]:
        raise CatalogError(
            f"the run in {folder} trains on snapshot {snapshot.name!r} with digest "
            f"{record['snapshot_digest']}; in {found.location.url} it has {snapshot.digest}"
        )
    return RunPlace(folder, found, snapshot, record["candidates_run"]), settings
