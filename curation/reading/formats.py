"""Which format a source file is written in, told by its first bytes and its name."""

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from curation.reading.arrow_files import FILE_MAGIC, STREAM_MAGIC, arrow_chunks, dataset_splits
from curation.reading.chunks import Chunk, ChunkSize
from curation.reading.csv_files import csv_chunks
from curation.reading.errors import SourceFileError
from curation.reading.json_files import json_array_chunks, json_line_chunks
from curation.reading.lines import BOM, Blocks, compression_of
from curation.reading.page_files import PAGE_FORMATS, PAGE_SUFFIXES, page_chunks, sniff_page
from curation.reading.reach import Reach
from curation.reading.settings import AUTO, SourceSettings
from curation.reading.source_path import SourcePath, size_of

PARQUET_MAGIC: Final = b"PAR1"
HEAD_BYTES: Final = 4_096
WHOLE: Final = ChunkSize()
ARROW_FORMATS: Final = ("parquet", "arrow", "hf-dataset")
_DELIMITERS: Final = {"csv": ",", "tsv": "\t"}
_BY_SUFFIX: Final = {".csv": "csv", ".tsv": "tsv", ".jsonl": "jsonl", ".ndjson": "jsonl"}
_BINARY_SUFFIXES: Final = {".parquet": "parquet", ".arrow": "arrow", ".feather": "arrow"}
# Of the files that a folder is taken to consist of.
SOURCE_SUFFIXES: Final = frozenset((*_BY_SUFFIX, *_BINARY_SUFFIXES, ".json"))
KNOWN: Final = (
    "readable are JSONL, CSV and TSV (plain, .gz or .zst), a JSON array, Parquet, Arrow, the "
    "folder that datasets' save_to_disk writes, and pages: WARC, HTML and Markdown"
)


@dataclass(frozen=True)
class SourceFormat:
    """How a file is written; ``compression`` is gzip, zstd or empty."""

    name: str
    compression: str = ""

    def __str__(self) -> str:
        return f"{self.name} ({self.compression})" if self.compression else self.name


def detect_format(path: SourcePath, wanted: str = AUTO) -> SourceFormat:
    """Recognize a file's format; SourceFileError where it is none that can be read."""
    if isinstance(path, Path) and path.is_dir():
        return SourceFormat(_folder_format(path))
    if not path.exists():
        raise SourceFileError(path, "does not exist", "check the path")
    if size_of(path) == 0:
        raise SourceFileError(path, "is empty", "leave it out")
    compression = compression_of(path) or ""
    found = _detect(path, compression)
    if wanted == AUTO:
        return SourceFormat(found, compression)
    if (found in ARROW_FORMATS or wanted in ARROW_FORMATS) and wanted != found:
        raise SourceFileError(
            path, f"is {found}, not {wanted}", "leave the format out of the settings"
        )
    return SourceFormat(wanted, compression)


def source_files(path: Path) -> list[Path]:
    """List what is read as one file each: the file, a data set, its splits, or a folder's files."""
    if not path.is_dir() or (path / "state.json").is_file():
        return [path]
    if (path / "dataset_dict.json").is_file():
        return dataset_splits(path)
    found = [
        file
        for file in sorted(path.rglob("*"))
        if file.is_file()
        and not any(part.startswith(".") for part in file.relative_to(path).parts)
        and any(suffix.lower() in SOURCE_SUFFIXES for suffix in file.suffixes[-2:])
    ]
    if not found:
        raise SourceFileError(path, "is a folder without a source file", KNOWN)
    return found


def open_chunks(
    path: SourcePath,
    found: SourceFormat,
    settings: SourceSettings,
    reach: Reach,
    columns: Collection[str] | None = None,
    texts: Collection[str] = (),
    chunk: ChunkSize = WHOLE,
) -> Iterator[Chunk]:
    """Yield a file's rows; ``columns`` limits what is read where that saves work."""
    if found.name in ARROW_FORMATS:
        return arrow_chunks(path, found.name, columns, texts, chunk, reach)
    if found.name in PAGE_FORMATS:
        return page_chunks(path, found.name, settings, chunk, reach)
    max_row_bytes = settings.max_row_bytes
    if found.name in _DELIMITERS:
        delimiter = _DELIMITERS[found.name]
        return csv_chunks(path, delimiter, settings.csv_quotes, chunk, max_row_bytes, reach)
    if found.name == "json-array":
        return json_array_chunks(path, chunk, max_row_bytes, reach)
    return json_line_chunks(path, chunk, max_row_bytes, reach)


def _folder_format(path: Path) -> str:
    if (path / "state.json").is_file():
        return "hf-dataset"
    if (path / "dataset_dict.json").is_file():
        names = ", ".join(split.name for split in dataset_splits(path))
        raise SourceFileError(path, "holds several splits", f"read one of its folders: {names}")
    raise SourceFileError(path, "is a folder, not a file", KNOWN)


def _detect(path: SourcePath, compression: str) -> str:
    head = next(iter(Blocks(path, Reach(), HEAD_BYTES)), b"").removeprefix(BOM)
    suffixes = [suffix.lower() for suffix in path.suffixes]
    binary = _binary_format(head)
    if binary is None:
        named = next((_BINARY_SUFFIXES[one] for one in suffixes if one in _BINARY_SUFFIXES), None)
        if named is not None:
            raise SourceFileError(
                path, f"is named {named} but begins with {head[:8]!r}", "get the file again"
            )
    elif compression:
        raise SourceFileError(path, f"is {binary} in {compression}", "decompress it first")
    else:
        return binary
    by_suffix = _BY_SUFFIX | PAGE_SUFFIXES
    named = next((by_suffix[one] for one in reversed(suffixes) if one in by_suffix), None)
    return sniff_page(path, head, named) or named or _sniff_json(path, head)


def _binary_format(head: bytes) -> str | None:
    if head.startswith(PARQUET_MAGIC):
        return "parquet"
    return "arrow" if head.startswith((FILE_MAGIC, STREAM_MAGIC)) else None


def _sniff_json(path: SourcePath, head: bytes) -> str:
    first = head.lstrip()[:1]
    if first == b"[":
        return "json-array"
    if first == b"{" or path.suffix.lower() == ".json" or ".json" in path.suffixes:
        return "jsonl"
    raise SourceFileError(path, f"has no format that is known (it begins with {head[:8]!r})", KNOWN)
