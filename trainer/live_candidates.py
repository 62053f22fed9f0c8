"""Changes of the lake during a run: lists mined again, and pairs that a revised policy drops.

A background thread asks the lake, so that no step waits; what it found is handed out at the next
check. Which check that was is written to the run's folder before anything is decided from it: a
run that goes on from an earlier checkpoint gets the same answers at the same steps again, and
looks for new ones only beyond the last step it has lived.
"""

import contextlib
import logging
import threading
from collections.abc import Callable
from pathlib import Path

from catalog import duck
from catalog.errors import CatalogError
from catalog.lake import Catalog
from catalog.pack import Pack
from catalog.snapshots import Snapshot
from trainer.candidate_lists import Update
from trainer.lake_changes import Known, Marked, find_update, runs_at_start
from trainer.live_journal import Journal

log = logging.getLogger(__name__)


class LiveCandidates:
    """What the lake has for a run, asked by one process.

    It is asked after the checks whose step is a multiple of ``every_steps``. ``folder`` is the
    run's own: a run that begins anew begins with an empty one.
    """

    def __init__(
        self, catalog: Catalog, pack: Pack, snapshot: Snapshot, folder: Path, every_steps: int = 100
    ) -> None:
        if every_steps < 1:
            raise ValueError(f"every_steps is {every_steps}; it must be at least 1")
        self.catalog, self.pack, self.snapshot = catalog, pack, snapshot
        self.every_steps = every_steps
        self._journal = Journal(folder)
        self._start = self._journal.start(lambda: runs_at_start(catalog, pack))
        self._policy_version = self._journal.policy_version(snapshot.policy_version)
        self._thread: threading.Thread | None = None
        self._found: Update | None = None
        self._opened = contextlib.ExitStack()
        self._connection: duck.Connection | None = None

    def take(self, step: int) -> Update | None:
        """Return what the last look has found, if it has ended; ``step`` is that of a check."""
        if step % self.every_steps:
            return None
        if self._journal.has_lived(step):
            return self._journal.update_at(step)
        if self._is_looking():
            self._journal.record(step, None)
            return None
        found, self._found = self._found, None
        self._journal.record(step, found)
        if found is not None and found.exclusions is not None:
            self._policy_version = found.exclusions.policy_version
        return found

    def look(self, step: int, list_marked: Callable[[], Marked]) -> None:
        """Begin to look for what is new, once the check of this step is over."""
        if step % self.every_steps or self._journal.will_live(step) or self._is_looking():
            return
        known = Known(self._start, self._policy_version)
        self._thread = threading.Thread(
            target=self._look, args=(list_marked(), known), name="lode-live", daemon=True
        )
        self._thread.start()

    def wait(self) -> None:
        """Wait for a look that is under way."""
        if self._thread is not None:
            self._thread.join()

    def close(self) -> None:
        """End the last look and let go of the lake; what it found is dropped."""
        self.wait()
        self._disconnect()

    def _is_looking(self) -> bool:
        return self._thread is not None and self._thread.is_alive()

    def _look(self, marked: Marked, known: Known) -> None:
        try:
            update = find_update(self._connect(), self.pack, self.snapshot, marked, known)
        except (CatalogError, duck.Error, OSError) as error:
            # Training goes on with what it has; the next look tries again.
            log.warning("the catalog could not be asked for new candidates: %s", error)
            self._disconnect()
            return
        self._found = None if update.is_empty() else update

    def _connect(self) -> duck.Connection:
        """Open the lake once: that takes ten times as long as asking it."""
        if self._connection is None:
            self._connection = self._opened.enter_context(self.catalog.reader())
            self._connection.execute("set threads = 1")  # the others are training's
        return self._connection

    def _disconnect(self) -> None:
        self._connection = None
        self._opened.close()
