"""Recipes: one TOML file that says what to read, measure, deduplicate and keep."""

import difflib
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from catalog.policies import Policy
from curation.duplicates import DuplicateSettings
from curation.signals import SignalSettings

SECTIONS = {
    "recipe": ("name", "title", "source"),
    "sources": None,  # a table per source; curation.reading checks its keys
    "signals": tuple(setting.name for setting in fields(SignalSettings)),
    "duplicates": tuple(setting.name for setting in fields(DuplicateSettings)),
    "policy": ("name", "prefer", "conditions"),
}


class RecipeError(ValueError):
    """A recipe cannot be read or asks for something that does not exist; nothing was run."""


@dataclass(frozen=True)
class Recipe:
    """A recipe as plain settings; each section is checked by the code that it configures."""

    name: str
    path: Path
    policy: Policy
    title: str = ""
    sources: dict[str, dict[str, Any]] = field(default_factory=dict)
    signals: dict[str, Any] = field(default_factory=dict)
    duplicates: dict[str, Any] = field(default_factory=dict)


def load_recipe(path: Path | str) -> Recipe:
    """Read a recipe file and check it as a whole."""
    path = find_recipe(path)
    content = _read(path)
    if "policy" not in content:
        raise RecipeError(f"{path} has no [policy]: a recipe says at least what to keep")
    head = content.get("recipe", {})
    signals = dict(content.get("signals", {}))
    for setting in ("word_lists", "domain_lists"):
        # Files are found from where the recipe is, wherever the command runs.
        signals[setting] = tuple(path.parent / name for name in signals.get(setting, ()))
    return Recipe(
        name=head.get("name", path.stem),
        path=path,
        policy=Policy.from_document({"name": path.stem, **content["policy"]}),
        title=head.get("title", ""),
        sources=load_sources(path),
        signals=signals,
        duplicates=content.get("duplicates", {}),
    )


def load_sources(path: Path) -> dict[str, dict[str, Any]]:
    """Read the ``[sources]`` of a TOML file; paths are found from where the file is."""
    sources: dict[str, dict[str, Any]] = _read(path).get("sources", {})
    for source in sources.values():
        source["paths"] = [str(path.parent / name) for name in source.get("paths", ())]
    return sources


def _read(path: Path) -> dict[str, Any]:
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path} is not valid TOML: {error}") from error
    _check_sections(path, content)
    return content


def find_recipe(name: Path | str) -> Path:
    """Return the path of a recipe: a file, or the name of one that comes with Lode."""
    path = Path(name)
    if path.is_file():
        return path
    shipped = shipped_recipes()
    if path.stem in shipped and path.name in (path.stem, f"{path.stem}.toml"):
        return shipped[path.stem]
    raise RecipeError(
        f"there is no recipe {str(name)!r}; give a TOML file, or one of: "
        f"{', '.join(sorted(shipped))}"
    )


def shipped_recipes() -> dict[str, Path]:
    """List the recipes that come with Lode, by name."""
    folder = Path(__file__).parent.parent / "recipes"
    return {path.stem: path for path in sorted(folder.glob("*.toml"))}


def _check_sections(path: Path, content: Mapping[str, Any]) -> None:
    for section, entries in content.items():
        if section not in SECTIONS:
            raise RecipeError(_unknown(path, f"section [{section}]", section, SECTIONS))
        allowed = SECTIONS[section]
        if allowed is None:
            continue
        for key in entries:
            if key not in allowed:
                raise RecipeError(_unknown(path, f"key {key!r} in [{section}]", key, allowed))


def _unknown(path: Path, what: str, name: str, allowed: Any) -> str:
    close = difflib.get_close_matches(name, list(allowed), n=1)
    hint = f"did you mean {close[0]!r}? " if close else ""
    return f"{path}: unknown {what}; {hint}allowed are {', '.join(allowed)}"
