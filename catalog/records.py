"""Plain data on disk: written so that it is whole after a crash, and equal where its content is."""

import contextlib
import errno
import json
import os
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import xxhash

from catalog.errors import CatalogError

CHECKSUM_BLOCK_BYTES = 1 << 20
NO_SPACE = (errno.ENOSPC, errno.EDQUOT)
NOT_WRITABLE = (errno.EROFS, errno.EACCES, errno.EPERM)


def to_json(value: object) -> str:
    """Write plain data as JSON whose bytes depend on the content alone."""
    return json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":"), default=str)


@contextlib.contextmanager
def writing(place: Path | str) -> Iterator[None]:
    """Say in one line what to do where a disk is full or may not be written."""
    try:
        yield
    except OSError as error:
        if error.errno in NO_SPACE:
            hint = "free some space and run the same command again: what is finished is kept"
        elif error.errno in NOT_WRITABLE:
            hint = "writing needs a folder of your own on a disk that is mounted for it"
        else:
            raise
        reason = os.strerror(error.errno)
        raise CatalogError(f"cannot write to {place}: {reason}; {hint}") from error


def node_name() -> str:
    """Return the name of this machine."""
    return os.uname().nodename


def process_name() -> str:
    """Name this process among those of all machines that share a file system."""
    return f"{node_name()}-{os.getpid()}"


def write_json(path: Path, content: object) -> None:
    """Write a small file so that it is there whole or not at all, also after a power cut."""
    text = json.dumps(content, ensure_ascii=False, indent=1, default=str)
    write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file as ``write_json`` does."""
    aside = path.with_name(f".{path.name}.{process_name()}.tmp")
    with writing(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        with aside.open("wb") as stream:
            stream.write(content)
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
