"""Mining runs: which there are, and which one is meant."""

import json
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from catalog import duck
from catalog.errors import CatalogError
from catalog.expressions import unknown_name
from catalog.snapshots import Snapshot


@dataclass(frozen=True)
class MiningRun:
    """A finished run of ``lode mine`` with its settings, resolved."""

    run_id: str
    settings: dict[str, Any]
    finished_at: datetime

    @property
    def snapshot(self) -> str:
        """Name the snapshot that was mined."""
        return str(self.settings["snapshot"])

    @property
    def snapshot_digest(self) -> str:
        """Return the digest of the snapshot's rows."""
        return str(self.settings["snapshot_digest"])

    @property
    def is_partial(self) -> bool:
        """Only the queries that a training run had used up were mined."""
        return self.settings.get("train_run") is not None


def list_mining_runs(connection: duck.Connection) -> list[MiningRun]:
    """List all mining runs, the newest first."""
    rows = connection.execute(
        "select run_id, settings, finished_at from runs where kind = 'mine' "
        "order by finished_at desc, run_id"
    ).fetchall()
    return [MiningRun(run, json.loads(settings), finished) for run, settings, finished in rows]


def choose_run(
    connection: duck.Connection, snapshot: Snapshot | None = None, name: str | None = None
) -> MiningRun | None:
    """Return the run that a name, or a part of it that fits no other, means.

    Without a name it is the newest of the snapshot's rows, or of all where no snapshot is given,
    that mined every query; None where there is none.
    """
    runs = list_mining_runs(connection)
    if name is None:
        whole = (run for run in runs if not run.is_partial)
        of_rows = (r for r in whole if snapshot is None or r.snapshot_digest == snapshot.digest)
        return next(of_rows, None)
    exact = [run for run in runs if run.run_id == name]
    fitting = exact or [run for run in runs if name in run.run_id]
    if len(fitting) > 1:
        found = ", ".join(run.run_id for run in fitting)
        raise CatalogError(f"mining run {name!r} fits several: {found}; write more of it")
    if not fitting:
        raise CatalogError(unknown_name("mining run", name, [run.run_id for run in runs]))
    return fitting[0]
