"""What a condition compares with what: the values worth a histogram, and their thresholds."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any, Final

from catalog import duck

COMPARISON: Final = "COMPARISON"
BETWEEN: Final = "BETWEEN"
COLUMN: Final = "COLUMN_REF"
# What only joins conditions: its parts are looked at one by one.
JUNCTIONS: Final = ("CONJUNCTION_AND", "CONJUNCTION_OR", "OPERATOR_NOT")

# DuckDB writes a + b + c as (a + b) + c.
SUM: Final = re.compile(r"\((\w+(?: \+ \w+)*)\) \+ ")

Node = dict[str, Any]


@dataclass(frozen=True)
class Term:
    """An expression that a condition compares with numbers, ascending, or asks something else."""

    sql: str
    thresholds: tuple[float, ...] = ()

    @property
    def label(self) -> str:
        """Write the expression for people."""
        plain = self.sql.replace('"', "").removeprefix("score:")
        while (shorter := SUM.sub(r"\1 + ", plain)) != plain:
            plain = shorter
        is_wrapped = plain.startswith("(") and plain.endswith(")") and _closes_last(plain)
        return plain[1:-1] if is_wrapped else plain


def terms_of(rule: str) -> tuple[Term, ...]:
    """List what an SQL condition looks at, in its order, each expression once.

    ``a + b <= 3`` looks at ``a + b`` with threshold 3; ``a <= 2 * b`` at the difference, with 0;
    ``language in ('zh', 'en')`` at the language.
    """
    found: dict[str, set[float]] = {}
    for node, thresholds in _compared(_tree(rule)["statements"][0]["node"]["select_list"][0]):
        found.setdefault(_sql(node), set()).update(thresholds)
    return tuple(Term(sql, tuple(sorted(numbers))) for sql, numbers in found.items())


def _compared(node: Node) -> Iterator[tuple[Node, list[float]]]:
    if node["type"] in JUNCTIONS:
        for child in node["children"]:
            yield from _compared(child)
    elif node["class"] == COMPARISON:
        yield from _sides(node["left"], node["right"])
    elif node["class"] == BETWEEN and not _columns(node["lower"]) | _columns(node["upper"]):
        bounds = [_number(node["lower"]), _number(node["upper"])]
        yield node["input"], [bound for bound in bounds if bound is not None]
    else:
        for column in _nodes(node):
            if column["class"] == COLUMN:
                yield column, []


def _sides(left: Node, right: Node) -> Iterator[tuple[Node, list[float]]]:
    """Yield the side with columns and its threshold; their difference where both have columns."""
    if _columns(left) and _columns(right):
        yield _difference(left, right), [0.0]
        return
    side, other = (left, right) if _columns(left) else (right, left)
    if _columns(side):
        number = _number(other)
        yield side, [] if number is None else [number]


def _difference(left: Node, right: Node) -> Node:
    tree = _tree("1 - 2")
    minus: Node = tree["statements"][0]["node"]["select_list"][0]
    minus["children"] = [left, right]
    return minus


def _columns(node: Node) -> set[str]:
    return {one["column_names"][-1] for one in _nodes(node) if one["class"] == COLUMN}


def _number(node: Node) -> float | None:
    """Evaluate an expression without columns; None where it is no number."""
    try:
        row = _parser().execute(f"select try_cast(({_sql(node)}) as double)").fetchone()
    except duck.Error:
        return None
    return None if row is None or row[0] is None else float(row[0])


def _closes_last(text: str) -> bool:
    """Say whether the first bracket of a text is closed by its last character."""
    depth = 0
    for at, character in enumerate(text):
        depth += (character == "(") - (character == ")")
        if depth == 0:
            return at == len(text) - 1
    return False


def _sql(node: Node) -> str:
    tree = _tree("1")
    tree["statements"][0]["node"]["select_list"] = [node]
    row = _parser().execute("select json_deserialize_sql(?::json)", [json.dumps(tree)]).fetchone()
    assert row is not None
    return str(row[0]).rstrip(";").removeprefix("SELECT ")


def _tree(rule: str) -> Node:
    # The line break ends a comment that would swallow the closing bracket.
    sql = duck.quote(f"select ({rule}\n)")
    row = _parser().execute(f"select json_serialize_sql({sql})").fetchone()
    assert row is not None
    tree: Node = json.loads(row[0])
    return tree


def _nodes(tree: Any) -> Iterator[Node]:
    if isinstance(tree, dict):
        if "class" in tree:
            yield tree
        for value in tree.values():
            yield from _nodes(value)
    elif isinstance(tree, list):
        for value in tree:
            yield from _nodes(value)


@cache
def _parser() -> duck.Connection:
    return duck.connect()
