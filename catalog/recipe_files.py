"""Recipe files: one TOML file a published system; a package checks the sections that it reads."""

import difflib
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

RECIPES_FOLDER: Final = Path(__file__).parent.parent / "recipes"
# Every section that a recipe can have. Who reads one checks its keys.
SECTIONS: Final = (
    "recipe", "curate", "sources", "signals", "duplicates", "policy", "score", "new_model", "model",
    "pretrain", "general", "mine", "train", "rerank", "evaluate", "rehearse", "executor",
)  # fmt: skip


class RecipeError(ValueError):
    """A recipe cannot be read or asks for something that does not exist; nothing was run."""


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
    return {path.stem: path for path in sorted(RECIPES_FOLDER.glob("*.toml"))}


def read_recipe(path: Path) -> dict[str, Any]:
    """Read a recipe's sections; raise where one is not known."""
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path} is not valid TOML: {error}") from error
    for section in content:
        if section not in SECTIONS:
            raise RecipeError(_unknown(path, f"section [{section}]", section, SECTIONS))
    return content


def check_keys(path: Path, section: str, keys: Mapping[str, Any], allowed: Iterable[str]) -> None:
    """Raise where a section has a key that is not known, naming the closest one."""
    known = tuple(allowed)
    for key in keys:
        if key not in known:
            raise RecipeError(_unknown(path, f"key {key!r} in [{section}]", key, known))


def _unknown(path: Path, what: str, name: str, allowed: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, list(allowed), n=1)
    hint = f"did you mean {close[0]!r}? " if close else ""
    return f"{path}: unknown {what}; {hint}allowed are {', '.join(allowed)}"
