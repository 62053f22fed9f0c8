"""Plain data on disk: written so that it is whole after a crash, and equal where its content is."""

import json
import os
from datetime import UTC, datetime
from pathlib import Path

import xxhash

CHECKSUM_BLOCK_BYTES = 1 << 20


def to_json(value: object) -> str:
    """Write plain data as JSON whose bytes depend on the content alone."""
    return json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":"), default=str)


def write_json(path: Path, content: object) -> None:
    """Write a small file so that it is there whole or not at all, also after a power cut."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with aside.open("w", encoding="utf-8") as stream:
        stream.write(json.dumps(content, ensure_ascii=False, indent=1, default=str))
        stream.flush()
        os.fsync(stream.fileno())
    aside.rename(path)
    sync_folder(path.parent)


def checksum(path: Path) -> str:
    """Return the 128-bit xxh3 of a file, hexadecimal."""
    hasher = xxhash.xxh3_128()
    with path.open("rb") as stream:
        while block := stream.read(CHECKSUM_BLOCK_BYTES):
            hasher.update(block)
    return hasher.hexdigest()


def sync_file(path: Path) -> None:
    """Wait until a file's bytes are on the disk."""
    with path.open("rb") as stream:
        os.fsync(stream.fileno())


def sync_folder(path: Path) -> None:
    """Wait until a folder's names are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def now() -> datetime:
    """Return the time for records, in UTC."""
    return datetime.now(UTC)
