"""Resuming a run from its folder alone."""

from pathlib import Path

from catalog.errors import CatalogError
from catalog.snapshots import load_snapshot
from catalog.terminal import open_catalog
from trainer.reranker_settings import RerankSettings, rerank_from_document
from trainer.run_folder import RERANK, RunPlace
from trainer.run_record import RUN_FILE, read_record
from trainer.settings import TrainSettings, from_document


def load_run(
    folder: Path, catalog: str | None = None
) -> tuple[RunPlace, TrainSettings | RerankSettings]:
    """Return where a run is and its settings; ``catalog`` says where the catalog is by now."""
    record = read_record(folder)
    document = {key: value for key, value in record["settings"].items() if value is not None}
    read = rerank_from_document if record.get("kind") == RERANK else from_document
    settings = read(folder / RUN_FILE, document)
    found = open_catalog(catalog or record["catalog"])
    snapshot = load_snapshot(found, record["snapshot"])
    if snapshot.digest != record["snapshot_digest"]:
        raise CatalogError(
            f"the run in {folder} trains on snapshot {snapshot.name!r} with digest "
            f"{record['snapshot_digest']}; in {found.location.url} it has {snapshot.digest}"
        )
    pack = record["pack_folder"]
    return RunPlace(folder, found, snapshot, pack_folder=pack and Path(pack)), settings
