"""Sets of pair ids, a bit for every row of every source file: 56 MB for 450 million pairs."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from catalog.records import sync_file
from catalog.schema import FILE_SHIFT
from curation.duplicates.pairs import Ids
from curation.texts import Flags, kernel

Bits = npt.NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class IdSet:
    """A set of pair ids; the bit of a pair is starts[file number] + ordinal."""

    starts: Ids  # by file number, 0 rows where there is no such file; the last is all rows
    bits: Bits

    @classmethod
    def empty(cls, file_rows: Mapping[int, int]) -> "IdSet":
        """Make an empty set with room for files (number to rows)."""
        starts = np.zeros(max(file_rows, default=-1) + 2, np.int64)
        for file_id, rows in file_rows.items():
            starts[file_id + 1] = rows
        starts = np.cumsum(starts)
        return cls(starts, np.zeros(int(starts[-1]) // 8 + 1, np.uint8))

    def add(self, ids: Ids) -> None:
        """Add ids; each must belong to a row of a file."""
        if not _add(self.starts, self.bits, ids, FILE_SHIFT):
            raise ValueError("a pair id lies outside the files that this set has room for")

    def contains(self, ids: Ids) -> Flags:
        """Say of each id whether it is in the set; ids of other files are not."""
        return _contains(self.starts, self.bits, ids, FILE_SHIFT)

    def save(self, path: Path) -> None:
        """Write the set so that it is there whole or not at all."""
        path.parent.mkdir(parents=True, exist_ok=True)
        aside = path.with_suffix(".tmp.npz")
        np.savez(aside, starts=self.starts, bits=self.bits)
        sync_file(aside)
        aside.rename(path)

    @classmethod
    def load(cls, path: Path) -> "IdSet":
        """Read a set that was saved."""
        with np.load(path) as content:
            return cls(content["starts"], content["bits"])


@kernel
def _place(starts: Ids, pair_id: int, file_shift: int) -> int:
    """Return the bit of an id, or -1."""
    file_id = pair_id >> file_shift
    if file_id < 0 or file_id + 1 >= len(starts):
        return -1
    place = starts[file_id] + (pair_id - (file_id << file_shift))
    return place if place < starts[file_id + 1] else -1


@kernel
def _add(starts: Ids, bits: Bits, ids: Ids, file_shift: int) -> bool:
    for pair_id in ids:
        place = _place(starts, pair_id, file_shift)
        if place < 0:
            return False
        bits[place >> 3] |= np.uint8(1 << (place & 7))
    return True


@kernel
def _contains(starts: Ids, bits: Bits, ids: Ids, file_shift: int) -> Flags:
    out = np.zeros(len(ids), np.bool_)
    for row in range(len(ids)):
        place = _place(starts, ids[row], file_shift)
        if place >= 0:
            out[row] = (bits[place >> 3] >> (place & 7)) & 1
    return out
