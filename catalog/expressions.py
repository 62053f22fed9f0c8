"""SQL expressions that users write: parsed by DuckDB's own parser, checked, never pasted unseen."""

import difflib
import json
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any

from catalog import duck
from catalog.errors import PolicyError

PREFIX = "select ("
SCORE_FUNCTION = "score"
# What a condition is made of; every other kind of node reads something else than the pair's row.
ROW_CLASSES = (
    "BETWEEN", "CASE", "CAST", "COLLATE", "COLUMN_REF", "COMPARISON", "CONJUNCTION", "CONSTANT",
    "FUNCTION", "LAMBDA", "OPERATOR",
)  # fmt: skip
CLASS_NAMES = {"SUBQUERY": "a subquery", "WINDOW": "a window function", "STAR": "a star"}


@dataclass(frozen=True)
class Expression:
    """A checked expression over the columns of one pair."""

    text: str  # as the user wrote it
    sql: str  # as DuckDB understood it, with score('model') replaced by its column
    columns: frozenset[str]
    score_models: frozenset[str]


@lru_cache(maxsize=1024)
def parse(text: str, what: str) -> Expression:
    """Parse a row expression; ``what`` names it in messages."""
    tree = _serialize(text, what)
    node = tree["statements"][0]["node"]
    # A text may close our bracket and go on: only the one expression may differ from a plain one.
    if len(tree["statements"]) != 1 or _frame(node) != _plain_frame():
        raise PolicyError(f"{what}: {text!r} is not one expression")
    (expression,) = node["select_list"]
    columns, parameters, models = set(), set(), set()
    for part in _nodes(expression):
        kind = part["class"]
        if kind not in ROW_CLASSES:
            raise _not_a_row(text, what, CLASS_NAMES.get(kind, kind.lower().replace("_", " ")))
        if kind == "LAMBDA":
            parameters |= {n for ref in _nodes(part["lhs"]) for n in ref.get("column_names", [])}
        elif kind == "FUNCTION" and part["function_name"] == SCORE_FUNCTION:
            model = _score_model(part, text, what)
            models.add(model)
            part.clear()
            part.update(_column_reference(score_column(model)))
        elif kind == "FUNCTION":
            _check_function(part["function_name"], text, what)
        elif kind == "COLUMN_REF":
            names = part["column_names"]
            if len(names) != 1:
                raise PolicyError(
                    f"{what}: {'.'.join(names)!r} in {text!r} is qualified; "
                    "write the column's name alone"
                )
            columns.add(names[0].lower())
    known = frozenset(columns - parameters)
    return Expression(text, _deserialize(tree), known, frozenset(models))


def score_column(model: str) -> str:
    """Name the column that holds a model's score."""
    return f"score:{model}"


def unknown_column(name: str, known: Collection[str], what: str) -> PolicyError:
    """Make the error for a column that does not exist, naming the closest ones that do."""
    close = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(close)}? " if close else ""
    return PolicyError(f"{what}: there is no signal {name!r}; {hint}(lode signals lists all)")


def unknown_name(kind: str, name: str, known: Collection[str]) -> str:
    """Write the message for a name that is not in the catalog."""
    close = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {close[0]!r}? " if close else ""
    return f"there is no {kind} {name!r}; {hint}there are: {', '.join(sorted(known)) or 'none yet'}"


@cache
def _parser() -> duck.Connection:
    """Return the connection whose parser is used: opening one for each condition takes 30 ms."""
    return duck.connect()


def _serialize(text: str, what: str) -> dict[str, Any]:
    # The line break ends a comment that would swallow the closing bracket.
    source = f"{PREFIX}{text}\n)"
    sql = f"select json_serialize_sql({duck.quote(source)})"
    row = _parser().cursor().execute(sql).fetchone()
    assert row is not None
    tree: dict[str, Any] = json.loads(row[0])
    if tree["error"]:
        position = int(tree.get("position", 0)) - len(PREFIX)
        pointer = f" at character {position + 1}" if position >= 0 else ""
        if position >= len(text):
            pointer = " at its end"
        raise PolicyError(f"{what}: cannot read {text!r}{pointer}: {tree['error_message']}")
    return tree


def _deserialize(tree: dict[str, Any]) -> str:
    sql = f"select json_deserialize_sql({duck.quote(json.dumps(tree))})"
    row = _parser().cursor().execute(sql).fetchone()
    assert row is not None
    return str(row[0]).removeprefix("SELECT ").rstrip(";")


def _nodes(tree: Any) -> Iterator[dict[str, Any]]:
    if isinstance(tree, dict):
        if "class" in tree:
            yield tree
        for value in list(tree.values()):
            yield from _nodes(value)
    elif isinstance(tree, list):
        for value in tree:
            yield from _nodes(value)


def _frame(node: dict[str, Any]) -> tuple[object, ...]:
    """Everything of a select statement but its expressions, and how many they are."""
    rest = {key: value for key, value in node.items() if key != "select_list"}
    return json.dumps(rest, sort_keys=True), len(node.get("select_list", []))


@cache
def _plain_frame() -> tuple[object, ...]:
    return _frame(_serialize("true", "")["statements"][0]["node"])


def _check_function(name: str, text: str, what: str) -> None:
    if name in _functions("function_type = 'aggregate'"):
        raise _not_a_row(text, what, f"the aggregate {name}()")
    if name == "unnest":
        raise _not_a_row(text, what, "unnest(), which makes several rows of one")
    if name in _functions("stability <> 'CONSISTENT'"):
        raise PolicyError(
            f"{what}: {text!r} holds {name}(), whose value changes; a verdict must be the same "
            "for ever"
        )


@cache
def _functions(condition: str) -> frozenset[str]:
    sql = f"select distinct function_name from duckdb_functions() where {condition}"
    rows = _parser().cursor().execute(sql).fetchall()
    return frozenset(name for (name,) in rows)


def _not_a_row(text: str, what: str, found: str) -> PolicyError:
    return PolicyError(
        f"{what}: {text!r} holds {found}; a condition may use only the columns of its own pair"
    )


def _score_model(node: dict[str, Any], text: str, what: str) -> str:
    arguments = node["children"]
    if len(arguments) != 1 or arguments[0].get("class") != "CONSTANT":
        raise PolicyError(f"{what}: score() in {text!r} takes one model name in quotes")
    return str(arguments[0]["value"]["value"])


def _column_reference(name: str) -> dict[str, Any]:
    return {
        "class": "COLUMN_REF",
        "type": "COLUMN_REF",
        "alias": "",
        "query_location": 0,
        "column_names": [name],
    }
