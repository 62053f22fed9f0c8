"""Policies: named conditions over signals that say which pairs are kept, and why others are not."""

import difflib
import hashlib
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from catalog.errors import PolicyError
from catalog.expressions import parse
from catalog.records import to_json

# A pair's failed conditions are bits of one 64-bit number.
MAX_CONDITIONS = 64
NAME = re.compile(r"[a-z0-9][a-z0-9_.-]*")
DUPLICATE_KINDS = ("exact", "near")
CONDITION_KEYS = ("name", "stage", "require", "unique", "where", "source")


@dataclass(frozen=True)
class Condition:
    """One named requirement. A pair fails it when ``require`` is false; unknown (null) passes.

    ``unique`` asks instead that the pair's text is the one that survives of its duplicate cluster
    (exact or near); the survivor is chosen among the members that fail no earlier condition.
    ``where`` limits the condition to some pairs; ``source`` says where a threshold comes from.
    """

    name: str
    stage: str
    require: str | None = None
    unique: str | None = None
    where: str | None = None
    source: str | None = None

    def __post_init__(self) -> None:
        what = f"condition {self.name!r}"
        if not NAME.fullmatch(self.name):
            raise PolicyError(f"{what}: a name is made of a-z, 0-9, _, . and -")
        if not self.stage:
            raise PolicyError(f"{what}: stage is missing (language, rules, duplicates, …)")
        if (self.require is None) == (self.unique is None):
            raise PolicyError(
                f"{what}: give either require = an SQL condition or unique = exact|near"
            )
        if self.unique is not None and self.unique not in DUPLICATE_KINDS:
            raise PolicyError(f"{what}: unique is {self.unique!r}; allowed are exact and near")
        for text in (self.require, self.where):
            if text is not None:
                parse(text, what)


@dataclass(frozen=True)
class Policy:
    """An ordered list of conditions; ``prefer`` orders the members of a duplicate cluster."""

    name: str
    conditions: tuple[Condition, ...]
    prefer: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not NAME.fullmatch(self.name):
            raise PolicyError(f"policy {self.name!r}: a name is made of a-z, 0-9, _, . and -")
        if len(self.conditions) > MAX_CONDITIONS:
            raise PolicyError(
                f"policy {self.name!r} has {len(self.conditions)} conditions; at most "
                f"{MAX_CONDITIONS} are possible: join some with 'and'"
            )
        names = [condition.name for condition in self.conditions]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise PolicyError(f"policy {self.name!r}: condition {twice[0]!r} is there twice")
        for stage in self.stages:
            places = [i for i, condition in enumerate(self.conditions) if condition.stage == stage]
            if places[-1] - places[0] + 1 != len(places):
                raise PolicyError(
                    f"policy {self.name!r}: the conditions of stage {stage!r} are not together; "
                    "the order of conditions is the order of the funnel"
                )
        for order in self.prefer:
            parse_order(order)

    @property
    def stages(self) -> tuple[str, ...]:
        """The stages in the order of the funnel."""
        return tuple(dict.fromkeys(condition.stage for condition in self.conditions))

    @property
    def digest(self) -> str:
        """Identify the policy's content; where thresholds come from does not count."""
        content = self.to_document()
        for condition in content["conditions"]:
            condition.pop("source", None)
        return hashlib.sha256(to_json(content).encode()).hexdigest()[:16]

    def failed(self, fails: int) -> list[str]:
        """Name the conditions whose bits are set in a pair's mask, in their order."""
        return [c.name for bit, c in enumerate(self.conditions) if fails >> bit & 1]

    def to_document(self) -> dict[str, Any]:
        """Return the policy as plain data, without the keys that are not set."""
        conditions = [
            {key: value for key in CONDITION_KEYS if (value := getattr(condition, key)) is not None}
            for condition in self.conditions
        ]
        return {"name": self.name, "prefer": list(self.prefer), "conditions": conditions}

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> "Policy":
        """Read a policy from plain data, such as a recipe's ``[policy]``."""
        _refuse_unknown(document, ("name", "prefer", "conditions"), "policy")
        conditions = []
        for position, entry in enumerate(document.get("conditions", [])):
            what = f"condition {entry.get('name', f'number {position + 1}')!r}"
            _refuse_unknown(entry, CONDITION_KEYS, what)
            if "name" not in entry or "stage" not in entry:
                raise PolicyError(f"{what}: name and stage are needed")
            conditions.append(Condition(**entry))
        if "name" not in document:
            raise PolicyError("policy: name is missing")
        return cls(document["name"], tuple(conditions), tuple(document.get("prefer", ())))


def read_policy_file(path: Path) -> Policy:
    """Read the ``[policy]`` of a TOML file; other sections do not matter here."""
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise PolicyError(f"there is no file {path}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise PolicyError(f"{path} is not valid TOML: {error}") from error
    if "policy" not in content:
        raise PolicyError(f"{path} has no [policy]")
    return Policy.from_document({"name": path.stem, **content["policy"]})


def parse_order(text: str) -> tuple[str, bool]:
    """Split ``passage_chars desc`` into its expression and whether it descends."""
    match = re.fullmatch(r"(.*?)(?:\s+(asc|desc))?", text.strip(), re.IGNORECASE | re.DOTALL)
    assert match is not None
    expression = match.group(1)
    parse(expression, f"prefer {text!r}")
    return expression, (match.group(2) or "asc").lower() == "desc"


def _refuse_unknown(entry: Mapping[str, Any], allowed: tuple[str, ...], what: str) -> None:
    for key in entry:
        if key not in allowed:
            close = difflib.get_close_matches(key, allowed, n=1)
            hint = f"did you mean {close[0]!r}? " if close else ""
            raise PolicyError(
                f"{what}: unknown key {key!r}; {hint}allowed are {', '.join(allowed)}"
            )
