"""Queries of readers: read-only, at any snapshot, in any of four formats."""

import contextlib
import csv
import json
import re
import sys
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from catalog import duck
from catalog.errors import CatalogError, ReadOnlyError
from catalog.lake import Catalog
from catalog.policy_store import load_policy
from catalog.snapshots import load_snapshot, snapshot_reader
from catalog.views import use_policy

FORMATS = ("table", "csv", "json", "parquet")
TABLE_MAX_ROWS = 100
CELL_MAX_WIDTH = 60
BATCH_ROWS = 10_000
# Everything else changes something, or opens another way in (ATTACH, COPY … TO, CALL, LOAD).
READING = (duckdb.StatementType.SELECT, duckdb.StatementType.EXPLAIN)
TEMPORARY = re.compile(r"\s*create\s+(or\s+replace\s+)?temp(orary)?\s", re.IGNORECASE)


@contextlib.contextmanager
def run_query(
    catalog: Catalog, sql: str, at: str | None = None, policy: str | None = None
) -> Iterator[pa.RecordBatchReader]:
    """Run statements that only read and yield the rows of the last one.

    ``at`` opens the lake as a snapshot sees it; ``policy`` shows the verdicts of a stored policy.
    """
    if at is not None and policy is not None:
        raise ValueError("give a snapshot or a policy, not both: a snapshot has its own policy")
    with contextlib.ExitStack() as stack:
        if at is not None:
            snapshot = load_snapshot(catalog, at)
            connection = stack.enter_context(snapshot_reader(catalog, snapshot))
        else:
            connection = stack.enter_context(catalog.reader())
            if policy is not None:
                use_policy(connection, load_policy(connection, policy))
        yield _run(connection, sql)


def write_result(reader: pa.RecordBatchReader, format: str, output: Path | None = None) -> int:
    """Write a result to a file, or to standard output; return how many rows it had."""
    if format not in FORMATS:
        raise ValueError(f"format {format!r} is not known; allowed are {', '.join(FORMATS)}")
    if format == "parquet":
        if output is None:
            raise ValueError("format parquet needs --output FILE")
        return _write_parquet(reader, output)
    if output is None:
        return _TEXT[format](reader, sys.stdout)
    with output.open("w", encoding="utf-8", newline="") as stream:
        return _TEXT[format](reader, stream)


def _run(connection: duck.Connection, sql: str) -> pa.RecordBatchReader:
    try:
        statements = connection.extract_statements(sql)
    except duckdb.Error as error:
        raise CatalogError(f"cannot read the query: {error}") from error
    if not statements:
        raise CatalogError("the query is empty")
    for statement in statements:
        if statement.type not in READING and not TEMPORARY.match(statement.query):
            raise ReadOnlyError(
                f"lode sql only reads, and {statement.type.name} does not; allowed are SELECT, "
                "EXPLAIN, DESCRIBE, SHOW and CREATE TEMP. To keep a result use --output; to change "
                "the catalog use lode's commands"
            )
    for statement in statements[:-1]:
        connection.execute(statement)
    return connection.execute(statements[-1]).to_arrow_reader(BATCH_ROWS)


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
    widths = [
        max([display_width(name), *(display_width(row[i]) for row in shown)])
        for i, name in enumerate(names)
    ]
    for line in [names, ["─" * width for width in widths], *shown]:
        cells = [
            pad(cell, width, right=right)
            for cell, width, right in zip(line, widths, numeric, strict=True)
        ]
        stream.write("  ".join(cells).rstrip() + "\n")
    rest = f", the first {len(shown)} shown" if len(shown) < rows else ""
    stream.write(f"({rows:,} row{'' if rows == 1 else 's'}{rest})\n")
    return rows


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


def _cell(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float):
        return f"{value:.6g}"
    text = _plain(value)
    # Control characters of a stored text must not reach the terminal.
    text = "".join("␤" if c == "\n" else c if c.isprintable() else "�" for c in str(text))
    if display_width(text) <= CELL_MAX_WIDTH:
        return text
    while display_width(text) > CELL_MAX_WIDTH - 1:
        text = text[: CELL_MAX_WIDTH - 1] if len(text) > CELL_MAX_WIDTH else text[:-1]
    return text + "…"


def _plain(value: object) -> object:
    if isinstance(value, list):
        return ", ".join(str(item) for item in value)
    return value


_TEXT = {"table": _write_table, "csv": _write_csv, "json": _write_json}
