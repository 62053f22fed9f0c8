"""Memory-mapped files, and telling the kernel what a batch is about to read.

A page that is not in memory costs a disk access when it is touched, one after another. Announcing
all ranges of a batch first (WILLNEED) lets the disk work on them at once: five times the rows per
second from a cold file, for a quarter of the speed of a warm one.
"""

import mmap
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from catalog.pack.layout import Integers

PAGE = mmap.PAGESIZE
# Page number and file number share a 64-bit key, so that one sort serves all files of a batch.
_FILE_SHIFT = 44


class MappedFile:
    """A read-only mapping; an empty file, which cannot be mapped, is empty bytes."""

    def __init__(self, path: Path) -> None:
        with path.open("rb") as stream:
            size = os.fstat(stream.fileno()).st_size
            # mmap keeps a descriptor of its own, so that of the stream can be closed.
            mapped = mmap.mmap(stream.fileno(), 0, prot=mmap.PROT_READ) if size else None
        self.bytes: mmap.mmap | bytes = mapped or b""
        self.advise = mapped.madvise if mapped else _advise_nothing

    def array(self, dtype: npt.DTypeLike) -> npt.NDArray[Any]:
        """View the file as numbers; nothing is read yet."""
        return np.frombuffer(self.bytes, dtype) if len(self.bytes) else np.empty(0, dtype)


def announce(files: Sequence[MappedFile], file: Integers, start: Integers, stop: Integers) -> None:
    """Tell the kernel that bytes ``[start, stop)`` of the numbered files are wanted soon."""
    advise = [mapped.advise for mapped in files]
    for number, first, length in zip(*page_runs(file, start, stop), strict=True):
        # Where the last page reaches beyond the file, mmap cuts the length.
        advise[number](mmap.MADV_WILLNEED, first, length)


def page_runs(
    file: Integers, start: Integers, stop: Integers
) -> tuple[list[int], list[int], list[int]]:
    """Join byte ranges into runs of whole pages: (file, first byte, length) of each, in order."""
    some = stop > start
    base = file[some].astype(np.int64) << _FILE_SHIFT
    first = base + start[some].astype(np.int64) // PAGE
    end = base + -(-stop[some].astype(np.int64) // PAGE)
    if len(first) == 0:
        return [], [], []
    order = np.argsort(first)
    first, end = first[order], np.maximum.accumulate(end[order])
    opens = np.flatnonzero(np.concatenate(([True], first[1:] > end[:-1])))
    closes = np.concatenate((opens[1:], [len(first)])) - 1
    run_first, run_end = first[opens], end[closes]
    page = run_first & ((1 << _FILE_SHIFT) - 1)
    return (
        (run_first >> _FILE_SHIFT).tolist(),
        (page * PAGE).tolist(),
        ((run_end - run_first) * PAGE).tolist(),
    )


def _advise_nothing(advice: int, first: int, length: int) -> None:
    raise AssertionError("an empty file has no ranges")
