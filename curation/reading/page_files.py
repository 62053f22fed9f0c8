"""Web pages as rows: WARC archives, HTML files and Markdown documents; a page makes several."""

from collections.abc import Iterator
from typing import Any, Final

import numpy as np
import orjson

from curation.extraction.pages import (
    DAMAGES,
    PAGE_FORMATS,
    Page,
    decompressed,
    looks_like_html,
    read_archive,
    read_document,
)
from curation.extraction.pairs import Extraction
from curation.extraction.sandbox import Sandbox
from curation.extraction.settings import EXTRACTOR, PageSettings
from curation.reading.chunks import META, ChunkSize, RecordChunk
from curation.reading.errors import SourceFileError
from curation.reading.faults import Reject
from curation.reading.lines import compression_of
from curation.reading.reach import Reach
from curation.reading.settings import SourceSettings
from curation.reading.source_path import SourcePath

PAGE_FIELDS: Final = ("query", "positive", "url", "form")
PAGE_SUFFIXES: Final = {
    ".warc": "warc", ".html": "html", ".htm": "html", ".xhtml": "html", ".md": "markdown",
    ".markdown": "markdown",
}  # fmt: skip
WARC_MAGIC: Final = b"WARC/"
# A page takes milliseconds, not microseconds: progress shows after some seconds.
CHUNK_PAGES: Final = 1_024
# What the quarantine keeps of a page: its address and enough to see what it is.
RAW_PAGE_BYTES: Final = 2_048
_FORMS: Final = {"question-answer": "question-answer"}  # the other kinds are title-content

__all__ = ["PAGE_FIELDS", "PAGE_FORMATS", "PAGE_SUFFIXES", "page_chunks", "sniff_page"]


def sniff_page(path: SourcePath, head: bytes, named: str | None) -> str | None:
    """Recognize pages by their first bytes; ``named`` is what the file's name says."""
    if head.startswith(WARC_MAGIC):
        return "warc"
    if named == "warc":
        raise SourceFileError(
            path, f"is named warc but begins with {head[:8]!r}", "get the file again"
        )
    return "html" if named is None and looks_like_html(head) else None


def page_chunks(
    path: SourcePath, format_name: str, settings: SourceSettings, chunk: ChunkSize, reach: Reach
) -> Iterator[RecordChunk]:
    """Yield the pairs of a file's pages, each with the number of its page as its row."""
    page_settings = PageSettings.from_document(settings.pages)
    rows = _Rows()
    with Sandbox(page_settings) as sandbox:
        for page in _pages(path, format_name, page_settings.max_page_bytes, reach):
            rows.add(page, sandbox.extract(page))
            full = rows.pages >= CHUNK_PAGES or len(rows.records) >= chunk.rows
            if full or rows.bytes >= chunk.bytes:
                yield rows.chunk()
                rows = _Rows()
    if rows.pages:
        yield rows.chunk()


def _pages(path: SourcePath, format_name: str, max_bytes: int, reach: Reach) -> Iterator[Page]:
    compression = compression_of(path)
    try:
        with path.open("rb") as file:
            stream = decompressed(file, compression)
            if format_name == "warc":
                pages = read_archive(stream, max_bytes)
            else:
                pages = read_document(format_name, stream, max_bytes)
            for page in pages:
                reach.row, reach.bytes = page.row, file.tell()
                yield page
    except DAMAGES as error:
        raise SourceFileError(
            path, f"cannot be read: {error}", "get the file again, or leave it out", reach.row
        ) from error


class _Rows:
    """The rows of a chunk while its pages are read."""

    def __init__(self) -> None:
        self.records: list[dict[str, Any]] = []
        self.rows: list[int] = []
        self.rejects: list[Reject] = []
        self.pages = self.bytes = 0

    def add(self, page: Page, found: Extraction) -> None:
        """Add what a page gave: its pairs, or the reason why it has none."""
        self.pages += 1
        if found.reason:
            raw = page.url.encode("utf-8", "replace") + b"\n" + page.data[:RAW_PAGE_BYTES]
            self.rejects.append(Reject(page.row, found.reason, raw))
            self.bytes += len(raw)
        origin = {
            "crawl_date": page.crawl_date or None,
            "encoding": found.encoding,
            "extractor": EXTRACTOR,
        }
        for pair in found.pairs:
            self.records.append(
                {
                    "query": pair.query,
                    "positive": pair.positive,
                    "url": page.url or None,
                    "form": _FORMS.get(pair.kind),  # null is the source's own form
                    META: {"kind": pair.kind, **pair.about, **origin},
                }
            )
            self.rows.append(page.row)
            self.bytes += 3 * len(pair.positive)

    def chunk(self) -> RecordChunk:
        """Close the chunk; ``rows_read`` of it counts pages."""
        raws = [orjson.dumps(record) for record in self.records]
        chunk = RecordChunk(self.records, raws, np.array(self.rows, np.int64), self.rejects)
        chunk.rows_read = self.pages
        return chunk
