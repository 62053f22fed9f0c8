"""Resuming a run from its folder alone."""

from pathlib import Path
from typing import Any

from catalog.errors import CatalogError
from catalog.snapshots import load_snapshot
from catalog.terminal import open_catalog
from trainer.pretrain_settings import PretrainSettings, pretraining_from_document
from trainer.reranker_settings import RerankSettings, rerank_from_document
from trainer.run_folder import RunPlace
from trainer.run_record import PRETRAIN, RERANK, RUN_FILE, TRAIN, read_record
from trainer.settings import TrainSettings, from_document


def load_run(
    folder: Path, catalog: str | None = None
) -> tuple[RunPlace, TrainSettings | RerankSettings]:
    """Return where a run is and its settings; ``catalog`` says where the catalog is by now."""
    place, document, kind = _load(folder, (TRAIN, RERANK), catalog)
    read = rerank_from_document if kind == RERANK else from_document
    return place, read(folder / RUN_FILE, document)


def load_pretraining_run(
    folder: Path, catalog: str | None = None
) -> tuple[RunPlace, PretrainSettings]:
    """Return where a run of pre-training is, and its settings."""
    place, document, _ = _load(folder, (PRETRAIN,), catalog)
    return place, pretraining_from_document(folder / RUN_FILE, document)


def _load(
    folder: Path, kinds: tuple[str, ...], catalog: str | None
) -> tuple[RunPlace, dict[str, Any], str]:
    record = read_record(folder)
    own = record.get("kind", TRAIN)
    if own not in kinds:
        raise CatalogError(f"{folder} holds a run of lode {own}; resume it with lode {own}")
    found = open_catalog(catalog or record["catalog"])
    snapshot = load_snapshot(found, record["snapshot"])
    if snapshot.digest != record["snapshot_digest"]:
        raise CatalogError(
            f"the run in {folder} trains on snapshot {snapshot.name!r} with digest "
            f"{record['snapshot_digest']}; in {found.location.url} it has {snapshot.digest}"
        )
    pack = record["pack_folder"]
    document = {key: value for key, value in record["settings"].items() if value is not None}
    return RunPlace(folder, found, snapshot, pack_folder=pack and Path(pack)), document, own
