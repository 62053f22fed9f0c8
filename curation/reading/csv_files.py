"""CSV and TSV with a header: records with their bytes, one bad record never spoils the next."""

import csv
from collections import deque
from collections.abc import Iterator

import numpy as np

from curation.reading.arrow_rows import RAW_MAX_BYTES
from curation.reading.chunks import ChunkSize, RecordChunk
from curation.reading.errors import SourceFileError
from curation.reading.faults import Reject
from curation.reading.lines import Blocks, TooLong, split_lines
from curation.reading.reach import Reach
from curation.reading.source_path import SourcePath

# The module's own limit of 128 kB is for the whole process; ours is max_row_bytes.
csv.field_size_limit(1 << 30)


class _UnclosedQuoteError(Exception):
    """A quote opened a field that does not end within the size of a row."""


class _SkippedLineError(Exception):
    """A line was too long to be kept."""


class _Feed:
    """Gives lines to the csv module and remembers the bytes of the record that is being read."""

    def __init__(self, lines: Iterator[bytes | TooLong], max_row_bytes: int) -> None:
        self.lines = lines
        self.max_row_bytes = max_row_bytes
        self.again: deque[bytes] = deque()
        self.ended = False
        self.begin()

    def begin(self) -> None:
        """Forget the record before."""
        self.raw: list[bytes] = []
        self.size = 0
        self.broken = False

    def __iter__(self) -> "_Feed":
        return self

    def __next__(self) -> str:
        line = self.again.popleft() if self.again else next(self.lines, None)
        if line is None:
            self.ended = True
            raise StopIteration
        if isinstance(line, TooLong):
            self.raw.append(line.head)
            raise _SkippedLineError
        self.raw.append(line)
        self.size += len(line) + 1
        if self.size > self.max_row_bytes:
            raise _UnclosedQuoteError
        try:
            return line.decode() + "\n"
        except UnicodeDecodeError:
            self.broken = True
            return line.decode("utf-8", "surrogateescape") + "\n"

    def is_unclosed(self) -> bool:
        """Say whether the file ended inside a quoted field that runs over several lines."""
        quotes = sum(line.count(b'"') for line in self.raw)
        return self.ended and len(self.raw) > 1 and quotes % 2 == 1

    def rewind(self) -> bytes:
        """Give up on the record: return its first line, and read again from its second."""
        self.again.extendleft(reversed(self.raw[1:]))
        self.ended = False
        return self.raw[0]


def csv_chunks(
    path: SourcePath,
    delimiter: str,
    quoted: bool,
    chunk: ChunkSize,
    max_row_bytes: int,
    reach: Reach,
) -> Iterator[RecordChunk]:
    """Yield the records under the header's names; a row's number counts records, not lines."""
    blocks = Blocks(path, reach)
    feed = _Feed(split_lines(blocks, max_row_bytes), max_row_bytes)
    records = _records(feed, delimiter, quoted)
    header = _header(path, next(records, None))
    good: list[dict[str, str]] = []
    raws: list[bytes] = []
    rows: list[int] = []
    rejects: list[Reject] = []
    size = 0
    for row, (values, raw, reason) in enumerate(records):
        reach.row = row
        reason = reason or _count_fault(values, header)
        if reason:
            rejects.append(Reject(row, reason, raw[:RAW_MAX_BYTES]))
        else:
            good.append(dict(zip(header, values, strict=True)))
            raws.append(raw)
            rows.append(row)
        size += len(raw)
        if len(good) >= chunk.rows or size >= chunk.bytes:
            yield RecordChunk(good, raws, np.array(rows, np.int64), rejects)
            good, raws, rows, rejects, size = [], [], [], [], 0
    if good or rejects:
        yield RecordChunk(good, raws, np.array(rows, np.int64), rejects)


def _records(
    feed: _Feed, delimiter: str, quoted: bool
) -> Iterator[tuple[list[str], bytes, str | None]]:
    """Yield (values, bytes, fault) of each record that is not blank."""
    while not feed.ended or feed.again:
        if quoted:
            reader = csv.reader(feed, delimiter=delimiter)
        else:
            reader = csv.reader(feed, delimiter=delimiter, quoting=csv.QUOTE_NONE)
        feed.ended = False
        try:
            feed.begin()
            for values in reader:
                if quoted and feed.is_unclosed():
                    raise _UnclosedQuoteError
                raw = b"\n".join(feed.raw)
                if values:
                    yield values, raw, "row is not valid UTF-8" if feed.broken else None
                feed.begin()
        except _UnclosedQuoteError:
            yield [], feed.rewind(), "a quote is opened and never closed"
        except _SkippedLineError:
            yield [], b"\n".join(feed.raw), "row is longer than max_row_bytes"
        except csv.Error as error:
            yield [], b"\n".join(feed.raw), f"row is not valid CSV: {error}"


def _header(path: SourcePath, first: tuple[list[str], bytes, str | None] | None) -> list[str]:
    if first is None:
        raise SourceFileError(path, "is empty", "leave it out")
    names, _, reason = first
    if reason:
        raise SourceFileError(
            path, f"the header cannot be read: {reason}",
            "save the file as UTF-8: iconv -f gb18030 -t utf-8 FILE > NEW_FILE",
        )  # fmt: skip
    names = [name.strip() for name in names]
    if "" in names or len(set(names)) < len(names):
        raise SourceFileError(
            path, f"the header {', '.join(map(repr, names))} has empty or equal names",
            "write a first line with a name of its own for every column",
        )  # fmt: skip
    return names


def _count_fault(values: list[str], header: list[str]) -> str | None:
    if len(values) == len(header):
        return None
    return f"row has {len(values)} fields, the header {len(header)}"
