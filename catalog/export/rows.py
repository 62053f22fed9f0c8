"""Rows of an export: what a query becomes in each format."""

from collections import Counter
from collections.abc import Iterator
from typing import Final

import orjson
import pyarrow as pa

from catalog.export.queries import Query, Row

PAIR_COLUMNS: Final = (
    "pair_id", "source", "form", "task", "query", "positive", "negatives", "label", "url",
    "instruction",
)  # fmt: skip
# Fields of FlagEmbedding's lines that a source may bring along.
LINE_FIELDS: Final = ("prompt", "type")

MINED_PAIRS: Final = pa.schema(
    [
        pa.field("pair_id", pa.int64()),
        pa.field("source", pa.string()),
        pa.field("form", pa.string()),
        pa.field("task", pa.string()),
        pa.field("query", pa.string()),
        pa.field("positive", pa.string()),
        pa.field("negatives", pa.list_(pa.string())),
        pa.field("label", pa.float64()),
        pa.field("url", pa.string()),
        pa.field("instruction", pa.string()),  # null: the query has none of its own
        pa.field("negative_scores", pa.list_(pa.float32())),  # null: it came with the pair
    ]
)


def flagembedding_rows(queries: Iterator[Query], counts: Counter[str]) -> Iterator[Row]:
    """Write a line a query: query, pos, neg, and prompt, type and scores where they are known.

    A trainer that distills wants a score of every text, so a list of scores is whole or absent.
    """
    for query in queries:
        if not query.positives:
            counts["without_positive"] += 1
            continue
        positives: dict[str, float | None] = {}
        for pair in query.positives:
            positives.setdefault(pair["positive"], pair["score"])
        negatives = query.negatives
        line = {
            "query": query.positives[0]["query"],
            "pos": list(positives),
            "neg": [negative.text for negative in negatives],
        }
        line |= _scores("pos_scores", list(positives.values()))
        line |= _scores("neg_scores", [negative.score for negative in negatives])
        for name in ("pos_scores", "neg_scores"):
            counts[f"with_{name}"] += name in line
        instruction = query.positives[0]["instruction"]
        line |= _line_fields(query.positives[0]["meta"])
        yield line | ({} if instruction is None else {"prompt": instruction})


def tuple_rows(queries: Iterator[Query], n: int, counts: Counter[str]) -> Iterator[Row]:
    """Write a row a pair: anchor, positive and n negatives, each a column of its own.

    Sentence-transformers takes no gaps: a query with fewer is left out.
    """
    names = negative_names(n)
    for query in queries:
        if not query.positives:
            counts["without_positive"] += 1
        elif len(query.negatives) < n:
            counts["pairs_left_out"] += len(query.positives)
        else:
            texts = [negative.text for negative in query.negatives]
            for pair in query.positives:
                yield {"anchor": pair["query"], "positive": pair["positive"]} | dict(
                    zip(names, texts, strict=True)
                )


def pair_rows(queries: Iterator[Query]) -> Iterator[Row]:
    """Write the pairs of each query as they are, with the negatives that it gets."""
    for query in queries:
        negatives = {
            "negatives": [negative.text for negative in query.negatives],
            "negative_scores": [negative.score for negative in query.negatives],
        }
        for pair in query.pairs:
            yield {name: pair[name] for name in PAIR_COLUMNS} | negatives


def triplet(pair: Row) -> Row:
    """Write anchor and positive, the negatives as columns, and the score of a labelled pair."""
    made: Row = {"anchor": pair["query"], "positive": pair["positive"]}
    texts = pair["negatives"] or []
    made |= dict(zip(negative_names(len(texts)), texts, strict=True))
    if pair["label"] is not None:
        made["score"] = pair["label"]
    return made


def negative_names(n: int) -> list[str]:
    """Name the columns of n negatives."""
    return ["negative"] if n == 1 else [f"negative_{number}" for number in range(1, n + 1)]


def tuple_schema(n: int) -> pa.Schema:
    """Return the columns of ``tuple_rows``."""
    return pa.schema(
        [pa.field(name, pa.string()) for name in ("anchor", "positive", *negative_names(n))]
    )


def without_nulls(row: Row) -> Row:
    """Leave out what a row has no value for."""
    return {name: value for name, value in row.items() if value is not None}


def _scores(name: str, scores: list[float | None]) -> Row:
    return {} if not scores or None in scores else {name: scores}


def _line_fields(meta: str | None) -> Row:
    known = orjson.loads(meta) if meta else {}
    return {name: known[name] for name in LINE_FIELDS if name in known}
