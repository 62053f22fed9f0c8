"""The formats of an export: which there are, what each can obey, and what it writes."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pyarrow as pa

from catalog.export.files import to_batches, write_hf, write_lines, write_parquet
from catalog.export.negatives import NegativeSettings
from catalog.export.queries import Query, Row
from catalog.export.rows import (
    MINED_PAIRS,
    flagembedding_rows,
    pair_rows,
    triplet,
    tuple_rows,
    tuple_schema,
    without_nulls,
)

FORMATS: Final = ("jsonl", "parquet", "flagembedding", "sentence-transformers", "beir", "hf")


@dataclass(frozen=True)
class ExportSettings:
    """What is exported: a format, its negatives, and whose scores its positives get.

    Without ``negatives`` pairs keep those that came with them. Scores of positives have a place in
    ``flagembedding`` only.
    """

    format: str = "jsonl"
    negatives: NegativeSettings | None = None
    score_model: str | None = None

    def __post_init__(self) -> None:
        format = self.format
        if format not in FORMATS:
            raise ValueError(f"format {format!r} is not known; allowed are {', '.join(FORMATS)}")
        if format == "beir" and self.negatives is not None:
            raise ValueError("format beir holds a corpus to mine from; leave out --negatives")
        if format != "flagembedding" and self.score_model is not None:
            raise ValueError(
                f"format {format} has no place for scores of positives; leave out --score-model, "
                "or choose --format flagembedding"
            )

    @property
    def holds_queries(self) -> bool:
        """Say whether the pairs of a query are gathered, as its negatives must be."""
        return self.format == "flagembedding" or self.negatives is not None

    def check_name(self, path: Path) -> None:
        """Refuse a target whose name promises a file that cannot be made."""
        if self.format == "sentence-transformers" and is_parquet(path) and self.negatives is None:
            raise ValueError(
                f"{path.name}: a Parquet file of tuples has a column for each negative; say how "
                "many with --negatives, or name the file .jsonl"
            )


def is_parquet(path: Path) -> bool:
    """Say whether a file of tuples is to be Parquet."""
    return path.suffix == ".parquet"


def write_pairs(format: str, batches: Iterator[pa.RecordBatch], path: Path) -> int:
    """Write pairs as they came, negatives included; return the number of rows."""
    if format == "sentence-transformers":
        return write_lines(map(triplet, to_rows(batches)), path)
    if format == "jsonl":
        return write_lines(map(without_nulls, to_rows(batches)), path)
    return write_hf(batches, path) if format == "hf" else write_parquet(batches, path)


def write_queries(
    settings: ExportSettings, queries: Iterator[Query], path: Path, counts: Counter[str]
) -> int:
    """Write queries with their negatives; return the number of rows."""
    format, negatives = settings.format, settings.negatives
    if format == "flagembedding":
        return write_lines(flagembedding_rows(queries, counts), path)
    assert negatives is not None  # without them these formats hold pairs as they came
    if format == "sentence-transformers":
        rows = tuple_rows(queries, negatives.n, counts)
        if is_parquet(path):
            return write_parquet(to_batches(rows, tuple_schema(negatives.n)), path)
        return write_lines(rows, path)
    rows = pair_rows(queries)
    if format == "jsonl":
        return write_lines(map(without_nulls, rows), path)
    batches = to_batches(rows, MINED_PAIRS)
    return write_hf(batches, path) if format == "hf" else write_parquet(batches, path)


def to_rows(batches: Iterator[pa.RecordBatch]) -> Iterator[Row]:
    """Take Arrow batches apart into rows."""
    for batch in batches:
        yield from batch.to_pylist()
