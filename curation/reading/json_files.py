"""JSON lines and JSON arrays: objects become records, all else is rejected with its bytes."""

import re
from collections.abc import Iterable, Iterator
from typing import Any, Final

import numpy as np
import orjson

from curation.reading.arrow_rows import RAW_MAX_BYTES
from curation.reading.chunks import ChunkSize, RecordChunk
from curation.reading.errors import SourceFileError
from curation.reading.faults import JSON_NAMES, Reject
from curation.reading.lines import Blocks, TooLong, split_lines
from curation.reading.reach import Reach
from curation.reading.source_path import SourcePath

_POSITION: Final = re.compile(r": line \d+ column \d+ \(char \d+\)$")
_OUTSIDE: Final = re.compile(rb'["{}\[\],]')
_INSIDE: Final = re.compile(rb'["\\]')


def json_line_chunks(
    path: SourcePath, chunk: ChunkSize, max_row_bytes: int, reach: Reach
) -> Iterator[RecordChunk]:
    """Yield the objects of a file with one a line; a row's number is its line's, blanks counted."""
    blocks = Blocks(path, reach)
    return _chunks(blocks, split_lines(blocks, max_row_bytes), chunk)


def json_array_chunks(
    path: SourcePath, chunk: ChunkSize, max_row_bytes: int, reach: Reach
) -> Iterator[RecordChunk]:
    """Yield the objects of a file that is one JSON array, without holding the array."""
    blocks = Blocks(path, reach)
    return _chunks(blocks, split_array(blocks, max_row_bytes), chunk)


def _chunks(
    blocks: Blocks, lines: Iterable[bytes | TooLong], chunk: ChunkSize
) -> Iterator[RecordChunk]:
    raws: list[bytes] = []
    rows: list[int] = []
    rejects: list[Reject] = []
    size = 0
    for row, line in enumerate(lines):
        blocks.reach.row = row
        if isinstance(line, TooLong):
            rejects.append(Reject(row, line.reason, line.head))
            size += len(line.head)
        elif line and not line.isspace():
            raws.append(line)
            rows.append(row)
            size += len(line)
        if len(raws) >= chunk.rows or size >= chunk.bytes:
            yield _parse(raws, rows, rejects)
            raws, rows, rejects, size = [], [], [], 0
    if raws or rejects:
        yield _parse(raws, rows, rejects)


def _parse(raws: list[bytes], rows: list[int], rejects: list[Reject]) -> RecordChunk:
    try:
        values = [orjson.loads(raw) for raw in raws]
    except orjson.JSONDecodeError:
        values = [_loads(raw) for raw in raws]
    if all(type(value) is dict for value in values):
        return RecordChunk(values, raws, np.array(rows, np.int64), rejects)
    good = [at for at, value in enumerate(values) if type(value) is dict]
    for row, raw, value in zip(rows, raws, values, strict=True):
        if type(value) is not dict:
            rejects.append(Reject(row, _reason(value), raw[:RAW_MAX_BYTES]))
    return RecordChunk(
        [values[at] for at in good],
        [raws[at] for at in good],
        np.array([rows[at] for at in good], np.int64),
        rejects,
    )


def _loads(raw: bytes) -> Any:
    """Parse a line; a fault is returned, not raised."""
    try:
        return orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        try:
            raw.decode()
        except UnicodeDecodeError:
            return ValueError("row is not valid UTF-8")
        if "low surrogate" in error.msg or "high surrogate" in error.msg:
            return ValueError("row holds a lone surrogate")
        # Without the position, so that equal faults can be counted.
        return ValueError(f"row is not valid JSON: {_POSITION.sub('', str(error))}")


def _reason(value: Any) -> str:
    if isinstance(value, ValueError):
        return str(value)
    return f"row is {JSON_NAMES[type(value)]}, not an object"


def split_array(blocks: Blocks, max_element_bytes: int) -> Iterator[bytes | TooLong]:
    """Yield the elements of a JSON array as bytes; they are cut at its commas, not checked."""
    scan = _ArrayScan()
    element = b""
    skipped = 0
    for block in blocks:
        start = 0
        for end in scan.commas(block):
            element += block[start:end]
            if len(element) + skipped > max_element_bytes:
                yield TooLong(element[:RAW_MAX_BYTES], len(element) + skipped)
            elif element.strip():
                yield element
            start, element, skipped = end + 1, b"", 0
        element += block[start:]
        if len(element) > max_element_bytes:
            skipped += len(element) - RAW_MAX_BYTES
            element = element[:RAW_MAX_BYTES]
    if not scan.ended:
        raise SourceFileError(
            blocks.path,
            "the JSON array has no end",
            "get the file again, or leave it out",
            blocks.reach.row,
        )
    if element.strip():
        raise SourceFileError(
            blocks.path,
            "there is more after the JSON array",
            "leave one array, or write JSON lines",
        )


class _ArrayScan:
    """Finds where the elements of the outermost array end, across blocks."""

    def __init__(self) -> None:
        self.depth = 0
        self.began = False
        self.ended = False
        self.in_string = False
        self.skip = 0  # an escape sequence began at the end of the last block

    def commas(self, block: bytes) -> Iterator[int]:
        """Yield the places of the commas between elements, and of the closing bracket."""
        at = self.skip
        self.skip = 0
        while not self.ended:
            found = (_INSIDE if self.in_string else _OUTSIDE).search(block, at)
            if found is None:
                self.skip = max(0, at - len(block))
                return
            sign, at = found.group(), found.end()
            if sign == b"\\":
                at += 1
            elif sign == b'"':
                self.in_string = not self.in_string
            elif self._ends_element(sign):
                yield found.start()

    def _ends_element(self, sign: bytes) -> bool:
        if sign in b"[{":
            self.depth += 1
            first = not self.began
            self.began = True
            return first  # what stands before the bracket is no element: it is blank
        if sign in b"]}":
            self.depth -= 1
            self.ended = self.depth == 0
            return self.ended
        return self.depth == 1
