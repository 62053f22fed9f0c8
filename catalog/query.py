"""Queries of readers: read-only, at any snapshot, under any policy."""

import contextlib
import itertools
import re
from collections.abc import Iterator
from itertools import pairwise

import duckdb
import pyarrow as pa

from catalog import duck
from catalog.errors import CatalogError, ReadOnlyError
from catalog.lake import Catalog
from catalog.policy_store import load_policy
from catalog.snapshots import load_snapshot, snapshot_reader
from catalog.views import use_policy

ALLOWED = (
    "allowed are SELECT, EXPLAIN, DESCRIBE, SHOW and CREATE TEMP. To keep a result use --output; "
    "to change the catalog use lode's commands"
)
NAME = re.compile(r'"((?:[^"]|"")*)"|(\w+)')
BATCH_ROWS = 10_000
# What begins a statement that only reads; EXPLAIN ANALYZE runs whatever it explains.
READING = ("select", "with", "from", "values", "describe", "show", "summarize", "pivot", "unpivot")
EXPLAIN_OPTIONS = ("explain", "analyze", "verbose", "format", "text", "json", "html", "yaml")
# Functions that change a lake or write files, though they stand in a SELECT; query() hides others.
WRITING_FUNCTIONS = frozenset(
    [
        "ducklake_add_data_files",
        "ducklake_cleanup_old_files",
        "ducklake_commit",
        "ducklake_delete_orphaned_files",
        "ducklake_expire_snapshots",
        "ducklake_flush_inlined_data",
        "ducklake_merge_adjacent_files",
        "ducklake_rewrite_data_files",
        "ducklake_set_commit_message",
        "ducklake_set_option",
        "postgres_attach",
        "postgres_execute",
        "postgres_query",
        "postgres_configure_pool",
        "sqlite_attach",
        "sqlite_query",
        "checkpoint",
        "force_checkpoint",
        "enable_logging",
        "enable_profiling",
        "json_execute_serialized_sql",
        "query",
    ]
)


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


def _run(connection: duck.Connection, sql: str) -> pa.RecordBatchReader:
    try:
        statements = connection.extract_statements(sql)
    except duckdb.Error as error:
        raise CatalogError(f"cannot read the query: {error}") from error
    if not statements:
        raise CatalogError("the query is empty")
    for statement in statements:
        _check_reads(statement)
    connection.execute("set python_enable_replacements = false")  # our variables are no tables
    for statement in statements[:-1]:
        connection.execute(statement)
    return connection.execute(statements[-1]).to_arrow_reader(BATCH_ROWS)


def _check_reads(statement: duckdb.Statement) -> None:
    words = _words(statement.query)
    changing = sorted(WRITING_FUNCTIONS & {a for a, b in pairwise(words) if b == "("})
    if changing:
        raise ReadOnlyError(f"lode sql only reads, and {changing[0]}() does not; {ALLOWED}")
    kind = statement.type
    if kind == duckdb.StatementType.SELECT:
        return
    if kind == duckdb.StatementType.EXPLAIN:
        rest = itertools.dropwhile(lambda word: word in (*EXPLAIN_OPTIONS, "(", ")"), words)
        if next(rest, "") in READING:
            return
    # DuckDB turns a PIVOT into two statements of its own: a temporary type without a text.
    if kind == duckdb.StatementType.CREATE and (not words or _is_temporary(words)):
        return
    raise ReadOnlyError(f"lode sql only reads, and {kind.name} does not; {ALLOWED}")


def _is_temporary(words: list[str]) -> bool:
    rest = itertools.dropwhile(lambda word: word in ("create", "or", "replace", "local"), words)
    return next(rest, "") in ("temp", "temporary")


def _words(sql: str) -> list[str]:
    """Split a statement into names, keywords and operators, without comments and strings."""
    text = sql.encode()  # the tokens' places count bytes
    words = []
    for start, kind in duckdb.tokenize(sql):
        if kind == duckdb.token_type.operator:
            words.append(chr(text[start]))
        elif kind in (duckdb.token_type.identifier, duckdb.token_type.keyword):
            match = NAME.match(text[start:].decode(errors="ignore"))
            words.append((match[1] or match[2]).lower() if match else "")
    return words
