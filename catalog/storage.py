"""Where a catalog's data files are: a folder, or a bucket on S3. Paths are relative to it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import pyarrow.parquet as pq

from catalog.records import checksum, process_name, sync_file, sync_folder


@dataclass(frozen=True)
class StoredFile:
    """A file as the storage lists it; one with an ``upload`` was begun and never completed."""

    path: str
    bytes: int
    modified: float  # seconds since 1970
    upload: str | None = None


class Storage(Protocol):
    """What jobs and maintenance ask of the place of the data."""

    def place(self, path: str) -> str:
        """Return the full name of a file, for SQL and messages."""

    def aside(self, path: str, work: Path) -> Path:
        """Return where this process writes a file before it is published, given the job's folder.

        The name holds node and process: a worker that outlived its killed parent shares no file.
        """

    def publish(self, aside: Path, path: str) -> None:
        """Move a finished file to its name: it is there whole and durable, or not at all."""

    def files(self) -> list[StoredFile]:
        """List everything, uploads that were never completed included."""

    def find(self, path: str) -> StoredFile | None:
        """Return a file, or None where it does not exist."""

    def checksum(self, path: str) -> str:
        """Return the 128-bit xxh3 of a file, hexadecimal."""

    def delete(self, file: StoredFile) -> None:
        """Remove a file, or give up an upload; what is gone already is no error."""


def open_storage(data: str) -> Storage:
    """Open the place that a catalog's location names."""
    if data.startswith("s3://"):
        from catalog.s3 import Bucket

        return Bucket.of(data)
    return Folder(Path(data))


def open_parquet(place: str) -> pq.ParquetFile:
    """Open a Parquet file by its full name, wherever it is."""
    if place.startswith("s3://"):
        from catalog import s3

        return pq.ParquetFile(s3.open_object(place), pre_buffer=True)
    return pq.ParquetFile(place)


@dataclass(frozen=True)
class Folder:
    """A folder of a file system that all workers share."""

    root: Path

    def place(self, path: str) -> str:
        """Return the path."""
        return str(self.root / path)

    def aside(self, path: str, work: Path) -> Path:
        """Return a hidden name beside the file: a rename must stay within its file system."""
        final = self.root / path
        final.parent.mkdir(parents=True, exist_ok=True)
        return final.with_name(f".{final.name}.{process_name()}.tmp")

    def publish(self, aside: Path, path: str) -> None:
        """Sync the file and rename it."""
        final = self.root / path
        sync_file(aside)
        aside.rename(final)
        sync_folder(final.parent)

    def files(self) -> list[StoredFile]:
        """List all files below the folder."""
        found = (self.find(str(p.relative_to(self.root))) for p in sorted(self.root.rglob("*")))
        return [file for file in found if file is not None]

    def find(self, path: str) -> StoredFile | None:
        """Look a file up."""
        full = self.root / path
        try:
            found = full.stat()
        except FileNotFoundError:
            return None
        return StoredFile(path, found.st_size, found.st_mtime) if full.is_file() else None

    def checksum(self, path: str) -> str:
        """Read the file."""
        return checksum(self.root / path)

    def delete(self, file: StoredFile) -> None:
        """Remove the file."""
        (self.root / file.path).unlink(missing_ok=True)
