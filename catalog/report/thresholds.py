"""The values that a condition compares a signal with."""

import json
from collections.abc import Iterator
from functools import cache
from typing import Any, Final

from catalog import duck
from catalog.expressions import score_column

COMPARISON: Final = "COMPARISON"
BETWEEN: Final = "BETWEEN"


def thresholds_of(rule: str, signal: str) -> tuple[float, ...]:
    """List the numbers that an SQL condition compares a signal with, ascending.

    A comparison counts if one side is the signal itself and the other side is a constant.
    """
    found = set()
    for node in _nodes(_tree(rule)):
        if node.get("class") == COMPARISON:
            sides = [node["left"], node["right"]]
            for signal_side, other in (sides, sides[::-1]):
                if _names(signal_side, signal):
                    found.add(_constant(other))
        elif node.get("class") == BETWEEN and _names(node["input"], signal):
            found |= {_constant(node["lower"]), _constant(node["upper"])}
    return tuple(sorted(value for value in found if value is not None))


def _names(node: dict[str, Any], signal: str) -> bool:
    """Say whether an expression is the signal and nothing else."""
    if node.get("class") == "COLUMN_REF":
        return [name.lower() for name in node["column_names"]] == [signal]
    if node.get("class") == "FUNCTION" and node["function_name"] == "score" and node["children"]:
        model = node["children"][0].get("value", {}).get("value")
        return score_column(str(model)) == signal
    return False


def _constant(node: dict[str, Any]) -> float | None:
    """Evaluate an expression without columns as a number; None for anything else."""
    if any(child.get("class") in ("COLUMN_REF", "SUBQUERY") for child in _nodes(node)):
        return None
    tree = _tree("1")
    tree["statements"][0]["node"]["select_list"] = [node]
    try:
        row = _parser().execute(
            f"select try_cast(({_deserialized(tree)}) as double)"
        ).fetchone()  # fmt: skip
    except duck.Error:
        return None
    return None if row is None or row[0] is None else float(row[0])


def _deserialized(tree: dict[str, Any]) -> str:
    row = _parser().execute("select json_deserialize_sql(?::json)", [json.dumps(tree)]).fetchone()
    assert row is not None
    return str(row[0]).rstrip(";")


def _tree(rule: str) -> dict[str, Any]:
    sql = f"select ({rule}\n)"
    row = _parser().execute(f"select json_serialize_sql({duck.quote(sql)})").fetchone()
    assert row is not None
    tree: dict[str, Any] = json.loads(row[0])
    return tree


def _nodes(tree: Any) -> Iterator[dict[str, Any]]:
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
