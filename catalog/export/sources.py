"""What an export reads beside the snapshot's rows: the mining run that is meant, and scores."""

from pathlib import Path

from catalog import duck
from catalog.errors import CatalogError
from catalog.export.statements import statement
from catalog.expressions import unknown_name
from catalog.mining_runs import MiningRun, choose_run
from catalog.snapshots import Snapshot


def find_run(connection: duck.Connection, snapshot: Snapshot, name: str | None) -> MiningRun:
    """Return the run that is meant; refuse one that mined other rows than the snapshot's."""
    run = choose_run(connection, snapshot, name)
    if run is None:
        raise CatalogError(
            f"snapshot {snapshot.name} was not mined yet; run: lode mine {snapshot.name}"
        )
    if run.snapshot_digest != snapshot.digest:
        raise CatalogError(
            f"run {run.run_id} mined snapshot {run.snapshot}, which keeps other rows than "
            f"{snapshot.name}: export {run.snapshot}, or run: lode mine {snapshot.name}"
        )
    return run


def check_scores(connection: duck.Connection, model: str, run: MiningRun | None) -> None:
    """Refuse a model without scores, and one whose scores cannot stand beside the miner's."""
    rows = connection.execute("select distinct model, revision from scores").fetchall()
    revisions = sorted(revision for name, revision in rows if name == model)
    if not revisions:
        raise CatalogError(unknown_name("scores model", model, {name for name, _ in rows}))
    if len(revisions) > 1:
        raise CatalogError(
            f"model {model} has scores of several revisions ({', '.join(revisions)}); keep one: "
            "lode score --replace"
        )
    miner = run.settings["embeddings"]["query"]["model"] if run else model
    if miner != model:
        raise CatalogError(
            f"scores of positives would be by {model}, those of negatives by {miner}, which mined "
            f"run {run.run_id if run else ''}; a trainer compares them: take --score-model {miner}"
        )


def check_texts(connection: duck.Connection, snapshot: Snapshot, taken: Path) -> None:
    """Refuse candidates whose passages the snapshot's version of the lake has not."""
    row = connection.execute(statement("lost"), {"taken": str(taken)}).fetchone()
    if row is not None and row[0]:
        raise CatalogError(
            f"{row[0]:,} candidates name passages that are not in snapshot {snapshot.name} "
            f"(first: {row[1]}); run: lode mine {snapshot.name}"
        )
