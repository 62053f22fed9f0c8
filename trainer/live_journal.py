"""At which steps a run got what from the lake: a file of its folder that outlives the process."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from catalog.records import sync_file, sync_folder, write_json, writing
from trainer.candidate_lists import Update, pack_arrays, unpack_arrays

JOURNAL: Final = "live.jsonl"
START: Final = "live.json"


class Journal:
    """What a run got from the lake, step by step."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
        self._path = folder / JOURNAL
        entries = _whole_lines(self._path)
        self._through = max((entry["step"] for entry in entries), default=-1)
        self._steps = {entry["step"] for entry in entries if entry["update"]}

    def start(self, read: Callable[[], tuple[str, ...]]) -> tuple[str, ...]:
        """Return the mining runs that were there when the run began."""
        path = self.folder / START
        if not path.exists():
            write_json(path, list(read()))
        return tuple(json.loads(path.read_text(encoding="utf-8")))

    def policy_version(self, first: int) -> int:
        """Return the newest version of the policy that the run has seen."""
        updates = [self.update_at(step) for step in sorted(self._steps)]
        versions = [u.exclusions.policy_version for u in updates if u and u.exclusions]
        return max([first, *versions])

    def has_lived(self, step: int) -> bool:
        """Say whether an earlier life of the run has come to this step."""
        return step <= self._through

    def will_live(self, step: int) -> bool:
        """Say whether an earlier life has gone on after this step."""
        return step < self._through

    def update_at(self, step: int) -> Update | None:
        """Return what the run got at a step."""
        if step not in self._steps:
            return None
        return Update.from_arrays(unpack_arrays(self._file(step).read_bytes()))

    def record(self, step: int, update: Update | None) -> None:
        """Note what the run gets at a step, before it acts on it."""
        with writing(self.folder):
            if update is not None:
                self._file(step).write_bytes(pack_arrays(update.to_arrays()))
                sync_file(self._file(step))
                self._steps.add(step)
            with self._path.open("a", encoding="utf-8") as stream:
                entry = {"step": step, "update": update is not None}
                stream.write(json.dumps(entry) + "\n")
                if update is not None:  # a line without one is worth no wait for the disk
                    stream.flush()
                    os.fsync(stream.fileno())
                    sync_folder(self.folder)
        self._through = step

    def _file(self, step: int) -> Path:
        return self.folder / f"live-{step:012d}.npz"


def _whole_lines(path: Path) -> list[dict[str, Any]]:
    """Read the lines of a file and cut off half a last one: its process was killed."""
    if not path.exists():
        return []
    lines = path.read_bytes().splitlines(keepends=True)
    whole = [line for line in lines if line.endswith(b"\n")]
    os.truncate(path, sum(map(len, whole)))
    return [json.loads(line) for line in whole]
