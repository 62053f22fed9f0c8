"""Builds a pack in a process of its own, and kills it without warning where it is told to.

python -m tests.pack_builder CATALOG FOLDER STAGE ROWS
"""

import os
import signal
import sys

from catalog.lake import Catalog
from catalog.pack import PackSettings, build, build_pack
from catalog.snapshots import load_snapshot

SETTINGS = PackSettings(candidates_run="run", texts_per_shard=20, lists_per_shard=20)
# Functions of the last steps, which report no progress.
LAST_STEPS = ("trust_as_written", "sync_folder")


def die(*_: object) -> None:
    """End at once, as if the machine had lost power."""
    os.kill(os.getpid(), signal.SIGKILL)


def main(url: str, folder: str, stage: str, rows: str) -> None:
    """Build after a line on standard input; say whether this process did it."""
    stages = set()

    def progress(name: str, done: int) -> None:
        stages.add(name)
        if name == stage and done >= int(rows):
            die()

    if stage in LAST_STEPS:
        setattr(build, stage, die)
    catalog = Catalog.open(url)
    snapshot = load_snapshot(catalog, "v1")
    print("ready", flush=True)  # noqa: T201
    sys.stdin.readline()
    pack = build_pack(catalog, snapshot, folder, SETTINGS, progress)
    print("built" if stages else "shared", pack.manifest.key)  # noqa: T201


if __name__ == "__main__":
    main(*sys.argv[1:5])
