"""Building a pack: once per folder, resumable, visible whole or not at all.

The pack is written into a hidden folder beside its own, under a lock, and renamed when it is
complete. Who asks while another process builds waits for it and shares the result.
"""

import contextlib
import fcntl
import logging
import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from catalog.lake import Catalog
from catalog.pack.assembly import Assembly, Progress, Tally
from catalog.pack.layout import (
    MANIFEST,
    Manifest,
    PackDamagedError,
    PackError,
    PackMissingError,
    PackSettings,
    differing_settings,
    pack_key,
    read_manifest,
)
from catalog.pack.parts import RECORDS, Parts, record_sound_parts
from catalog.pack.read import Pack
from catalog.pack.vectors import VectorSource
from catalog.pack.verification import find_damage, trust_as_written
from catalog.records import sync_folder, writing
from catalog.snapshots import Snapshot

log = logging.getLogger(__name__)


def build_pack(
    catalog: Catalog,
    snapshot: Snapshot,
    folder: Path | str,
    settings: PackSettings | None = None,
    progress: Progress | None = None,
    vectors: VectorSource | None = None,
) -> Pack:
    """Build the pack of a snapshot, or open the one that the folder has already.

    A damaged pack is repaired; one of another snapshot or with other settings is refused.
    """
    folder, settings = Path(folder).resolve(), settings or PackSettings()
    settings = replace(settings, vectors=vectors.key if vectors else None)
    key = pack_key(snapshot, settings)
    with writing(folder.parent):
        folder.parent.mkdir(parents=True, exist_ok=True)
    with _build_lock(folder):
        aside = _aside(folder, key)
        if _is_ready(folder, aside, snapshot, settings, key):
            return Pack(folder, read_manifest(folder))
        for other in _aside_folders(folder):
            if other != aside:
                shutil.rmtree(other)
        parts = Parts(aside)
        manifest = Assembly(snapshot, settings, parts, Tally(progress), vectors).run(catalog, key)
        _publish(parts, folder, manifest)
    return Pack(folder, manifest)


def _aside(folder: Path, key: str) -> Path:
    """Say where a pack with this key is built until it is whole."""
    return folder.parent / f".{folder.name}.{key}.building"


def _aside_folders(folder: Path) -> list[Path]:
    """List what builds of this folder have left; one of 'v1.zstd' is none of 'v1'."""
    pattern = re.compile(re.escape(f".{folder.name}.") + r"[0-9a-f]{16}\.building")
    return sorted(path for path in folder.parent.iterdir() if pattern.fullmatch(path.name))


def _is_ready(
    folder: Path, aside: Path, snapshot: Snapshot, settings: PackSettings, key: str
) -> bool:
    """Say whether the pack is there and whole; move a damaged one aside to be completed."""
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return False
    damaged: set[str]
    try:
        manifest = read_manifest(folder)
    except PackMissingError:
        raise PackError(
            f"{folder} holds something that is not a pack; choose another folder"
        ) from None
    except PackDamagedError as error:
        log.warning("%s", error)
        shutil.rmtree(folder / RECORDS, ignore_errors=True)
        damaged = {MANIFEST}
    else:
        _refuse_other(folder, manifest, snapshot, settings, key)
        found = find_damage(folder, manifest)
        if not found:
            return True
        log.warning("%s", PackDamagedError(folder, found))
        record_sound_parts(folder, manifest, set(found))
        damaged = set(found)
    log.warning("rebuilding %s of the pack %s", ", ".join(sorted(damaged)), folder)
    shutil.rmtree(aside, ignore_errors=True)
    folder.rename(aside)
    (aside / MANIFEST).unlink()
    return False


def _refuse_other(
    folder: Path, manifest: Manifest, snapshot: Snapshot, settings: PackSettings, key: str
) -> None:
    if manifest.key == key:
        return
    differences = differing_settings(manifest, settings)
    if manifest.digest != snapshot.digest:
        differences.insert(
            0,
            f"it is of snapshot {manifest.snapshot!r} with digest {manifest.digest}, asked for is "
            f"{snapshot.name!r} with digest {snapshot.digest}",
        )
    elif manifest.lake_version != snapshot.lake_version:
        differences.insert(
            0,
            f"it is of version {manifest.lake_version} of the lake, asked for is version "
            f"{snapshot.lake_version}",
        )
    raise PackError(
        f"{folder} holds another pack: {'; '.join(differences)}. Choose another folder, or delete "
        "this one"
    )


def _publish(parts: Parts, folder: Path, manifest: Manifest) -> None:
    """Give the finished pack its name."""
    parts.keep_only({*manifest.files, RECORDS})
    manifest.write(parts.folder)
    trust_as_written(parts.folder, manifest)
    parts.folder.rename(folder)
    sync_folder(folder.parent)
    # Until here the records let a killed build go on; now the manifest has what they say.
    shutil.rmtree(folder / RECORDS)


@contextlib.contextmanager
def _build_lock(folder: Path) -> Iterator[None]:
    """Let one process of this machine build a pack at a time; the others wait."""
    with writing(folder.parent):
        descriptor = os.open(folder.parent / f".{folder.name}.lock", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            log.info("another process is building the pack %s; waiting for it", folder)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
