"""The pages of a file: the responses of a WARC archive, or one HTML or Markdown document."""

import gzip
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO, Final

import zstandard

from catalog.errors import CatalogError

PAGE_FORMATS: Final = ("warc", "html", "markdown")
HTML_TYPES: Final = ("text/html", "application/xhtml+xml")
# A page's head in the quarantine: enough to see what it is.
_HTML_HEADS: Final = (b"<!doctype html", b"<html", b"<head", b"<body", b"<?xml")
OK_STATUS: Final = "200"


@dataclass(frozen=True)
class Page:
    """A page as it was read; ``row`` is the number of its record in the file, ``reason`` is
    empty, or says why it cannot be used.
    """

    row: int
    format: str  # html | markdown
    data: bytes
    url: str = ""
    crawl_date: str = ""
    charset: str = ""  # of the HTTP header
    reason: str = ""


TOO_LONG: Final = "page is longer than max_page_bytes"


class DamagedArchiveError(ValueError):
    """An archive cannot be read on from here; what came before it is sound."""


# What reading a compressed or cut file can raise.
DAMAGES: Final = (OSError, EOFError, ValueError, zlib.error, zstandard.ZstdError)


def read_document(format_name: str, stream: Any, max_page_bytes: int) -> Iterator[Page]:
    """Yield the one page of an HTML or Markdown file."""
    data = stream.read(max_page_bytes + 1)
    reason = TOO_LONG if len(data) > max_page_bytes else ""
    yield Page(0, format_name, data[:max_page_bytes], reason=reason)


def read_archive(stream: Any, max_page_bytes: int) -> Iterator[Page]:
    """Yield the responses of a WARC archive; requests and metadata are no pages.

    ``stream`` gives decompressed bytes. Where the archive is damaged the last page carries the
    reason: there is no way to find the next record.
    """
    from warcio.archiveiterator import ArchiveIterator

    row = -1
    parts = _Parts(stream)
    try:
        for row, record in enumerate(ArchiveIterator(parts)):
            page = _read_record(row, record, max_page_bytes)
            if page is not None:
                yield page
        parts.check_end()
    except CatalogError:  # S3 is away, not the archive damaged
        raise
    except Exception as error:  # noqa: BLE001  warcio fails in many ways on damaged headers
        what = str(error) or type(error).__name__
        yield Page(max(row, 0), "html", b"", reason=f"the archive is damaged from here on ({what})")


class _Parts:
    """A stream that hands out what it has got: an error comes after the bytes before it."""

    def __init__(self, stream: Any) -> None:
        self.read_part = getattr(stream, "read1", stream.read)
        self.last = b"\n"

    def read(self, size: int = 1 << 16) -> bytes:
        """Return at least a byte, but at the end."""
        try:
            part: bytes = self.read_part(size)
        except EOFError as error:  # to warcio this would be the proper end of the archive
            raise DamagedArchiveError("it ends within a compressed record") from error
        self.last = part[-1:] or self.last
        return part

    def check_end(self) -> None:
        """Refuse an archive that does not end as records do, with empty lines."""
        if self.last != b"\n":
            raise DamagedArchiveError("it ends within a record")


def decompressed(file: BinaryIO, compression: str | None) -> Any:
    """Return a file's content as a stream; the members of a gzip file are one after the other."""
    if compression == "gzip":
        return gzip.GzipFile(fileobj=file)
    if compression == "zstd":
        return zstandard.ZstdDecompressor().stream_reader(file, read_across_frames=True)
    return file


def _read_record(row: int, record: Any, max_page_bytes: int) -> Page | None:
    """Read a response or a resource; all else in an archive is about a page, but none."""
    headers = record.rec_headers
    url = (headers.get_header("WARC-Target-URI") or "").strip("<>")
    # wget keeps its own log as a resource.
    if record.rec_type not in ("response", "resource") or url.startswith("metadata:"):
        return None
    data = record.content_stream().read(max_page_bytes + 1)
    if len(data) <= max_page_bytes:
        record.raw_stream.read()  # what a chunked body leaves behind
        if getattr(record.raw_stream, "limit", 0) > 0:
            raise DamagedArchiveError("a record ends early")
    content_type = _content_type(record)
    name, _, parameters = content_type.partition(";")
    return Page(
        row, "html", data[:max_page_bytes], url, headers.get_header("WARC-Date") or "",
        _charset(parameters), _refusal(record, name.strip().lower(), data, max_page_bytes),
    )  # fmt: skip


def _content_type(record: Any) -> str:
    found = None
    if record.http_headers is not None:
        found = record.http_headers.get_header("Content-Type")
    elif record.rec_type == "resource":
        found = record.content_type
    return found or record.rec_headers.get_header("WARC-Identified-Payload-Type") or ""


def _charset(parameters: str) -> str:
    for parameter in parameters.split(";"):
        key, _, value = parameter.partition("=")
        if key.strip().lower() == "charset":
            return value.strip(" \"'")
    return ""


def _refusal(record: Any, name: str, data: bytes, max_page_bytes: int) -> str:
    """Say why a record is no page that can be used; empty where it is one."""
    status = record.http_headers.get_statuscode() if record.http_headers is not None else OK_STATUS
    if status != OK_STATUS:
        return f"HTTP status {status}"
    if name not in HTML_TYPES and not (name in ("", "text/plain") and looks_like_html(data)):
        return f"is {name or 'of no stated type'}, not HTML"
    if not data.strip():
        return "is empty"
    return TOO_LONG if len(data) > max_page_bytes else ""


def looks_like_html(data: bytes) -> bool:
    """Say whether the first bytes are those of an HTML page."""
    return data[:512].lstrip(b"\xef\xbb\xbf \t\r\n").lower().startswith(_HTML_HEADS)
