"""The tables of the catalog and their Arrow schemas: one place, read by every writer.

A table's meaning never changes; a column may be added. Raise ``SCHEMA_VERSION`` with every change
and add the migration in ``catalog/migrations.py``.
"""

from typing import Final

import pyarrow as pa

SCHEMA_VERSION: Final = 7

# A pair's id is file number x 2^32 + ordinal of the pair in that file: sorted, reproducible and 63
# bits long.
FILE_SHIFT: Final = 32

FORMS: Final = ("title-content", "question-answer", "input-output", "prompt-response", "text-text")
TASKS: Final = ("retrieval", "sts", "classification")

PAIRS: Final = pa.schema(
    [
        pa.field("pair_id", pa.int64(), nullable=False),
        pa.field("source", pa.string(), nullable=False),
        pa.field("form", pa.string(), nullable=False),
        pa.field("task", pa.string(), nullable=False),
        pa.field("query", pa.string()),  # null: a passage that is nobody's positive
        pa.field("positive", pa.string(), nullable=False),
        pa.field("negatives", pa.list_(pa.string())),
        pa.field("label", pa.float64()),
        pa.field("url", pa.string()),
        pa.field("meta", pa.string()),  # JSON object with the source's other fields
        pa.field("file_row", pa.int64(), nullable=False),  # 0-based row of the source file
        pa.field("query_key", pa.uuid()),  # 128-bit xxh3 of the normalised text
        pa.field("positive_key", pa.uuid(), nullable=False),
        pa.field("pair_key", pa.uuid()),
        # Put before this row's query in place of the task's or the model's; part of query_key.
        pa.field("instruction", pa.string()),
    ]
)

QUARANTINE: Final = pa.schema(
    [
        pa.field("file_id", pa.int64(), nullable=False),
        pa.field("row", pa.int64(), nullable=False),
        pa.field("reason", pa.string(), nullable=False),
        pa.field("raw", pa.binary()),  # the row as it was read, cut at RAW_MAX_BYTES
    ]
)

# Room for any sensible split of permutations into bands; columns that are not used stay null and
# cost nothing in Parquet.
MAX_BANDS: Final = 32

BAND_KEYS: Final = pa.schema(
    [pa.field("pair_id", pa.int64(), nullable=False)]
    + [pa.field(f"b{band:02d}", pa.uint64()) for band in range(MAX_BANDS)]
)

# A text's id is the smallest pair_id that holds the same normalised text on that side.
TEXT_IDS: Final = pa.schema(
    [
        pa.field("pair_id", pa.int64(), nullable=False),
        pa.field("query_id", pa.int64()),
        pa.field("passage_id", pa.int64(), nullable=False),
    ]
)

# Compared passages by their ids, a_id < b_id; kind says what proposed the pair: band or neighbor.
DUPLICATE_EDGES: Final = pa.schema(
    [
        pa.field("kind", pa.string(), nullable=False),
        pa.field("a_id", pa.int64(), nullable=False),
        pa.field("b_id", pa.int64(), nullable=False),
        pa.field("jaccard", pa.float32(), nullable=False),
    ]
)

DUPLICATES: Final = pa.schema(
    [
        pa.field("pair_id", pa.int64(), nullable=False),
        pa.field("kind", pa.string(), nullable=False),  # exact | near
        pa.field("cluster_id", pa.int64(), nullable=False),  # smallest text_id of the cluster
        # What was compared: the pair itself (exact: its pair_key's smallest pair_id would hide the
        # row, so it is pair_id), or its passage_id (near: pairs of one passage share a text_id).
        pa.field("text_id", pa.int64(), nullable=False),
        pa.field("matched_id", pa.int64(), nullable=False),  # text_id of the best match
        pa.field("jaccard", pa.float32(), nullable=False),  # with matched_id; 1 for exact
        pa.field("cluster_size", pa.int64(), nullable=False),  # distinct text_ids
        pa.field("template", pa.bool_(), nullable=False),  # huge cluster: texts from one template
        pa.field("survivor", pa.bool_(), nullable=False),  # the first; a policy can choose another
    ]
)

# Columns of these tables are written by Lode itself in SQL.
SOURCES: Final = pa.schema(
    [
        pa.field("source", pa.string(), nullable=False),
        pa.field("form", pa.string()),
        pa.field("task", pa.string()),
        pa.field("language", pa.string()),
        pa.field("license", pa.string()),
        pa.field("path", pa.string()),
        pa.field("fields", pa.string()),  # JSON: how columns were mapped
    ]
)

FILES: Final = pa.schema(
    [
        pa.field("file_id", pa.int64(), nullable=False),
        pa.field("source", pa.string(), nullable=False),
        pa.field("path", pa.string(), nullable=False),
        pa.field("size", pa.int64(), nullable=False),
        pa.field("sha256", pa.string(), nullable=False),
        pa.field("rows", pa.int64(), nullable=False),  # pairs and passages written
        pa.field("quarantined", pa.int64(), nullable=False),
    ]
)

FILE_NUMBERS: Final = pa.schema(
    [
        pa.field("file_id", pa.int64(), nullable=False),
        pa.field("path", pa.string(), nullable=False),
        pa.field("sha256", pa.string(), nullable=False),
        pa.field("job", pa.string(), nullable=False),
    ]
)

COUNTERS: Final = pa.schema(
    [
        pa.field("counter", pa.string(), nullable=False),
        pa.field("value", pa.int64(), nullable=False),
    ]
)

SIGNAL_COLUMNS: Final = pa.schema(
    [
        pa.field("signal", pa.string(), nullable=False),
        pa.field("version", pa.string(), nullable=False),
        pa.field("table_name", pa.string(), nullable=False),
        pa.field("position", pa.int64(), nullable=False),
    ]
)

SCORES: Final = pa.schema(
    [
        pa.field("pair_id", pa.int64(), nullable=False),
        pa.field("model", pa.string(), nullable=False),
        pa.field("revision", pa.string(), nullable=False),
        pa.field("score", pa.float32(), nullable=False),
    ]
)

# One row per query and mining run; the lists are parallel, in the order of the ranks.
CANDIDATES: Final = pa.schema(
    [
        pa.field("query_id", pa.int64(), nullable=False),
        pa.field("run", pa.string(), nullable=False),  # run_id of the job that mined it
        pa.field("passage_ids", pa.list_(pa.int64()), nullable=False),
        pa.field("scores", pa.list_(pa.float32()), nullable=False),
        pa.field("filtered_by", pa.list_(pa.uint8()), nullable=False),  # sum of reasons; 0: kept
        pa.field("positive_score", pa.float32()),  # the lowest; null: the query has no positive
    ]
)

POLICIES: Final = pa.schema(
    [
        pa.field("policy", pa.string(), nullable=False),
        pa.field("version", pa.int64(), nullable=False),
        pa.field("document", pa.string(), nullable=False),  # JSON
        pa.field("digest", pa.string(), nullable=False),
        pa.field("created_at", pa.timestamp("us", tz="UTC"), nullable=False),
    ]
)

SNAPSHOTS: Final = pa.schema(
    [
        pa.field("snapshot", pa.string(), nullable=False),
        pa.field("lake_version", pa.int64(), nullable=False),
        pa.field("policy", pa.string(), nullable=False),
        pa.field("policy_version", pa.int64(), nullable=False),
        pa.field("policy_document", pa.string(), nullable=False),
        pa.field("pairs", pa.int64(), nullable=False),
        pa.field("kept", pa.int64(), nullable=False),
        pa.field("digest", pa.string(), nullable=False),
        pa.field("parents", pa.list_(pa.string())),
        pa.field("created_at", pa.timestamp("us", tz="UTC"), nullable=False),
    ]
)

RUNS: Final = pa.schema(
    [
        pa.field("run_id", pa.string(), nullable=False),
        pa.field("kind", pa.string(), nullable=False),
        pa.field("recipe", pa.string()),
        pa.field("settings", pa.string(), nullable=False),  # JSON, resolved
        pa.field("parents", pa.list_(pa.string())),
        pa.field("code_version", pa.string(), nullable=False),
        pa.field("started_at", pa.timestamp("us", tz="UTC"), nullable=False),
        pa.field("finished_at", pa.timestamp("us", tz="UTC"), nullable=False),
        pa.field("status", pa.string(), nullable=False),
        pa.field("tasks", pa.int64(), nullable=False),
    ]
)

# What training decided, pair by pair (trainer/train_events.py).
TRAIN_EVENTS: Final = pa.schema(
    [
        pa.field("run", pa.string(), nullable=False),
        pa.field("step", pa.int64(), nullable=False),
        pa.field("pair_id", pa.int64(), nullable=False),  # refreshed: a pair with the query
        pa.field("query_id", pa.int64(), nullable=False),
        pa.field("window", pa.int32(), nullable=False),  # after the decision; counted from 1
        pa.field("rank", pa.int32()),  # place from 0 of what came in first; null: nothing came
        pa.field("s0", pa.float32()),  # score when the negatives came in; null: not seen
        pa.field("s", pa.float32()),  # score that decided; null: not seen
        # replaced, exhausted, too_close, excluded, pair_excluded or refreshed
        pa.field("reason", pa.string(), nullable=False),
    ]
)

METRICS: Final = pa.schema(
    [
        pa.field("run", pa.string(), nullable=False),
        pa.field("step", pa.int64(), nullable=False),  # steps done
        pa.field("metric", pa.string(), nullable=False),  # such as loss/retrieval
        pa.field("value", pa.float64(), nullable=False),
    ]
)

EVALUATIONS: Final = pa.schema(
    [
        pa.field("run", pa.string()),  # the training run; null: a model from elsewhere
        pa.field("model", pa.string(), nullable=False),
        pa.field("revision", pa.string(), nullable=False),
        pa.field("task", pa.string(), nullable=False),
        pa.field("metric", pa.string(), nullable=False),
        pa.field("value", pa.float64(), nullable=False),
        pa.field("is_main", pa.bool_(), nullable=False),  # the metric that stands for the task
        pa.field("samples", pa.int64(), nullable=False),
        pa.field("created_at", pa.timestamp("us", tz="UTC"), nullable=False),
    ]
)

# Texts of evaluation sets that pairs hold (curation/decontaminate.py): a pair can hold several.
CONTAMINATION: Final = pa.schema(
    [
        pa.field("pair_id", pa.int64(), nullable=False),
        pa.field("side", pa.string(), nullable=False),  # query or passage
        pa.field("set", pa.string(), nullable=False),
        pa.field("place", pa.string(), nullable=False),  # in the set: sentence1:3, corpus:17
        pa.field("kind", pa.string(), nullable=False),  # exact (equal keys) or near
        pa.field("jaccard", pa.float32(), nullable=False),  # of character 3-grams; 1: exact
    ]
)

# With which files a set, as its digest says it was, has been compared.
CONTAMINATION_FILES: Final = pa.schema(
    [
        pa.field("set", pa.string(), nullable=False),
        pa.field("digest", pa.string(), nullable=False),
        pa.field("file_id", pa.int64(), nullable=False),
    ]
)

# What a language model was asked and what came of it (curation/synthesis/).
SYNTHESIS_REQUESTS: Final = pa.schema(
    [
        pa.field("run", pa.string(), nullable=False),  # its pairs: source is synthetic:<run>
        pa.field("request", pa.int64(), nullable=False),  # place of the seed in the order drawn
        pa.field("seed_id", pa.int64(), nullable=False),  # pair_id that holds the seed's passage
        pa.field("model", pa.string(), nullable=False),
        pa.field("prompt", pa.string(), nullable=False),
        pa.field("prompt_digest", pa.string(), nullable=False),
        pa.field("slots", pa.string(), nullable=False),  # JSON: the choice drawn for each slot
        pa.field("requests", pa.int32(), nullable=False),  # HTTP requests, repeated ones included
        pa.field("answers", pa.int32(), nullable=False),  # how many answers came
        pa.field("pairs", pa.int32(), nullable=False),
        pa.field("reason", pa.string()),  # why there is no pair; null: there is one
        pa.field("prompt_tokens", pa.int64()),  # of the newest answer, as the server counts
        pa.field("completion_tokens", pa.int64()),
    ]
)

# What a language model said of a pair, or of a pair's passage (curation/judge.py). Grades are in
# scores too; a row without a choice is asked about again.
JUDGMENTS: Final = pa.schema(
    [
        pa.field("run", pa.string(), nullable=False),
        pa.field("pair_id", pa.int64(), nullable=False),
        pa.field("name", pa.string(), nullable=False),  # for grades the model's name in scores
        pa.field("model", pa.string(), nullable=False),
        pa.field("prompt", pa.string(), nullable=False),
        pa.field("prompt_digest", pa.string(), nullable=False),
        pa.field("choice", pa.string()),  # null: no usable answer
        pa.field("why", pa.string()),  # the model's reason
        pa.field("reason", pa.string()),  # why there is no choice
        pa.field("requests", pa.int32(), nullable=False),  # HTTP requests, repeated ones included
        pa.field("prompt_tokens", pa.int64()),  # of the newest answer, as the server counts
        pa.field("completion_tokens", pa.int64()),
    ]
)

# What a job registered, with checksums: DuckLake keeps none.
TASK_FILES: Final = pa.schema(
    [
        pa.field("run_id", pa.string(), nullable=False),
        pa.field("task", pa.int64(), nullable=False),
        pa.field("table_name", pa.string(), nullable=False),
        pa.field("path", pa.string(), nullable=False),  # relative to the catalog's data
        pa.field("rows", pa.int64(), nullable=False),
        pa.field("bytes", pa.int64(), nullable=False),
        pa.field("xxh3", pa.string(), nullable=False),  # 128-bit, hexadecimal
    ]
)

TABLES: Final[dict[str, pa.Schema]] = {
    "sources": SOURCES,
    "files": FILES,
    "file_numbers": FILE_NUMBERS,
    "counters": COUNTERS,
    "pairs": PAIRS,
    "quarantine": QUARANTINE,
    "signal_columns": SIGNAL_COLUMNS,
    "band_keys": BAND_KEYS,
    "text_ids": TEXT_IDS,
    "duplicate_edges": DUPLICATE_EDGES,
    "duplicates": DUPLICATES,
    "scores": SCORES,
    "candidates": CANDIDATES,
    "train_events": TRAIN_EVENTS,
    "metrics": METRICS,
    "evaluations": EVALUATIONS,
    "contamination": CONTAMINATION,
    "contamination_files": CONTAMINATION_FILES,
    "synthesis_requests": SYNTHESIS_REQUESTS,
    "judgments": JUDGMENTS,
    "policies": POLICIES,
    "snapshots": SNAPSHOTS,
    "runs": RUNS,
    "task_files": TASK_FILES,
}

_SQL_TYPES: Final = {
    pa.string(): "varchar",
    pa.binary(): "blob",
    pa.bool_(): "boolean",
    pa.int8(): "tinyint",
    pa.int16(): "smallint",
    pa.int32(): "integer",
    pa.int64(): "bigint",
    pa.uint8(): "utinyint",
    pa.uint16(): "usmallint",
    pa.uint32(): "uinteger",
    pa.uint64(): "ubigint",
    pa.float32(): "float",
    pa.float64(): "double",
    pa.uuid(): "uuid",
    pa.timestamp("us", tz="UTC"): "timestamptz",
}


def sql_type(arrow_type: pa.DataType) -> str:
    """Name the DuckDB type of an Arrow type that the catalog uses."""
    if pa.types.is_list(arrow_type):
        return sql_type(arrow_type.value_type) + "[]"
    if arrow_type not in _SQL_TYPES:
        raise ValueError(f"the catalog has no column type for {arrow_type}")
    return _SQL_TYPES[arrow_type]


def create_table_sql(name: str, schema: pa.Schema) -> str:
    """Write the CREATE TABLE statement of a schema."""
    columns = ",\n  ".join(
        f'"{field.name}" {sql_type(field.type)}{"" if field.nullable else " not null"}'
        for field in schema
    )
    return f'create table "{name}" (\n  {columns}\n)'
