"""BEIR's layout: corpus.jsonl, queries.jsonl and qrels/test.tsv, named by the catalog's ids."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from catalog import duck
from catalog.export.files import BATCH_ROWS, write_lines
from catalog.export.queries import Row
from catalog.export.statements import statement

QRELS_SQL: Final = (
    "select query_id, passage_id, score from judged order by query_id, score desc, passage_id"
)


def write_beir(connection: duck.Connection, folder: Path, counts: Counter[str]) -> int:
    """Write a snapshot as a collection to search in; return the number of judgments.

    The corpus holds every passage of the snapshot, so every candidate that was mined from it.
    """
    (folder / "qrels").mkdir(parents=True)
    connection.execute(statement("judged"))
    corpus, queries = statement("corpus"), statement("judged_queries")
    counts["passages"] = write_lines(_documents(connection, corpus), folder / "corpus.jsonl")
    counts["queries"] = write_lines(_queries(connection, queries), folder / "queries.jsonl")
    return _write_qrels(connection, folder / "qrels" / "test.tsv")


def _documents(connection: duck.Connection, sql: str) -> Iterator[Row]:
    for passage_id, text in _values(connection, sql):
        yield {"_id": str(passage_id), "title": "", "text": text}


def _queries(connection: duck.Connection, sql: str) -> Iterator[Row]:
    for query_id, text in _values(connection, sql):
        yield {"_id": str(query_id), "text": text}


def _write_qrels(connection: duck.Connection, path: Path) -> int:
    rows = 0
    with path.open("w", encoding="utf-8", newline="\n") as stream:
        stream.write("query-id\tcorpus-id\tscore\n")
        for values in _values(connection, QRELS_SQL):
            stream.write("\t".join(map(str, values)) + "\n")
            rows += 1
    return rows


def _values(connection: duck.Connection, sql: str) -> Iterator[tuple[object, ...]]:
    for batch in connection.execute(sql).to_arrow_reader(BATCH_ROWS):
        columns = [column.to_pylist() for column in batch.columns]
        yield from zip(*columns, strict=True)
