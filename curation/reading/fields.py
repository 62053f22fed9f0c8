"""Where a pair's parts are found in a source row: columns, paths into them, joins of several."""

import difflib
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import orjson

TARGETS: Final = (
    "query", "positive", "negatives", "instruction", "label", "url", "source", "form", "task",
)  # fmt: skip
JOINER: Final = "\n"
# Leftover fields of a row that are aligned with its positives or negatives (FlagEmbedding).
ALIGNED_SCORES: Final = {"positive": "pos_scores", "negatives": "neg_scores"}

Key = str | int


@dataclass(frozen=True)
class FieldPath:
    """A column, and the keys that lead into its struct, list or JSON text."""

    column: str
    keys: tuple[Key, ...] = ()

    def __str__(self) -> str:
        return ".".join([self.column, *map(str, self.keys)])


@dataclass(frozen=True)
class Fields:
    """Which paths give which part of a pair; several paths are joined by a line end."""

    paths: Mapping[str, tuple[FieldPath, ...]]
    positives_are_lists: bool = False

    def of(self, target: str) -> tuple[FieldPath, ...]:
        """Return the paths of a target, none where it is not mapped."""
        return self.paths.get(target, ())

    @property
    def is_one_to_one(self) -> bool:
        """Say whether a source row makes at most one pair."""
        return not (self.positives_are_lists or self.of("negatives"))

    @property
    def used(self) -> dict[str, frozenset[tuple[Key, ...]]]:
        """Return the used columns, each with the paths into it; ``()`` is the whole column."""
        used: dict[str, set[tuple[Key, ...]]] = {}
        for paths in self.paths.values():
            for path in paths:
                used.setdefault(path.column, set()).add(path.keys)
        return {column: frozenset(keys) for column, keys in used.items()}

    def as_document(self) -> dict[str, str]:
        """Write the mapping as recipes do: ``{"query": "instruction+input"}``."""
        return {target: "+".join(map(str, paths)) for target, paths in self.paths.items()}


def parse_paths(expression: str, columns: Collection[str]) -> tuple[FieldPath, ...]:
    """Resolve ``instruction+input`` or ``meta.label`` against the columns that there are.

    A column whose own name holds a plus or a dot is found under its whole name first.
    """
    if expression in columns:
        return (FieldPath(expression),)
    return tuple(_parse_path(part.strip(), columns) for part in expression.split("+"))


def _parse_path(text: str, columns: Collection[str]) -> FieldPath:
    parts = text.split(".")
    for size in range(len(parts), 0, -1):
        column = ".".join(parts[:size])
        if column in columns:
            keys = tuple(int(key) if key.isdigit() else key for key in parts[size:])
            return FieldPath(column, keys)
    raise ValueError(
        f"there is no column {parts[0]!r}; {closest(parts[0], columns)}"
        f"columns are {', '.join(columns) or 'none'}"
    )


def closest(name: str, allowed: Iterable[str]) -> str:
    """Return ``did you mean …? `` for the allowed name nearest to a wrong one, or nothing."""
    near = difflib.get_close_matches(name, list(allowed), n=1)
    return f"did you mean {near[0]!r}? " if near else ""


def parse_nested(value: Any) -> Any:
    """Parse a text that is a JSON object or list; return anything else as it is."""
    if isinstance(value, str) and value[:1] in ("{", "["):
        try:
            return orjson.loads(value)
        except orjson.JSONDecodeError:
            return value
    return value


def dig(value: Any, keys: tuple[Key, ...]) -> Any:
    """Follow keys into a parsed value; None where the path ends early."""
    for key in keys:
        value = parse_nested(value)
        if isinstance(value, dict):
            value = value.get(str(key))
        elif isinstance(value, list) and isinstance(key, int):
            value = value[key] if key < len(value) else None
        else:
            return None
    return value


def remover(paths: frozenset[tuple[Key, ...]]) -> Callable[[Any], Any]:
    """Return ``without`` for these paths, quick where they lead one step into an object."""
    names = {str(path[0]) for path in paths}
    if len(names) < len(paths) or any(len(path) != 1 for path in paths):
        return lambda value: without(value, paths)

    def remove(value: Any) -> Any:
        if type(value) is not dict:
            return without(value, paths)
        return {key: item for key, item in value.items() if key not in names} or None

    return remove


def without(value: Any, paths: frozenset[tuple[Key, ...]]) -> Any:
    """Return what is left of a parsed value without the paths into it; None for nothing."""
    heads: dict[str, set[tuple[Key, ...]]] = {}
    for path in paths:
        heads.setdefault(str(path[0]), set()).add(path[1:])
    if isinstance(value, dict):
        kept = {key: _rest(item, heads.get(key)) for key, item in value.items()}
        return {key: item for key, item in kept.items() if item is not None} or None
    if isinstance(value, list):
        items = [_rest(item, heads.get(str(at))) for at, item in enumerate(value)]
        return [item for item in items if item is not None] or None
    return value


def _rest(item: Any, paths: set[tuple[Key, ...]] | None) -> Any:
    if paths is None:
        return item
    return None if () in paths else without(parse_nested(item), frozenset(paths))
