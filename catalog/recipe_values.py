"""Sections of a recipe as dataclasses: every key known, every value of its setting's type."""

from collections.abc import Iterable, Mapping
from dataclasses import fields
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Final, TypeVar, get_args, get_type_hints

from catalog.recipe_files import RecipeError, check_keys

Settings = TypeVar("Settings")

_WORDS: Final = {
    int: "a whole number", float: "a number", str: "a text", bool: "true or false",
    NoneType: "left out",
}  # fmt: skip


def make_settings(path: Path, section: str, kind: type[Settings], keys: Any) -> Settings:
    """Make a dataclass of a section's keys; RecipeError names what does not fit and what would."""
    if not isinstance(keys, Mapping):
        raise RecipeError(f"{path}: {section} is {keys!r}; it must be a section, [{section}]")
    check_values(path, section, kind, keys)
    values = {
        key: tuple(value) if isinstance(value, list) else value for key, value in keys.items()
    }
    try:
        return kind(**values)
    except (TypeError, ValueError) as error:
        raise RecipeError(f"{path}: [{section}] {error}") from error


def check_values(path: Path, section: str, kind: type, keys: Mapping[str, Any]) -> None:
    """Refuse keys that are not known, and values of another type than the setting's."""
    types = get_type_hints(kind)
    check_keys(path, section, keys, [f.name for f in fields(kind)])  # type: ignore[arg-type]
    for key, value in keys.items():
        if not _fits(value, types[key]):
            wanted = " or ".join(_WORDS.get(each, "") for each in _alternatives(types[key]))
            raise RecipeError(f"{path}: {key} is {value!r} in [{section}]; it must be {wanted}")


def change(document: dict[str, Any], path: Iterable[str], value: Any) -> None:
    """Set the value at a path of keys; sections on the way are made."""
    *sections, name = path
    for place, section in enumerate(sections):
        inner = document.setdefault(section, {})
        if not isinstance(inner, dict):
            raise ValueError(
                f"{'.'.join([*sections, name])}: {'.'.join(sections[: place + 1])} is no section"
            )
        document = inner
    document[name] = value


def _fits(value: Any, kind: Any) -> bool:
    for each in _alternatives(kind):
        if each not in _WORDS:  # a compound: what takes it looks into it
            return True
        allowed = (int, float) if each is float else each
        if isinstance(value, allowed) and (each is bool or not isinstance(value, bool)):
            return True
    return False


def _alternatives(kind: Any) -> tuple[Any, ...]:
    """List the types of a union, or the type itself."""
    return get_args(kind) if isinstance(kind, UnionType) else (kind,)
