"""SQL of the report, a file each in ``catalog/sql``, with the relations that it reads filled in."""

from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Final

from catalog import duck
from catalog.columns import Columns
from catalog.expressions import Expression

FOLDER: Final = Path(__file__).parent.parent / "sql"
EVERYTHING: Final = "true"


def statement(name: str, **slots: str) -> str:
    """Read a statement and fill in its slots: relations and checked expressions, never values."""
    return _template(name).format(**slots)


def joins_of(columns: Columns, providers: Iterable[str], base: str) -> str:
    """Write the left joins that put providers beside a relation of pairs."""
    return "".join(
        f"\nleft join {columns.providers[name].relation} as {duck.identifier(name)} using (pair_id)"
        for name in dict.fromkeys(providers)
        if name != base
    )


def relation_of(
    columns: Columns, expressions: Iterable[Expression], what: str, *, all_are_pairs: bool
) -> tuple[str, str]:
    """Write the relation that holds what expressions read, and the condition that a row is a pair.

    One side table alone is enough where every row of the lake is a pair.
    """
    used: list[str] = []
    for expression in expressions:
        used += columns.providers_of(expression, what)
    base = next(iter(dict.fromkeys(used)), "pairs") if all_are_pairs else "pairs"
    is_pair = EVERYTHING if all_are_pairs else f"{duck.identifier(base)}.query_key is not null"
    relation = f"{columns.providers[base].relation} as {duck.identifier(base)}"
    return relation + joins_of(columns, used, base), is_pair


@cache
def _template(name: str) -> str:
    return (FOLDER / f"report_{name}.sql").read_text(encoding="utf-8")
