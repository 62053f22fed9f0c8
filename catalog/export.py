"""Exports: a snapshot's kept pairs in the formats of other tools."""

import itertools
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import zstandard

from catalog import duck
from catalog.errors import CatalogError
from catalog.lake import Catalog
from catalog.records import now, write_json
from catalog.snapshots import Snapshot, snapshot_reader

FORMATS = ("jsonl", "parquet", "flagembedding", "sentence-transformers", "hf")
BATCH_ROWS = 10_000
SHARD_ROWS = 500_000
Progress = Callable[[str, int], None]

PAIRS_SQL = """
select pair_id, source, form, task, query, positive, negatives, label, url
from curated where query is not null order by pair_id
"""
# The pairs of a query stand together; a sort spills to disk where lists of texts would not.
QUERIES_SQL = """
select coalesce(t.query_id, c.pair_id) as query_id, c.query, c.positive, c.negatives, c.meta
from curated c left join text_ids t using (pair_id)
where c.query is not null order by query_id, c.pair_id
"""


def export_pairs(
    catalog: Catalog,
    snapshot: Snapshot,
    path: Path,
    format: str,
    *,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> int:
    """Write a snapshot's kept pairs, in the order of their ids, and how they were made beside them.

    Return the number of rows written: pairs, or queries for ``flagembedding``. The target appears
    whole or not at all.
    """
    if format not in FORMATS:
        raise ValueError(f"format {format!r} is not known; allowed are {', '.join(FORMATS)}")
    if path.exists() and not overwrite:
        raise CatalogError(f"{path} exists; choose another name, or --overwrite")
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.tmp")
    _remove(aside)
    try:
        with snapshot_reader(catalog, snapshot) as connection:
            rows = _WRITERS[format](_batches(connection, format, progress), aside)
            licenses = connection.execute(
                "select distinct source, license from sources order by source, license"
            ).fetchall()
    except BaseException:
        _remove(aside)
        raise
    _remove(path)
    aside.rename(path)
    made = {
        "snapshot": snapshot.name,
        "digest": snapshot.digest,
        "policy": f"{snapshot.policy.name} version {snapshot.policy_version}",
        "format": format,
        "rows": rows,
        "licenses": {source: license or "not stated" for source, license in licenses},
        "written_at": now().isoformat(),
    }
    write_json(path.with_name(path.name + ".lode.json"), made)
    return rows


def _batches(
    connection: duck.Connection, format: str, progress: Progress | None
) -> Iterator[pa.RecordBatch]:
    sql = QUERIES_SQL if format == "flagembedding" else PAIRS_SQL
    connection.execute("set preserve_insertion_order = true")
    done = 0
    for batch in connection.execute(sql).to_arrow_reader(BATCH_ROWS):
        yield batch
        done += batch.num_rows
        if progress is not None:
            progress("export", done)


def _write_jsonl(batches: Iterator[pa.RecordBatch], path: Path) -> int:
    return _write_lines((_without_nulls(row) for row in _rows(batches)), path)


def _write_flagembedding(batches: Iterator[pa.RecordBatch], path: Path) -> int:
    return _write_lines(_flagembedding_rows(_rows(batches)), path)


def _write_sentence_transformers(batches: Iterator[pa.RecordBatch], path: Path) -> int:
    return _write_lines(map(_triplet, _rows(batches)), path)


def _write_parquet(batches: Iterator[pa.RecordBatch], path: Path) -> int:
    rows = 0
    writer = None
    for batch in batches:
        writer = writer or pq.ParquetWriter(path, batch.schema, compression="zstd")
        writer.write_batch(batch)
        rows += batch.num_rows
    if writer is None:
        raise CatalogError("the snapshot keeps no pair: there is nothing to export")
    writer.close()
    return rows


def _write_hf(batches: Iterator[pa.RecordBatch], path: Path) -> int:
    """Write the folder that ``datasets.load_from_disk`` opens, without importing datasets."""
    path.mkdir()
    shards: list[Path] = []
    rows, shard_rows = 0, 0
    writer: pa.RecordBatchStreamWriter | None = None
    schema = None
    for batch in batches:
        if writer is None or shard_rows >= SHARD_ROWS:
            if writer is not None:
                writer.close()
            schema = batch.schema
            shards.append(path / f"shard-{len(shards):05d}.arrow")
            writer, shard_rows = pa.ipc.new_stream(str(shards[-1]), schema), 0
        writer.write_batch(batch)
        rows += batch.num_rows
        shard_rows += batch.num_rows
    if writer is None or schema is None:
        raise CatalogError("the snapshot keeps no pair: there is nothing to export")
    writer.close()
    names = [f"data-{i:05d}-of-{len(shards):05d}.arrow" for i in range(len(shards))]
    for shard, name in zip(shards, names, strict=True):
        shard.rename(path / name)
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
    return rows


def _feature(kind: pa.DataType) -> dict[str, object]:
    if pa.types.is_list(kind):
        return {"feature": _feature(kind.value_type), "_type": "List"}
    names = {pa.int64(): "int64", pa.float64(): "float64", pa.string(): "string"}
    return {"dtype": names[kind], "_type": "Value"}


def _rows(batches: Iterator[pa.RecordBatch]) -> Iterator[dict[str, object]]:
    for batch in batches:
        yield from batch.to_pylist()


def _without_nulls(row: dict[str, object]) -> dict[str, object]:
    return {name: value for name, value in row.items() if value is not None}


def _flagembedding_rows(rows: Iterator[dict[str, object]]) -> Iterator[dict[str, object]]:
    """Gather a query's positives in the order of their pairs; what is positive is no negative."""
    for _, group in itertools.groupby(rows, key=lambda row: row["query_id"]):
        pairs = list(group)
        positives = dict.fromkeys(pair["positive"] for pair in pairs)
        negatives: dict[object, None] = {}
        for pair in pairs:
            given = pair["negatives"]
            if isinstance(given, list):
                negatives |= dict.fromkeys(text for text in given if text not in positives)
        meta = pairs[0]["meta"]
        kept = orjson.loads(meta) if isinstance(meta, str) else {}
        known = {name: kept[name] for name in ("prompt", "type") if name in kept}
        yield {"query": pairs[0]["query"], "pos": list(positives), "neg": list(negatives), **known}


def _triplet(row: dict[str, object]) -> dict[str, object]:
    """Write anchor and positive, the negatives as columns, and the score of a labelled pair."""
    made: dict[str, object] = {"anchor": row["query"], "positive": row["positive"]}
    negatives = row["negatives"]
    if isinstance(negatives, list):
        names = ["negative"] if len(negatives) == 1 else [
            f"negative_{number}" for number in range(1, len(negatives) + 1)
        ]  # fmt: skip
        made |= dict(zip(names, negatives, strict=True))
    if row["label"] is not None:
        made["score"] = row["label"]
    return made


def _write_lines(rows: Iterator[dict[str, object]], path: Path) -> int:
    # The name to write aside is .NAME.tmp: the suffix before it says whether to compress.
    compress = path.name.removesuffix(".tmp").endswith(".zst")
    count = 0
    with path.open("wb") as stream:
        target = zstandard.ZstdCompressor().stream_writer(stream) if compress else stream
        for row in rows:
            target.write(orjson.dumps(row) + b"\n")
            count += 1
        if compress:
            target.close()
    return count


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


_WRITERS: dict[str, Callable[[Iterator[pa.RecordBatch], Path], int]] = {
    "jsonl": _write_jsonl,
    "parquet": _write_parquet,
    "flagembedding": _write_flagembedding,
    "sentence-transformers": _write_sentence_transformers,
    "hf": _write_hf,
}
