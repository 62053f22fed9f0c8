"""Training without a catalog: one is made beside the run out of files of pairs.

    catalog, snapshot = catalog_of(["train.jsonl"], Path("runs/x"))

It is a catalog like any other, so that everything that reads one works on such a run, too. Its
snapshot ``data`` holds every pair that could be read. A run has its data for good: other files, or
files that have changed, are refused.
"""

import fcntl
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from catalog.errors import CatalogError
from catalog.executors import ExecutorSettings
from catalog.files import known_files
from catalog.lake import Catalog, scalar
from catalog.policies import Policy
from catalog.policy_commit import commit_policy
from catalog.records import writing
from catalog.snapshots import Snapshot, create_snapshot
from curation.fresh_files import hash_source
from curation.ingest import find_sources, ingest_files
from curation.sources import Source

log = logging.getLogger(__name__)

FOLDER: Final = "corpus"
SNAPSHOT: Final = "data"
KEEP_ALL: Final = Policy("keep-all", ())
_LOCK: Final = ".data.lock"


def catalog_of(files: Sequence[str | Path], out: Path) -> tuple[Catalog, Snapshot]:
    """Make the catalog of a run's own files in ``out``, or open it where it is there already.

    Several processes may call it at once: the first does the work. CatalogError where the run in
    ``out`` has other data, or where no pair could be read.
    """
    sources = find_sources(files)
    with _alone(out):
        catalog = Catalog.create(str(out / FOLDER))
        if not _holds(catalog, sources, out):
            workers = min(len(sources), ExecutorSettings().workers)
            ingest_files(catalog, sources, executor=ExecutorSettings(workers))
        commit_policy(catalog, KEEP_ALL)
        snapshot = create_snapshot(catalog, SNAPSHOT, KEEP_ALL.name)
    _check_rows(catalog, snapshot)
    return catalog, snapshot


def _holds(catalog: Catalog, sources: Sequence[Source], out: Path) -> bool:
    """Say whether the catalog has these files; raise where it has others."""
    with catalog.reader() as connection:
        held = {file.sha256: file.path for file in known_files(connection)}
    if not held:
        return False
    given = {hash_source(source): str(source.path) for source in sources}
    other = sorted(set(given) ^ set(held))
    if other:
        path = given.get(other[0]) or held[other[0]]
        raise CatalogError(
            f"the run in {out} has other data: {path} has changed, or was not there, or is not "
            "given any more; give the files that it began with, or choose another folder"
        )
    return True


def _check_rows(catalog: Catalog, snapshot: Snapshot) -> None:
    """Say how many rows are missing; raise where none is left to train on."""
    with catalog.reader() as connection:
        unread = scalar(connection, "select count(*) from quarantine")
        reason = connection.execute("select reason from quarantine limit 1").fetchone()
    if unread:
        log.warning(
            "%s rows could not be read, the first because: %s; see the table quarantine in %s",
            f"{unread:,}", reason[0] if reason else "", catalog.location.url,
        )  # fmt: skip
    if not snapshot.kept:
        raise CatalogError(
            f"no pair could be read of the files in {catalog.location.url}; "
            "see how with: lode ingest FILE --explain"
        )


@contextmanager
def _alone(out: Path) -> Iterator[None]:
    """Let one process of this folder in at a time."""
    with writing(out):
        out.mkdir(parents=True, exist_ok=True)
        lock = (out / _LOCK).open("w")
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
