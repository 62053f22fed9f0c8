"""The folder of a run and the record of what the run is: only the same run goes on in it."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from catalog import duck
from catalog.errors import CatalogError
from catalog.lake import Catalog, scalar
from catalog.pack import Pack
from catalog.records import now, to_json, write_json
from catalog.snapshots import Snapshot
from catalog.version import code_version
from trainer import processes
from trainer.metrics import FILE as METRICS_FILE
from trainer.run_record import PRETRAIN, RERANK, RUN_FILE, TRAIN, find_record

# What a run leaves in its folder; without the record nobody can say which run's it is.
_PARTS: Final = ("checkpoint-*", "live", "log", METRICS_FILE)
# The catalog may move: what is trained on is named by digests.
_NOT_COMPARED: Final = ("catalog",)


@dataclass(frozen=True)
class RunPlace:
    """Where a run is, and what it trains on. Its name is that of its folder."""

    folder: Path
    catalog: Catalog
    snapshot: Snapshot
    candidates_run: str | None = None  # None: the snapshot's newest mining run, if it has one
    pack_folder: Path | None = None  # None: beside the catalog's other work

    @property
    def name(self) -> str:
        """The run's name in the catalog's tables."""
        return self.folder.resolve().name


def describe_run(place: RunPlace, settings: Any, pack: Pack, kind: str = TRAIN) -> dict[str, Any]:
    """Return what makes a run this one, as plain data; ``settings`` are a dataclass."""
    return {
        **({} if kind == TRAIN else {"kind": kind}),
        "catalog": place.catalog.location.url,
        "snapshot": place.snapshot.name,
        "snapshot_digest": place.snapshot.digest,
        "candidates_run": pack.manifest.settings["candidates_run"],
        "pack": pack.manifest.key,
        "settings": json.loads(to_json(asdict(settings))),
    }


def check_folder(place: RunPlace, record: dict[str, Any]) -> None:
    """Raise CatalogError where the folder, or the run's name in the catalog, is another run's."""
    there = find_record(place.folder)
    if there is not None:
        differing = sorted(_differences("", there, record))
        if differing:
            raise CatalogError(
                f"{place.folder} holds another run (other {', '.join(differing)}); resume it with "
                "what it began with (lode train --resume), or choose another folder"
            )
        return
    parts = [found.name for part in _PARTS for found in sorted(place.folder.glob(part))]
    if parts:
        raise CatalogError(
            f"{place.folder} holds {parts[0]} but no {RUN_FILE}, so nobody knows of which run; "
            "remove the folder, or choose another"
        )
    with place.catalog.reader() as connection:
        if _is_finished(connection, place.name):
            raise CatalogError(
                f"the catalog has a run {place.name!r} already; choose a folder of another name"
            )


def claim_folder(place: RunPlace, record: dict[str, Any]) -> None:
    """Write the record, once; all processes call it, and it is there when they return."""
    if processes.rank() == 0 and find_record(place.folder) is None:
        pack_folder = place.pack_folder and str(place.pack_folder.resolve())
        began = {"pack_folder": pack_folder, "started_at": now().isoformat()}
        write_json(place.folder / RUN_FILE, {**record, **began})
    processes.wait()


def record_end(place: RunPlace, record: dict[str, Any], steps: int) -> None:
    """Put a finished run into the catalog's table of runs, once."""
    began = find_record(place.folder)
    assert began is not None
    row = [
        place.name, record.get("kind", TRAIN), None, to_json(record), [], code_version(),
        began["started_at"], now(), "finished", steps,
    ]  # fmt: skip

    def insert(connection: duck.Connection) -> None:
        if not _is_finished(connection, place.name):
            marks = ", ".join("?" * len(row))
            connection.execute(f"insert into runs values ({marks})", row)

    place.catalog.transact(insert)


def _is_finished(connection: duck.Connection, name: str) -> bool:
    sql = "select count(*) from runs where run_id = ? and kind in (?, ?, ?)"
    return scalar(connection, sql, [name, TRAIN, PRETRAIN, RERANK]) != 0


def _differences(prefix: str, there: dict[str, Any], record: dict[str, Any]) -> list[str]:
    """Name what differs, settings by their own names."""
    found = []
    for key, value in record.items():
        if key in _NOT_COMPARED or there.get(key) == value:
            continue
        if isinstance(value, dict) and isinstance(there.get(key), dict):
            found += _differences(f"{prefix}{key}.", there[key], value)
        else:
            found.append(f"{prefix}{key}".removeprefix("settings."))
    return found
