"""Parquet, Arrow IPC and Hugging Face data set folders: their batches, in bounded memory."""

import json
import mmap
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from curation.reading.arrow_rows import (
    RAW_MAX_BYTES,
    as_texts,
    broken_columns,
    broken_rows,
    cut,
    gather,
    row_json,
    with_plain_columns,
)
from curation.reading.chunks import ArrowChunk, ChunkSize, numbers
from curation.reading.errors import SourceFileError
from curation.reading.faults import Reject
from curation.reading.objects import ObjectPath
from curation.reading.reach import Reach
from curation.reading.source_path import SourcePath, open_arrow, size_of

FILE_MAGIC = b"ARROW1"
STREAM_MAGIC = b"\xff\xff\xff\xff"
END_OF_STREAM = b"\xff\xff\xff\xff\0\0\0\0"
# What is decoded at once cannot be larger than its row group; of large groups it is few rows.
SMALL_GROUP_BYTES = 256 << 20
FEW_ROWS = 512
WRITE_AGAIN = "write the file again, or leave it out"


def arrow_chunks(
    path: SourcePath,
    format_name: str,
    columns: Collection[str] | None,
    texts: Collection[str],
    chunk: ChunkSize,
    reach: Reach,
) -> Iterator[ArrowChunk]:
    """Yield a file's rows; ``columns`` limits what is read, ``texts`` may be stored as binary."""
    row = 0
    batches = _guarded(path, _batches(path, format_name, columns, chunk, reach), reach)
    pieces = (with_plain_columns(piece) for batch in batches for piece in _few_rows(batch))
    for batch in gather(pieces, chunk.rows, chunk.bytes):
        if len(set(batch.schema.names)) < len(batch.schema.names):
            names = ", ".join(batch.schema.names)
            raise SourceFileError(path, f"has columns of equal names: {names}", "rename them")
        yield _chunk(as_texts(batch, texts), row)
        row += batch.num_rows


def _chunk(batch: pa.RecordBatch, first_row: int) -> ArrowChunk:
    broken = broken_rows(batch)
    rows, rows_read = numbers(first_row, batch.num_rows), batch.num_rows
    rejects = [
        Reject(
            first_row + at,
            f"{', '.join(broken_columns(batch, at))} is not valid UTF-8",
            row_json(batch, at)[:RAW_MAX_BYTES],
        )
        for at in broken
    ]
    if broken:
        whole = np.ones(batch.num_rows, np.bool_)
        whole[broken] = False
        batch, rows = batch.filter(pa.array(whole)), rows[whole]
    return ArrowChunk(batch, rows, rejects, rows_read)


def _few_rows(batch: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
    if not any(pa.types.is_dictionary(kind) for kind in batch.schema.types):
        yield batch
        return
    # A few bytes of indices can stand for many bytes of text.
    for start in range(0, batch.num_rows, FEW_ROWS):
        yield batch.slice(start, FEW_ROWS)


def _guarded(
    path: SourcePath, batches: Iterable[pa.RecordBatch], reach: Reach
) -> Iterator[pa.RecordBatch]:
    try:
        for batch in batches:
            yield batch
            reach.row += batch.num_rows
    except (pa.ArrowException, OSError) as error:
        what = str(error).splitlines()[0][:300]
        raise SourceFileError(path, f"cannot be read: {what}", WRITE_AGAIN, reach.row) from error


def _batches(
    path: SourcePath,
    format_name: str,
    columns: Collection[str] | None,
    chunk: ChunkSize,
    reach: Reach,
) -> Iterator[pa.RecordBatch]:
    if format_name == "parquet":
        yield from _parquet(path, columns, chunk, reach)
        return
    files: Sequence[SourcePath] = [path]
    if isinstance(path, Path) and format_name == "hf-dataset":
        files = dataset_files(path)
    for file in files:
        before = reach.bytes
        for batch, share in _ipc(file, chunk):
            reach.bytes = before + int(share * size_of(file))
            yield batch if columns is None else batch.select(_present(batch.schema, columns))


def _parquet(
    path: SourcePath, columns: Collection[str] | None, chunk: ChunkSize, reach: Reach
) -> Iterator[pa.RecordBatch]:
    size = size_of(path)
    # Pages are read as they are needed: pre-buffering would hold a whole row group.
    with pq.ParquetFile(open_arrow(path), pre_buffer=False, buffer_size=1 << 20) as file:
        wanted = None if columns is None else _present(file.schema_arrow, columns)
        for group in range(file.metadata.num_row_groups):
            rows = min(chunk.rows, _rows_at_once(file.metadata.row_group(group), chunk))
            for batch in file.iter_batches(
                rows, row_groups=[group], columns=wanted, use_threads=False
            ):
                reach.bytes = size * (reach.row + batch.num_rows) // file.metadata.num_rows
                yield batch


def _rows_at_once(group: pq.RowGroupMetaData, chunk: ChunkSize) -> int:
    """Return how many rows of a group are decoded at once; of a small group all could be."""
    if group.total_byte_size <= SMALL_GROUP_BYTES:
        return max(1, int(group.num_rows))
    fitting = chunk.bytes * int(group.num_rows) // int(group.total_byte_size)
    return max(1, min(FEW_ROWS, fitting))


def _ipc(path: SourcePath, chunk: ChunkSize) -> Iterator[tuple[pa.RecordBatch, float]]:
    """Yield batches, each with the share of the file read so far."""
    if isinstance(path, ObjectPath):
        for batch, share in _ipc_batches(open_arrow(path)):
            yield from ((piece, share) for piece in cut(batch, chunk.rows, chunk.bytes))
        return
    with path.open("rb") as stream:
        # Closed with the last batch that lies in it, which may be after this function.
        mapped = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
    for batch, share in _ipc_batches(pa.BufferReader(pa.py_buffer(mapped))):
        for piece in cut(batch, chunk.rows, chunk.bytes):
            yield piece, share
            mapped.madvise(mmap.MADV_DONTNEED)  # give back the pages that were used


def _ipc_batches(source: pa.NativeFile) -> Iterator[tuple[pa.RecordBatch, float]]:
    size = source.size()
    if source.read_at(len(FILE_MAGIC), 0) == FILE_MAGIC:
        file = pa.ipc.open_file(source)
        count = file.num_record_batches
        yield from ((file.get_batch(at), (at + 1) / count) for at in range(count))
        return
    end = source.read_at(len(END_OF_STREAM), max(0, size - len(END_OF_STREAM)))
    if end != END_OF_STREAM:
        raise pa.ArrowInvalid("the stream has no end mark: it is truncated")
    source.seek(0)
    reader = pa.ipc.open_stream(source)
    yield from ((batch, source.tell() / size) for batch in reader)


def _present(schema: pa.Schema, columns: Collection[str]) -> list[str]:
    return [name for name in schema.names if name in columns]


def dataset_files(folder: Path) -> list[Path]:
    """List the Arrow files of a data set that ``save_to_disk`` wrote, in order."""
    state = json.loads((folder / "state.json").read_text(encoding="utf-8"))
    if state.get("_indices_data_files"):
        raise SourceFileError(
            folder,
            "the data set is a selection of rows",
            "call flatten_indices() and save it again",
        )
    files = [folder / entry["filename"] for entry in state.get("_data_files", [])]
    missing = [file.name for file in files if not file.is_file()]
    if missing or not files:
        raise SourceFileError(
            folder,
            f"data files are missing: {', '.join(missing) or 'all'}",
            "save the data set again",
        )
    return files


def dataset_splits(folder: Path) -> list[Path]:
    """List the splits of a Hugging Face data set dictionary, in its order."""
    names = json.loads((folder / "dataset_dict.json").read_text(encoding="utf-8"))["splits"]
    return [folder / name for name in names]
