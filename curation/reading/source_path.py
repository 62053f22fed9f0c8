"""Where a source file is: on this machine or on S3. Readers take either."""

from pathlib import Path

import pyarrow as pa

from catalog.location import S3
from curation.reading.objects import ObjectPath, find_object

SourcePath = Path | ObjectPath


def locate(place: str | SourcePath) -> SourcePath:
    """Return the path of a file as the catalog names it; of an object: as it is now."""
    if isinstance(place, str):
        return find_object(place) if place.startswith(S3) else Path(place)
    return place


def size_of(path: SourcePath) -> int:
    """Return the bytes of a file."""
    return path.bytes if isinstance(path, ObjectPath) else path.stat().st_size


def open_arrow(path: SourcePath) -> pa.NativeFile:
    """Open a file for Arrow, for reading at any place."""
    if isinstance(path, ObjectPath):
        return pa.PythonFile(path.open(), "r")
    return pa.OSFile(str(path))
