"""Texts on their way to disk: a blob of bytes and where each text begins, zstd by choice."""

from collections.abc import Iterable
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import zstandard

from catalog.pack.parts import PartFile

# Level 3 packs 336,000 texts of 177 bytes per core-second, 13 % smaller than level 1 (443,000).
LEVEL: Final = 3
DICTIONARY_BYTES: Final = 112 << 10  # zstd's own default
# Under about a hundred samples a byte of dictionary the trainer finds nothing that repeats.
MIN_SAMPLE_BYTES: Final = 10 * DICTIONARY_BYTES


def text_bytes(texts: pa.Array) -> tuple[memoryview, npt.NDArray[np.int64]]:
    """Return the UTF-8 of a large_string array without nulls, and the n + 1 offsets into it."""
    if not pa.types.is_large_string(texts.type) or texts.null_count:
        raise TypeError(f"texts are {texts.type} with {texts.null_count} nulls, not large_string")
    _, offset_buffer, data = texts.buffers()
    if len(texts) == 0 or data is None:
        return memoryview(b""), np.zeros(len(texts) + 1, np.int64)
    every = np.frombuffer(offset_buffer, dtype=np.int64)
    offsets = every[texts.offset : texts.offset + len(texts) + 1]
    return memoryview(data)[offsets[0] : offsets[-1]], offsets - offsets[0]


def train_dictionary(samples: list[bytes | bytearray | memoryview]) -> bytes:
    """Train a zstd dictionary; an empty one where there is too little text to learn from."""
    if sum(map(len, samples)) < MIN_SAMPLE_BYTES:
        return b""
    trained = zstandard.train_dictionary(DICTIONARY_BYTES, samples)
    return bytes(trained.as_bytes())


class Compressor:
    """Compresses texts one by one, many at a time on all cores."""

    def __init__(self, dictionary: bytes) -> None:
        data = zstandard.ZstdCompressionDict(dictionary) if dictionary else None
        if data is not None:
            data.precompute_compress(level=LEVEL)
        self._zstd = zstandard.ZstdCompressor(level=LEVEL, dict_data=data, write_dict_id=False)

    def compress(
        self, data: memoryview, offsets: npt.NDArray[np.int64]
    ) -> tuple[bytes, npt.NDArray[np.int64]]:
        """Return the frames and the n + 1 offsets into them; an empty text has no frame."""
        lengths = np.diff(offsets)
        some = np.flatnonzero(lengths)
        if len(some) == 0:
            return b"", np.zeros_like(offsets)
        segments = np.stack((offsets[:-1][some], lengths[some]), axis=1).astype(np.uint64)
        source = zstandard.BufferWithSegments(data, segments.tobytes())
        # A thread for every core; a frame does not depend on how many there are.
        found = self._zstd.multi_compress_to_buffer(source, threads=-1)
        frames = [found[place].tobytes() for place in range(len(found))]
        ends = np.zeros(len(offsets), np.int64)
        ends[some + 1] = [len(frame) for frame in frames]
        return b"".join(frames), np.cumsum(ends)


def write_shard(
    blob: PartFile, offsets: PartFile, texts: Iterable[pa.Array], compressor: Compressor | None
) -> int:
    """Write arrays of texts one after another; return how many texts there were."""
    end, count = 0, 0
    offsets.write(np.zeros(1, np.uint64))
    for array in texts:
        data, places = text_bytes(array)
        if compressor is None:
            blob.write(data)
        else:
            frames, places = compressor.compress(data, places)
            blob.write(frames)
        offsets.write((places[1:] + end).astype(np.uint64))
        end += int(places[-1])
        count += len(array)
    return count
