"""Recipes of curation: what to read, measure, deduplicate and keep."""

from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from catalog.location import S3
from catalog.policies import Policy
from catalog.recipe_files import RecipeError, check_keys, find_recipe, read_recipe
from curation.classifiers import name_from
from curation.duplicates import DuplicateSettings
from curation.signals import SignalSettings

KEYS = {
    "recipe": ("name", "title", "source"),
    "signals": tuple(setting.name for setting in fields(SignalSettings)),
    "duplicates": tuple(setting.name for setting in fields(DuplicateSettings)),
    "policy": ("name", "prefer", "conditions"),
}


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
    """Read a recipe file and check what curation reads of it."""
    path = find_recipe(path)
    content = _read(path)
    if "policy" not in content:
        raise RecipeError(f"{path} has no [policy]: a recipe says at least what to keep")
    head = content.get("recipe", {})
    signals = dict(content.get("signals", {}))
    for setting in ("word_lists", "domain_lists"):
        # Files are found from where the recipe is, wherever the command runs.
        signals[setting] = tuple(path.parent / name for name in signals.get(setting, ()))
    if isinstance(classifiers := signals.get("classifiers"), dict):
        signals["classifiers"] = {
            name: name_from(path.parent, where) if isinstance(where, str) else where
            for name, where in classifiers.items()
        }
    if isinstance(ngrams := signals.get("ngrams"), dict):
        signals["ngrams"] = {
            name: str(path.parent / where) if isinstance(where, str) else where
            for name, where in ngrams.items()
        }
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
        source["paths"] = [
            name if name.startswith(S3) else str(path.parent / name)
            for name in source.get("paths", ())
        ]
    return sources


def _read(path: Path) -> dict[str, Any]:
    content = read_recipe(path)
    for section, keys in KEYS.items():
        check_keys(path, section, content.get(section, {}), keys)
    return content
