"""Rows of Arrow batches: cut and joined to a size, checked for broken UTF-8, written as JSON."""

from collections.abc import Iterable, Iterator
from typing import Any, Final

import orjson
import pyarrow as pa

RAW_MAX_BYTES: Final = 64 << 10
_VIEWS: Final = {pa.string_view(): pa.large_string(), pa.binary_view(): pa.large_binary()}


def is_text(kind: pa.DataType) -> bool:
    """Say whether a plain column holds texts."""
    return kind in (pa.string(), pa.large_string())


def row_json(batch: pa.RecordBatch, index: int) -> bytes:
    """Write an Arrow row as JSON; broken UTF-8 is kept byte for byte."""
    parts = []
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        parts.append(orjson.dumps(name) + b":" + _json_bytes(column.slice(index, 1)))
        if sum(map(len, parts)) > RAW_MAX_BYTES:
            break
    return b"{" + b",".join(parts) + b"}"


def _json_bytes(cell: pa.Array) -> bytes:
    if is_text(cell.type):
        raw = cell.cast(pa.large_string(), safe=False).view(pa.large_binary())[0].as_py()
        return b"null" if raw is None else _quoted(raw)
    try:
        return orjson.dumps(cell[0].as_py(), default=plain)
    except (UnicodeDecodeError, TypeError, orjson.JSONEncodeError):
        return _quoted(repr(cell).encode("utf-8", "replace"))


def _quoted(raw: bytes) -> bytes:
    try:
        return orjson.dumps(raw.decode())
    except UnicodeDecodeError:
        return b'"' + raw.replace(b"\\", b"\\\\").replace(b'"', b'\\"') + b'"'


def plain(value: Any) -> Any:
    """Turn what JSON has no word for into text."""
    return value.decode("utf-8", "backslashreplace") if isinstance(value, bytes) else str(value)


def gather(
    batches: Iterable[pa.RecordBatch], max_rows: int, max_bytes: int
) -> Iterator[pa.RecordBatch]:
    """Cut and join batches to at most ``max_rows`` rows of about ``max_bytes``."""
    pending: list[pa.RecordBatch] = []
    rows = size = 0
    for batch in batches:
        for piece in cut(batch, max_rows, max_bytes):
            if pending and (rows + piece.num_rows > max_rows or size + piece.nbytes > max_bytes):
                yield _join(pending)
                pending, rows, size = [], 0, 0
            pending.append(piece)
            rows, size = rows + piece.num_rows, size + piece.nbytes
    if pending:
        yield _join(pending)


def cut(batch: pa.RecordBatch, max_rows: int, max_bytes: int) -> Iterator[pa.RecordBatch]:
    """Halve a batch until each piece fits; a single row always does."""
    if batch.num_rows <= max_rows and (batch.num_rows <= 1 or batch.nbytes <= max_bytes):
        if batch.num_rows:
            yield batch
        return
    half = batch.num_rows // 2
    yield from cut(batch.slice(0, half), max_rows, max_bytes)
    yield from cut(batch.slice(half), max_rows, max_bytes)


def _join(pieces: list[pa.RecordBatch]) -> pa.RecordBatch:
    if len(pieces) == 1:
        return pieces[0]
    return pa.concat_batches(pieces)


def as_texts(batch: pa.RecordBatch, columns: Iterable[str]) -> pa.RecordBatch:
    """See binary columns as texts: Parquet of old writers does not say which bytes are UTF-8."""
    for name in columns:
        at = batch.schema.get_field_index(name)
        kind = batch.schema.types[at] if at >= 0 else None
        if kind == pa.binary() or kind == pa.large_binary():
            text = pa.string() if kind == pa.binary() else pa.large_string()
            batch = batch.set_column(at, name, batch.column(at).view(text))
    return batch


def broken_rows(batch: pa.RecordBatch) -> list[int]:
    """Find the rows that hold broken UTF-8, by halving what does not validate."""
    if _is_valid(batch):
        return []
    if batch.num_rows == 1:
        return [0]
    half = batch.num_rows // 2
    return broken_rows(batch.slice(0, half)) + [
        half + row for row in broken_rows(batch.slice(half))
    ]


def broken_columns(batch: pa.RecordBatch, row: int) -> list[str]:
    """Name the columns of a row that hold broken UTF-8."""
    cells = batch.slice(row, 1)
    return [name for name in cells.schema.names if not _is_valid(cells.select([name]))]


def _is_valid(batch: pa.RecordBatch) -> bool:
    try:
        batch.validate(full=True)
    except pa.ArrowInvalid:
        return False
    return True


def with_plain_columns(batch: pa.RecordBatch) -> pa.RecordBatch:
    """Replace dictionaries and views, for which Arrow lacks functions, by plain columns."""
    for at, column in enumerate(batch.columns):
        if pa.types.is_dictionary(column.type):
            column = column.dictionary_decode()
        elif column.type in _VIEWS:
            column = column.cast(_VIEWS[column.type])
        else:
            continue
        batch = batch.set_column(at, batch.schema.names[at], column)
    return batch
