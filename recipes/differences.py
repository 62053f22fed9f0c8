"""Two recipes side by side: every setting in which they differ."""

from collections.abc import Iterator, Mapping
from typing import Any, Final

from catalog.recipe_files import find_recipe, read_recipe

ABSENT: Final = "-"
_LEFT_OUT: Final = ("recipe", "rehearse")


def recipe_differences(first: str, second: str) -> list[tuple[str, str, str]]:
    """Return (setting, value in the first, value in the second), by name.

    A policy's conditions are compared by their names, so that one that moved is no difference.
    """
    one, two = (dict(_settings("", read_recipe(find_recipe(name)))) for name in (first, second))
    return [
        (key, one.get(key, ABSENT), two.get(key, ABSENT))
        for key in sorted(one.keys() | two.keys())
        if one.get(key) != two.get(key)
    ]


def _settings(prefix: str, content: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for key, value in content.items():
        if not prefix and key in _LEFT_OUT:
            continue
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            yield from _settings(f"{name}.", value)
        elif isinstance(value, list) and value and isinstance(value[0], Mapping):
            named = {str(entry.get("name", place)): entry for place, entry in enumerate(value)}
            yield from _settings(f"{name}.", _without_names(named))
        else:
            yield name, repr(value)


def _without_names(entries: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    return {
        name: {key: value for key, value in entry.items() if key != "name"}
        for name, entry in entries.items()
    }
