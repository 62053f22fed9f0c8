"""Finding damage: sizes at every opening, checksums at a machine's first one and on request."""

import contextlib
import json
import logging
import os
from pathlib import Path
from typing import Final

from catalog.errors import CatalogError
from catalog.pack.layout import Manifest
from catalog.records import checksum, write_json

log = logging.getLogger(__name__)

# What this machine has verified: a copy of a pack elsewhere has other inodes and is read again.
VERIFIED: Final = "verified.json"


def find_damage(folder: Path, manifest: Manifest, *, everything: bool = False) -> dict[str, str]:
    """Return what is wrong with which file.

    Files that are as they were when they were verified (size, time, inode) are not read again,
    unless ``everything`` is asked for: only that finds what a disk has changed by itself.
    """
    damaged: dict[str, str] = {}
    known = {} if everything else _read_verified(folder)
    signatures = {}
    for name, record in manifest.files.items():
        try:
            status = (folder / name).stat()
        except FileNotFoundError:
            damaged[name] = "is missing"
            continue
        signatures[name] = _signature(status)
        if status.st_size != record.bytes:
            damaged[name] = f"has {status.st_size:,} bytes, {record.bytes:,} were written"
        elif known.get(name) != signatures[name] and checksum(folder / name) != record.xxh3:
            damaged[name] = "has changed since it was written (checksum differs)"
    if damaged:
        # Whoever repairs it must not trust what was believed before.
        with contextlib.suppress(OSError):
            (folder / VERIFIED).unlink()
    elif signatures != known:
        _write_verified(folder, signatures)
    return damaged


def trust_as_written(folder: Path, manifest: Manifest) -> None:
    """Note the files as verified: their checksums were computed while they were written."""
    names = manifest.files
    _write_verified(folder, {name: _signature((folder / name).stat()) for name in names})


def _signature(status: os.stat_result) -> list[int]:
    return [status.st_size, status.st_mtime_ns, status.st_ino]


def _read_verified(folder: Path) -> dict[str, list[int]]:
    with contextlib.suppress(OSError, ValueError):
        found: dict[str, list[int]] = json.loads((folder / VERIFIED).read_text())
        return found
    return {}


def _write_verified(folder: Path, signatures: dict[str, list[int]]) -> None:
    try:
        write_json(folder / VERIFIED, signatures)
    except (OSError, CatalogError) as error:
        log.warning("the pack %s will be verified at every opening: %s", folder, error)
