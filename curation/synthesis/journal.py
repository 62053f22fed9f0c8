"""The journal of a task's finished requests: what is in it is never asked again.

A line is a checksum and a JSON object. A line goes to the operating system at once, so kill -9
loses none; the disk is waited for in groups, so a power cut can lose the newest, which are then
asked again. A line that was cut is dropped when the journal is opened.
"""

import fcntl
import json
import os
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Final

import xxhash

from catalog.errors import CatalogError, JobBusyError
from catalog.records import sync_folder, to_json, writing

SYNC_LINES: Final = 256
SYNC_S: Final = 1.0
_MARK_CHARS: Final = 16


@dataclass(frozen=True)
class Finished:
    """A request that is done: the newest answer, or why there is none.

    ``requests`` counts HTTP requests, ``answers`` the answers that came; ``reason`` is None where
    the answer can be used. Token counts are what the server says of the newest answer.
    """

    number: int
    content: str | None
    reason: str | None
    requests: int
    answers: int
    prompt_tokens: int | None = None
    completion_tokens: int | None = None


class Journal:
    """Finished requests by their number; open it with ``with``, add to it, and read it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.finished: dict[int, Finished] = {}
        self._waiting = 0
        self._synced_at = time.monotonic()

    def __enter__(self) -> "Journal":
        with writing(self.path.parent):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._file)
            # A worker can outlive the command that was killed.
            raise JobBusyError(
                f"another process still writes to {self.path}; wait for it, or stop it first"
            ) from None
        good = self._read()
        os.ftruncate(self._file, good)
        os.lseek(self._file, good, os.SEEK_SET)
        sync_folder(self.path.parent)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            self._sync()
        finally:
            os.close(self._file)

    def add(self, done: Finished) -> None:
        """Write a finished request; it survives the end of this process at once."""
        content = to_json(asdict(done)).encode()
        line = memoryview(xxhash.xxh3_64_hexdigest(content).encode() + b" " + content + b"\n")
        with writing(self.path.parent):
            while line:
                line = line[os.write(self._file, line) :]
        self.finished[done.number] = done
        self._waiting += 1
        if self._waiting >= SYNC_LINES or time.monotonic() - self._synced_at > SYNC_S:
            self._sync()

    def _sync(self) -> None:
        with writing(self.path.parent):
            os.fsync(self._file)
        self._waiting, self._synced_at = 0, time.monotonic()

    def _read(self) -> int:
        """Take in all whole lines and return where they end."""
        good, is_damaged = 0, False
        for line in self.path.read_bytes().splitlines(keepends=True):
            done = _parse(line)
            if done is None:
                is_damaged = True
                continue
            if is_damaged:
                raise CatalogError(
                    f"{self.path} is damaged after byte {good:,}; remove it to ask for all "
                    "of its answers again"
                )
            self.finished[done.number] = done
            good += len(line)
        return good


def _parse(line: bytes) -> Finished | None:
    mark, content = line[:_MARK_CHARS], line[_MARK_CHARS + 1 : -1]
    if not line.endswith(b"\n") or mark != xxhash.xxh3_64_hexdigest(content).encode():
        return None
    return Finished(**json.loads(content))
