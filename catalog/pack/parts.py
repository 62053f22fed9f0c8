"""The files of a pack in the making: a part is whole and recorded, or it is written again.

A killed build leaves its folder behind; the next build of the same pack keeps the recorded parts.
"""

import contextlib
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import xxhash

from catalog.pack.layout import FileRecord, Manifest
from catalog.records import sync_file, sync_folder, write_json, writing

RECORDS = "records"
Bytes = bytes | memoryview | npt.NDArray[Any]


class PartFile:
    """A file that is written aside, its checksum computed on the way."""

    def __init__(self, folder: Path, name: str) -> None:
        self.path = folder / name
        self._aside = folder / f".{name}.tmp"
        self._stream = self._aside.open("wb", buffering=1 << 20)
        self._hasher = xxhash.xxh3_128()
        self._bytes = 0

    def write(self, data: Bytes) -> None:
        """Append bytes, or the numbers of an array."""
        if isinstance(data, np.ndarray):
            data = np.ascontiguousarray(data).reshape(-1).view(np.uint8).data
        self._stream.write(data)
        self._hasher.update(data)
        self._bytes += len(data)

    def finish(self) -> FileRecord:
        """Make the file durable and give it its name."""
        self._stream.close()
        sync_file(self._aside)
        self._aside.rename(self.path)
        return FileRecord(self._bytes, self._hasher.hexdigest())

    def discard(self) -> None:
        """Remove what was written."""
        with contextlib.suppress(OSError):  # what a full disk did not take
            self._stream.close()
        self._aside.unlink(missing_ok=True)


class Parts:
    """The parts of one pack, in the folder where it is being built."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / RECORDS).mkdir(parents=True, exist_ok=True)

    def is_done(self, part: str) -> bool:
        """Say whether the part was finished by this build or by one that was killed."""
        return self._record(part).exists()

    @contextmanager
    def write(self, part: str, columns: tuple[str, ...]) -> Iterator[list[PartFile]]:
        """Open the files ``<part>.<column>``; the part counts when the block ends well."""
        with writing(self.folder):
            files = [PartFile(self.folder, f"{part}.{column}") for column in columns]
            try:
                yield files
                records = {file.path.name: asdict(file.finish()) for file in files}
            except BaseException:
                for file in files:
                    file.discard()
                raise
            sync_folder(self.folder)
        write_json(self._record(part), records)

    def records(self) -> dict[str, FileRecord]:
        """Gather the records of all finished files, by name."""
        found = {}
        for path in sorted((self.folder / RECORDS).glob("*.json")):
            for name, record in json.loads(path.read_text()).items():
                found[name] = FileRecord(**record)
        return dict(sorted(found.items()))

    def keep_only(self, names: set[str]) -> None:
        """Delete everything that is not named: scratch, and what an older layout left."""
        for path in self.folder.iterdir():
            if path.name in names:
                continue
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()

    def _record(self, part: str) -> Path:
        return self.folder / RECORDS / f"{part}.json"


def record_sound_parts(folder: Path, manifest: Manifest, damaged: set[str]) -> None:
    """Prepare a damaged pack for a build: its sound parts count as done, the others do not."""
    shutil.rmtree(folder / RECORDS, ignore_errors=True)
    parts: dict[str, dict[str, FileRecord]] = {}
    for name, record in manifest.files.items():
        parts.setdefault(name.rsplit(".", 1)[0], {})[name] = record
    for part, files in parts.items():
        if not damaged & set(files):
            content = {name: asdict(record) for name, record in files.items()}
            write_json(folder / RECORDS / f"{part}.json", content)
