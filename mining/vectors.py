"""Vectors: rows of numbers in memory or on disk, read block by block."""

from collections.abc import Sequence
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

Rows = npt.NDArray[Any]  # float16 or float32, rows x width


class Vectors:
    """Row-major parts read as one; a part that is a whole ``np.memmap`` is read, not mapped in.

    Pages of a mapped file count as this process's memory for as long as the kernel likes.
    """

    def __init__(self, parts: Rows | Sequence[Rows]) -> None:
        self.parts = [parts] if isinstance(parts, np.ndarray) else list(parts)
        if not self.parts:
            raise ValueError("there are no vectors: at least one part is needed, it may be empty")
        for part in self.parts:
            if part.ndim != 2 or part.dtype not in (np.float16, np.float32):
                raise ValueError(
                    f"vectors are {part.dtype} of shape {part.shape}; they must be float16 or "
                    "float32, rows x width"
                )
        widths = sorted({part.shape[1] for part in self.parts})
        if len(widths) > 1:
            raise ValueError(f"parts of different widths: {widths}; they are of different models")
        self.width = widths[0]
        self.dtype = np.result_type(*(part.dtype for part in self.parts))
        self.itemsize = self.dtype.itemsize
        self.ends = np.cumsum([len(part) for part in self.parts])

    def __len__(self) -> int:
        return int(self.ends[-1])

    def read(self, start: int, stop: int, out: Rows | None = None) -> Rows:
        """Return rows ``start`` to ``stop``: a view of a part in memory, or else read into ``out``.

        ``out`` has at least as many rows, of this width and dtype; without it memory is allocated.
        """
        pieces = []
        first = 0
        for part, end in zip(self.parts, self.ends, strict=True):
            low, high = max(start, first), min(stop, int(end))
            if low < high:
                pieces.append((part, low - first, high - first))
            first = int(end)
        if len(pieces) == 1 and not _is_whole_file(pieces[0][0]):
            part, low, high = pieces[0]
            return part[low:high]
        rows = sum(high - low for _, low, high in pieces)
        found = np.empty((rows, self.width), self.dtype) if out is None else out[:rows]
        filled = 0
        for part, low, high in pieces:
            _read_rows(part, low, high, found[filled : filled + high - low])
            filled += high - low
        return found

    def take(self, rows: npt.NDArray[np.int64]) -> Rows:
        """Return chosen rows, which must ascend."""
        found = []
        first = 0
        for part, end in zip(self.parts, self.ends, strict=True):
            low, high = np.searchsorted(rows, [first, end])
            if low < high:
                found.append(_take_rows(part, rows[low:high] - first))
            first = int(end)
        return np.concatenate([np.empty((0, self.width), self.dtype), *found])


def as_vectors(rows: "Vectors | Rows | Sequence[Rows]") -> Vectors:
    """Wrap an array, or a sequence of shards."""
    return rows if isinstance(rows, Vectors) else Vectors(rows)


def _read_rows(part: Rows, start: int, stop: int, out: Rows) -> None:
    if not _is_whole_file(part) or part.dtype != out.dtype:
        out[:] = part[start:stop]
        return
    offset = part.offset + start * part.shape[1] * part.dtype.itemsize  # type: ignore[attr-defined]
    name: str = part.filename  # type: ignore[attr-defined]
    with open(name, "rb", buffering=0) as stream:
        stream.seek(offset)
        _fill(stream, out, name, stop - 1)


def _fill(stream: BinaryIO, out: Rows, name: str, last: int) -> None:
    """Read into rows; one call reads 2 GiB at most."""
    left = out.data.cast("B")
    while len(left):
        read = stream.readinto(left)  # type: ignore[attr-defined]
        if not read:
            raise ValueError(f"{name} ends before row {last}; write it again")
        left = left[read:]


def _take_rows(part: Rows, rows: npt.NDArray[np.int64]) -> Rows:
    """Pick ascending rows; of a file, each run of neighbors by one read."""
    if not _is_whole_file(part):
        return np.asarray(part[rows])
    taken = np.empty((len(rows), part.shape[1]), part.dtype)
    row_bytes = part.shape[1] * part.dtype.itemsize
    cuts = (np.flatnonzero(np.diff(rows) != 1) + 1).tolist()
    name: str = part.filename  # type: ignore[attr-defined]
    with open(name, "rb") as stream:
        for low, high in zip([0, *cuts], [*cuts, len(rows)], strict=True):
            stream.seek(part.offset + int(rows[low]) * row_bytes)  # type: ignore[attr-defined]
            if low < high:
                _fill(stream, taken[low:high], name, int(rows[high - 1]))
    return taken


def _is_whole_file(part: Rows) -> bool:
    whole = isinstance(part, np.memmap) and part.base is getattr(part, "_mmap", None)
    return bool(whole and part.flags.c_contiguous and getattr(part, "filename", None) is not None)
