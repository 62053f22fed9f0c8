"""What a run of a recipe has done: one small file in its folder, written after every stage."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from catalog.errors import CatalogError
from catalog.records import to_json, write_json

FILE: Final = "stages.json"


class Journal:
    """Stages that are done, with the settings that they ran with and what they made."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / FILE
        self.done: dict[str, dict[str, Any]] = {}
        if self.path.exists():
            self.done = json.loads(self.path.read_text(encoding="utf-8"))

    def is_done(self, stage: str, settings: Mapping[str, Any]) -> bool:
        """Say whether a stage is done; raise where it was done with other settings."""
        if stage not in self.done:
            return False
        there, here = self.done[stage]["settings"], json.loads(to_json(settings))
        differing = sorted(_differences("", there, here))
        if differing:
            raise CatalogError(
                f"{self.path.parent} has done {stage} with other settings (other "
                f"{', '.join(differing)}); run the recipe as it was, or choose another folder"
            )
        return True

    def write(self, stage: str, settings: Mapping[str, Any], made: Mapping[str, str]) -> None:
        """Record that a stage is done."""
        self.done[stage] = {"settings": json.loads(to_json(settings)), "made": dict(made)}
        write_json(self.path, self.done)

    def newest(self, what: str) -> str | None:
        """Return what the latest of the stages that are done has made of a kind."""
        found = (entry["made"].get(what) for entry in reversed(self.done.values()))
        return next((made for made in found if made is not None), None)


def _differences(prefix: str, there: Any, here: Any) -> list[str]:
    if isinstance(there, dict) and isinstance(here, dict):
        return [
            name
            for key in there.keys() | here.keys()
            for name in _differences(f"{prefix}.{key}".strip("."), there.get(key), here.get(key))
        ]
    return [] if there == here else [prefix]
