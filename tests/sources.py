"""Tiny source files of every format, and reading them whole."""

import csv
import gzip
import io

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from catalog.schema import PAIRS, QUARANTINE
from curation.reading import SourceSettings, read_pairs

TWO = [{"query": "天空为什么是蓝色的", "positive": "因为散射"}, {"query": "q2", "positive": "p2"}]


def jsonl(*rows):
    return b"".join(orjson.dumps(row) + b"\n" for row in rows)


def pack(content):
    """Compress with gzip, without the time: the bytes are part of a test's name."""
    return gzip.compress(content, mtime=0)


def write(tmp_path, name, content):
    path = tmp_path / name
    path.write_bytes(content)
    return path


def read(path, settings=None, file_id=1, **options):
    """Return all pairs and all quarantined rows as lists of dicts."""
    pairs, quarantine = [], []
    for batch in read_pairs(path, settings or SourceSettings(), file_id, **options):
        assert batch.pairs.schema == PAIRS
        assert batch.quarantine.schema == QUARANTINE
        pairs += batch.pairs.to_pylist()
        quarantine += batch.quarantine.to_pylist()
    return pairs, quarantine


def reasons(quarantine):
    return [(row["row"], row["reason"]) for row in quarantine]


def sides(pairs):
    return [(pair["query"], pair["positive"]) for pair in pairs]


def as_csv(delimiter, line_end="\n"):
    out = io.StringIO()
    writer = csv.DictWriter(
        out, ["query", "positive"], delimiter=delimiter, lineterminator=line_end
    )
    writer.writeheader()
    writer.writerows(TWO)
    return out.getvalue().encode()


def as_parquet(rows=TWO, **options):
    out = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), out, **options)
    return out.getvalue()


def as_arrow(writer_of, rows=TWO, names=("query", "positive"), **options):
    out = io.BytesIO()
    table = pa.Table.from_pylist(rows).rename_columns(list(names))
    with writer_of(out, table.schema) as writer:
        writer.write_table(table, **options)
    return out.getvalue()
