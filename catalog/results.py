"""Results of queries: a table for people, and the formats that programs read."""

import csv
import json
import os
import shutil
import sys
import unicodedata
from pathlib import Path
from typing import TextIO

import pyarrow as pa
import pyarrow.parquet as pq

from catalog.errors import ReadOnlyError

FORMATS = ("table", "csv", "json", "parquet")
TABLE_MAX_ROWS = 100
CELL_MAX_WIDTH = 60
CELL_MIN_WIDTH = 8


def write_result(reader: pa.RecordBatchReader, format: str, output: Path | None = None) -> int:
    """Write a result to a file, or to standard output; return how many rows it had."""
    if format not in FORMATS:
        raise ValueError(f"format {format!r} is not known; allowed are {', '.join(FORMATS)}")
    if format == "parquet" and output is None:
        raise ValueError("format parquet needs --output FILE")
    if output is None:
        return _TEXT[format](reader, sys.stdout)
    _check_outside_catalogs(output)
    aside = output.with_name(f".{output.name}.{os.getpid()}.tmp")
    try:
        rows = _write_file(reader, format, aside)
        aside.rename(output)
    finally:
        aside.unlink(missing_ok=True)
    return rows


def _write_file(reader: pa.RecordBatchReader, format: str, path: Path) -> int:
    if format == "parquet":
        return _write_parquet(reader, path)
    with path.open("w", encoding="utf-8", newline="") as stream:
        return _TEXT[format](reader, stream)


def _check_outside_catalogs(output: Path) -> None:
    """Refuse a place that belongs to a catalog: its metadata, its data, its jobs."""
    place = output.resolve()
    for folder in place.parents:
        own = place.relative_to(folder).parts[0]
        if (folder / "catalog.sqlite").exists() and own.startswith(("catalog.", "data", "jobs")):
            raise ReadOnlyError(
                f"{output} belongs to the catalog at {folder}; choose another place"
            )


def _write_parquet(reader: pa.RecordBatchReader, output: Path) -> int:
    rows = 0
    with pq.ParquetWriter(output, reader.schema, compression="zstd") as writer:
        for batch in reader:
            writer.write_batch(batch)
            rows += batch.num_rows
    return rows


def _write_csv(reader: pa.RecordBatchReader, stream: TextIO) -> int:
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(reader.schema.names)
    rows = 0
    for batch in reader:
        for row in batch.to_pylist():
            writer.writerow([_plain(value) for value in row.values()])
        rows += batch.num_rows
    return rows


def _write_json(reader: pa.RecordBatchReader, stream: TextIO) -> int:
    rows = 0
    for batch in reader:
        for row in batch.to_pylist():
            stream.write(json.dumps(row, ensure_ascii=False, default=str) + "\n")
        rows += batch.num_rows
    return rows


def _write_table(reader: pa.RecordBatchReader, stream: TextIO) -> int:
    """Write an aligned table of the first rows; East Asian characters take two columns."""
    shown: list[list[str]] = []
    rows = 0
    for batch in reader:
        for row in batch.slice(0, max(0, TABLE_MAX_ROWS - len(shown))).to_pylist():
            shown.append([_cell(value) for value in row.values()])
        rows += batch.num_rows
    names = reader.schema.names
    numeric = [pa.types.is_integer(t) or pa.types.is_floating(t) for t in reader.schema.types]
    widths = _fit([max(map(display_width, column)) for column in zip(names, *shown, strict=True)])
    for line in [names, ["─" * width for width in widths], *shown]:
        cells = [
            pad(cut(cell, width), width, right=right)
            for cell, width, right in zip(line, widths, numeric, strict=True)
        ]
        stream.write("  ".join(cells).rstrip() + "\n")
    rest = f", the first {len(shown)} shown" if len(shown) < rows else ""
    stream.write(f"({rows:,} row{'' if rows == 1 else 's'}{rest})\n")
    return rows


def _fit(widths: list[int]) -> list[int]:
    """Make the widest columns narrower until a row fits on the terminal."""
    room = shutil.get_terminal_size((sys.maxsize, 1)).columns - 2 * (len(widths) - 1)
    limit = CELL_MAX_WIDTH
    while limit > CELL_MIN_WIDTH and sum(min(width, limit) for width in widths) > room:
        limit -= 1
    return [min(width, limit) for width in widths]


def display_width(text: str) -> int:
    """Count the columns of a terminal that a text takes."""
    return sum(
        0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1
        for c in text
    )


def pad(text: str, width: int, *, right: bool = False) -> str:
    """Fill a text with spaces to a display width."""
    space = " " * (width - display_width(text))
    return space + text if right else text + space


def cut(text: str, width: int) -> str:
    """Cut a text to a display width; an ellipsis says that it was longer."""
    if display_width(text) <= width:
        return text
    kept = text[: width - 1]
    while display_width(kept) > width - 1:
        kept = kept[:-1]
    return kept + "…"


def _cell(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return f"{value:.6g}"
    # Control characters of a stored text must not reach the terminal.
    text = str(_plain(value))[: CELL_MAX_WIDTH + 1]
    text = "".join("␤" if c == "\n" else c if c.isprintable() else "�" for c in text)
    return cut(text, CELL_MAX_WIDTH)


def _plain(value: object) -> object:
    if isinstance(value, list):
        return ", ".join(str(item) for item in value)
    return value


_TEXT = {"table": _write_table, "csv": _write_csv, "json": _write_json}
