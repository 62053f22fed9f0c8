"""Text files as lines of bytes: decompressed, no byte-order mark, never a line too long."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import pyarrow as pa

from curation.reading.arrow_rows import RAW_MAX_BYTES
from curation.reading.errors import SourceFileError
from curation.reading.reach import Reach
from curation.reading.source_path import SourcePath, open_arrow

BLOCK_BYTES: Final = 1 << 20
BOM: Final = b"\xef\xbb\xbf"
COMPRESSIONS: Final = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd"}
_UTF16: Final = (b"\xff\xfe", b"\xfe\xff")


@dataclass(frozen=True)
class TooLong:
    """What is left of a line or element that was skipped because of its size."""

    head: bytes
    size: int

    @property
    def reason(self) -> str:
        """Say why it was skipped; the same words for every size, so that reasons can be counted."""
        return "row is longer than max_row_bytes"


def compression_of(path: SourcePath) -> str | None:
    """Recognize a compressed file by its first bytes."""
    with path.open("rb") as stream:
        head = stream.read(4)
    return next((name for magic, name in COMPRESSIONS.items() if head.startswith(magic)), None)


class Blocks:
    """The decompressed bytes of a file, block by block."""

    def __init__(self, path: SourcePath, reach: Reach, max_block_bytes: int = 1 << 30) -> None:
        self.path = path
        self.reach = reach
        self.max_block_bytes = max_block_bytes

    def __iter__(self) -> Iterator[bytes]:
        compression = compression_of(self.path)
        first = True
        try:
            with open_arrow(self.path) as file:
                stream = pa.CompressedInputStream(file, compression) if compression else file
                while block := stream.read(min(BLOCK_BYTES, self.max_block_bytes)):
                    self.reach.bytes = file.tell()
                    yield self._without_mark(block) if first else block
                    first = False
        except (pa.ArrowException, OSError) as error:
            what = f"cannot be read as {compression}" if compression else "cannot be read"
            raise SourceFileError(
                self.path, f"{what}: {error}", "get the file again, or leave it out", self.reach.row
            ) from error

    def _without_mark(self, block: bytes) -> bytes:
        if block.startswith(_UTF16):
            raise SourceFileError(
                self.path, "is UTF-16", "convert it: iconv -f utf-16 -t utf-8 FILE > NEW_FILE"
            )
        return block.removeprefix(BOM)


def split_lines(blocks: Blocks, max_line_bytes: int) -> Iterator[bytes | TooLong]:
    """Yield lines with their ends cut off; of a line that is too long only its head is kept."""
    rest = b""
    skipped = 0  # bytes of a line that is too long; its head is in ``rest``
    for block in blocks:
        lines = block.split(b"\n")
        if skipped:
            skipped += len(lines[0])
            if len(lines) == 1:
                continue
            yield TooLong(rest, skipped)
            lines[0:1], skipped, rest = [], 0, b""
        if len(lines) > 1:
            yield _fitting(rest + lines[0], max_line_bytes)
            for line in lines[1:-1]:
                yield _fitting(line, max_line_bytes)
            rest = lines[-1]
        else:
            rest += lines[0]
        if len(rest) > max_line_bytes:
            rest, skipped = rest[:RAW_MAX_BYTES], len(rest)
    if skipped:
        yield TooLong(rest, skipped)
    elif rest:
        yield _fitting(rest, max_line_bytes)


def _fitting(line: bytes, max_line_bytes: int) -> bytes | TooLong:
    if len(line) > max_line_bytes:
        return TooLong(line[:RAW_MAX_BYTES], len(line))
    return line
