"""Files of an export: lines of JSON, Parquet, and the folder that datasets opens."""

import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import zstandard

from catalog.errors import CatalogError
from catalog.export.queries import Row

BATCH_ROWS: Final = 10_000
SHARD_ROWS: Final = 500_000
NOTHING: Final = "there is no pair to export: the snapshot keeps none that this format can hold"
_DTYPES: Final = {
    pa.int64(): "int64", pa.float32(): "float32", pa.float64(): "float64", pa.string(): "string",
}  # fmt: skip


def write_lines(rows: Iterator[Row], path: Path) -> int:
    """Write rows as JSON lines, compressed where the file is named .zst; return how many."""
    count = 0
    with path.open("wb") as stream:
        compress = path.name.endswith(".zst")
        target = zstandard.ZstdCompressor().stream_writer(stream) if compress else stream
        for row in rows:
            target.write(orjson.dumps(row) + b"\n")
            count += 1
        if compress:
            target.close()
    return count


def to_batches(rows: Iterator[Row], schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    """Gather rows into Arrow batches."""
    while block := list(itertools.islice(rows, BATCH_ROWS)):
        yield pa.RecordBatch.from_pylist(block, schema)


def write_parquet(batches: Iterator[pa.RecordBatch], path: Path) -> int:
    """Write batches as one Parquet file; return the number of rows."""
    first, batches = _peek(batches)
    rows = 0
    with pq.ParquetWriter(path, first.schema, compression="zstd") as writer:
        for batch in batches:
            writer.write_batch(batch)
            rows += batch.num_rows
    return rows


def write_hf(batches: Iterator[pa.RecordBatch], path: Path) -> int:
    """Write the folder that ``datasets.load_from_disk`` opens, without importing datasets."""
    first, batches = _peek(batches)
    path.mkdir()
    shards: list[Path] = []
    rows, shard_rows = 0, 0
    writer: pa.RecordBatchStreamWriter | None = None
    for batch in batches:
        if writer is None or shard_rows >= SHARD_ROWS:
            if writer is not None:
                writer.close()
            shards.append(path / f"shard-{len(shards):05d}.arrow")
            writer, shard_rows = pa.ipc.new_stream(str(shards[-1]), first.schema), 0
        writer.write_batch(batch)
        rows += batch.num_rows
        shard_rows += batch.num_rows
    assert writer is not None  # there is a first batch
    writer.close()
    names = [f"data-{i:05d}-of-{len(shards):05d}.arrow" for i in range(len(shards))]
    for shard, name in zip(shards, names, strict=True):
        shard.rename(path / name)
    _describe(path, first.schema, names)
    return rows


def _peek(batches: Iterator[pa.RecordBatch]) -> tuple[pa.RecordBatch, Iterator[pa.RecordBatch]]:
    """Look at the first batch, as files of columns have a schema; refuse when there is none."""
    first = next(batches, None)
    if first is None:
        raise CatalogError(NOTHING)
    return first, itertools.chain([first], batches)


def _describe(path: Path, schema: pa.Schema, names: list[str]) -> None:
    features = {field.name: _feature(field.type) for field in schema}
    state: dict[str, object] = {
        "_data_files": [{"filename": name} for name in names],
        "_fingerprint": "lode",
        "_format_columns": None,
        "_format_kwargs": {},
        "_format_type": None,
        "_output_all_columns": False,
        "_split": None,
    }
    (path / "dataset_info.json").write_text(json.dumps({"features": features}), encoding="utf-8")
    (path / "state.json").write_text(json.dumps(state), encoding="utf-8")


def _feature(kind: pa.DataType) -> dict[str, object]:
    if pa.types.is_list(kind):
        return {"feature": _feature(kind.value_type), "_type": "List"}
    return {"dtype": _DTYPES[kind], "_type": "Value"}
