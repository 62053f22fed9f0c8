"""Prompts: TOML files with a template and the slots that vary it, versioned by their digest.

A slot is a table of names and texts, such as personas: one is drawn for every request by a hash of
(seed, slot, id of the passage). The text goes into the template, the name is stored with the row.
"""

import hashlib
import string
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np

from catalog.draws import draw
from catalog.records import to_json
from curation.synthesis.kinds import KINDS, LANGUAGES

SHIPPED: Final = Path(__file__).parent / "shipped"
LANGUAGE_SLOT: Final = "language"
_KEYS: Final = ("kind", "about", "system", "user", "slots")


@dataclass(frozen=True)
class Prompt:
    """How a model is asked: what kind of answer, its two messages, and the slots that vary them."""

    name: str
    kind: str
    system: str
    user: str
    slots: Mapping[str, Mapping[str, str]]
    about: str = ""
    digest: str = field(init=False)

    def __post_init__(self) -> None:
        """Check kind, slots and placeholders; ValueError says what is allowed."""
        if self.kind not in KINDS:
            raise ValueError(f"{self._here} kind is {self.kind!r}: one of {', '.join(KINDS)}")
        for slot, choices in self.slots.items():
            if not choices or not all(isinstance(text, str) for text in choices.values()):
                raise ValueError(f"{self._here} slot {slot!r} needs names with texts, at least one")
        languages = self.slots.get(LANGUAGE_SLOT, {})
        if not languages or not set(languages) <= set(LANGUAGES):
            raise ValueError(
                f"{self._here} [slots.language] says in which languages answers are written: "
                f"some of {', '.join(LANGUAGES)}"
            )
        self._check_placeholders()
        content = {"kind": self.kind, "system": self.system, "user": self.user, "slots": self.slots}
        digest = hashlib.sha256(to_json(content).encode()).hexdigest()[:12]
        object.__setattr__(self, "digest", digest)

    def draw_slots(self, seed: int, pair_id: int) -> dict[str, str]:
        """Draw the name of a choice for every slot."""
        return {slot: self.draw_slot(slot, seed, pair_id) for slot in sorted(self.slots)}

    def draw_slot(self, slot: str, seed: int, pair_id: int) -> str:
        """Draw the name of a choice for one slot."""
        names = sorted(self.slots[slot])
        if len(names) == 1:
            return names[0]
        number = int(draw(seed, f"synthesis slot {slot}", np.array([pair_id]))[0])
        return names[number % len(names)]

    def messages(self, slots: Mapping[str, str], fields: Mapping[str, str]) -> list[dict[str, str]]:
        """Write the messages of a request: the drawn slots' texts and the seed's fields put in."""
        values = {slot: self.slots[slot][name] for slot, name in slots.items()} | dict(fields)
        return [
            {"role": role, "content": string.Template(text).substitute(values).strip()}
            for role, text in (("system", self.system), ("user", self.user))
        ]

    def _check_placeholders(self) -> None:
        kind = KINDS[self.kind]
        allowed = {*self.slots, *kind.fields}
        templates = [string.Template(text) for text in (self.system, self.user)]
        if not all(template.is_valid() for template in templates):
            raise ValueError(f"{self._here} a lone $ in a template; write $$ for the sign itself")
        used = {name for template in templates for name in template.get_identifiers()}
        for name in sorted(used - allowed):
            raise ValueError(f"{self._here} ${name} is none of {', '.join(sorted(allowed))}")
        for name in sorted(set(kind.fields) - used):
            raise ValueError(f"{self._here} the template never says ${name}")

    @property
    def _here(self) -> str:
        return f"prompt {self.name}:"


def load_prompt(name: str) -> Prompt:
    """Load a prompt: a TOML file, or the name of a shipped one."""
    path, content = read_prompt_file(name, SHIPPED, _KEYS)
    return Prompt(
        path.stem,
        prompt_text(path, content, "kind"),
        prompt_text(path, content, "system"),
        prompt_text(path, content, "user"),
        _slots(path, content),
        content.get("about", ""),
    )


def read_prompt_file(
    name: str, shipped: Path, keys: Sequence[str]
) -> tuple[Path, Mapping[str, Any]]:
    """Read a TOML file, or one of a folder by its name; refuse keys that it cannot have."""
    path = Path(name)
    if not path.is_file():
        path = shipped / f"{name}.toml"
        if not path.is_file():
            known = ", ".join(shipped_prompts(shipped))
            raise ValueError(f"there is no prompt {name!r}: give a TOML file, or one of {known}")
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not valid TOML: {error}") from error
    for key in content:
        if key not in keys:
            raise ValueError(f"{path}: {key!r} is none of {', '.join(keys)}")
    return path, content


def shipped_prompts(folder: Path = SHIPPED) -> list[str]:
    """Name the prompts that come with Lode."""
    return sorted(path.stem for path in folder.glob("*.toml"))


def prompt_text(path: Path, content: Mapping[str, Any], key: str) -> str:
    """Return a text of a prompt's file; ValueError where it is missing or empty."""
    value = content.get(key)
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"{path}: {key} must be a text")
    return value


def _slots(path: Path, content: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    slots = content.get("slots", {})
    if not isinstance(slots, dict) or not all(isinstance(one, dict) for one in slots.values()):
        raise ValueError(f"{path}: a slot is a table of names and texts, such as [slots.persona]")
    return slots
