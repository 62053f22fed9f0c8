"""The pack that a run reads: built where it is missing, opened where it is there."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Final

from catalog.mining_runs import choose_run
from catalog.pack import Pack, PackSettings, build_pack
from trainer.run_folder import RunPlace
from trainer.run_record import find_record

PACKS: Final = "packs"


def open_pack(place: RunPlace, wants_mined: bool, say: Callable[[str], None]) -> Pack:
    """Build the snapshot's pack, or open it where it is there already.

    With ``wants_mined`` it holds the candidates of the mining run that the place names, else of
    the snapshot's newest one, if it has one. A run that goes on keeps what it began with.
    """
    began = find_record(place.folder)
    mined: str | None = None
    if began is not None and place.candidates_run is None:
        mined = began["candidates_run"]  # the newest may be another by now
    elif wants_mined:
        with place.catalog.reader() as connection:
            chosen = choose_run(connection, place.snapshot, place.candidates_run)
        mined = chosen.run_id if chosen else None
    folder = place.pack_folder or _pack_folder(place, mined)
    say(f"pack {folder}" + (f" with candidates of {mined}" if mined else " without candidates"))
    return build_pack(place.catalog, place.snapshot, folder, PackSettings(candidates_run=mined))


def _pack_folder(place: RunPlace, mined: str | None) -> Path:
    work = Path(os.environ.get("LODE_PACKS") or place.catalog.location.work / PACKS)
    return work / f"{place.snapshot.name}-{mined or 'plain'}"
