"""Texts by row, from memory-mapped shards of equal row counts."""

import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt
import zstandard

from catalog.pack.layout import (
    DICTIONARY,
    Integers,
    Manifest,
    checked_rows,
    shard_part,
    shard_ranges,
)
from catalog.pack.mapped import MappedFile, announce

# Texts that are announced at once: what a training step reads, and not a whole corpus.
ANNOUNCED: Final = 1 << 16
OFFSET_BYTES: Final = 8


class _Spans(NamedTuple):
    """Where the bytes of each text of a batch are."""

    shard: npt.NDArray[np.int64]
    start: npt.NDArray[np.int64]
    stop: npt.NDArray[np.int64]


@dataclass
class TextStore:
    """The texts of one side, for reading by row."""

    side: str
    count: int
    per_shard: int
    blobs: list[MappedFile]
    offsets: list[MappedFile]
    is_compressed: bool
    dictionary: bytes

    def __post_init__(self) -> None:
        self._starts = [file.array(np.uint64) for file in self.offsets]
        # A zstd decompressor serves one thread at a time.
        self._local = threading.local()

    @classmethod
    def open(cls, folder: Path, manifest: Manifest, side: str) -> "TextStore":
        """Map the shards of one side of a pack."""
        count = manifest.counts.queries if side == "query" else manifest.counts.passages
        per_shard = manifest.settings["texts_per_shard"]
        parts = [shard_part(side, s) for s in range(len(shard_ranges(count, per_shard)))]
        is_compressed = manifest.settings["compression"] is not None
        dictionary = (folder / f"{DICTIONARY}.{side}").read_bytes() if is_compressed else b""
        return cls(
            side,
            count,
            per_shard,
            [MappedFile(folder / f"{part}.blob") for part in parts],
            [MappedFile(folder / f"{part}.offsets") for part in parts],
            is_compressed,
            dictionary,
        )

    def read(self, rows: Integers) -> list[str]:
        """Read texts by row, in the order asked for."""
        rows = checked_rows(rows, self.count, self.side)
        if len(rows) <= ANNOUNCED:
            return self._read_batch(rows)
        blocks = range(0, len(rows), ANNOUNCED)
        return [t for at in blocks for t in self._read_batch(rows[at : at + ANNOUNCED])]

    def _read_batch(self, rows: npt.NDArray[np.int64]) -> list[str]:
        spans = self._locate(rows)
        announce(self.blobs, *spans)
        shards, starts, stops = (column.tolist() for column in spans)
        maps = [file.bytes for file in self.blobs]
        places = zip(shards, starts, stops, strict=True)
        if not self.is_compressed:
            return [maps[shard][start:stop].decode() for shard, start, stop in places]
        decompress = self._decompressor().decompress
        return [
            decompress(maps[shard][start:stop]).decode() if stop > start else ""
            for shard, start, stop in places
        ]

    def _locate(self, rows: npt.NDArray[np.int64]) -> _Spans:
        shard, local = np.divmod(rows, self.per_shard)
        announce(self.offsets, shard, local * OFFSET_BYTES, (local + 2) * OFFSET_BYTES)
        if len(self._starts) == 1:
            offsets = self._starts[0]
            start, stop = offsets[local], offsets[local + 1]
            return _Spans(shard, start.astype(np.int64), stop.astype(np.int64))
        spans = _Spans(shard, np.empty_like(local), np.empty_like(local))
        for number, places in shard_groups(shard):
            offsets, within = self._starts[number], local[places]
            spans.start[places] = offsets[within]
            spans.stop[places] = offsets[within + 1]
        return spans

    def _decompressor(self) -> zstandard.ZstdDecompressor:
        if not hasattr(self._local, "zstd"):
            data = zstandard.ZstdCompressionDict(self.dictionary) if self.dictionary else None
            self._local.zstd = zstandard.ZstdDecompressor(dict_data=data)
        found: zstandard.ZstdDecompressor = self._local.zstd
        return found


def shard_groups(shard: npt.NDArray[np.int64]) -> Iterator[tuple[int, npt.NDArray[np.int64]]]:
    """Group the places of a batch by shard number."""
    order = np.argsort(shard, kind="stable")
    numbers, firsts = np.unique(shard[order], return_index=True)
    ends = [*firsts[1:].tolist(), len(order)]
    for number, first, end in zip(numbers.tolist(), firsts.tolist(), ends, strict=False):
        yield number, order[first:end]
