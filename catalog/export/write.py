"""Writing an export: a snapshot's rows, streamed in the order of their ids into one target."""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pyarrow as pa

from catalog import duck
from catalog.export.beir import write_beir
from catalog.export.files import BATCH_ROWS
from catalog.export.formats import ExportSettings, to_rows, write_pairs, write_queries
from catalog.export.negatives import write_taken
from catalog.export.place import written_whole
from catalog.export.queries import gather_queries
from catalog.export.sources import check_scores, check_texts, find_run
from catalog.export.statements import statement
from catalog.instructions import own_instruction
from catalog.lake import Catalog
from catalog.mining_runs import MiningRun
from catalog.records import now, write_json
from catalog.snapshots import Snapshot, snapshot_reader

# What was mined and scored for a snapshot came after it: it is read from the lake as it is now.
NOW: Final = "lake_now"
TAKEN_FILE: Final = ".taken.parquet"  # beside the target; no target of a user begins so
Progress = Callable[[str, int], None]

MEANINGS: Final = {
    "passages": "passages in the corpus",
    "queries": "queries",
    "short": "queries have fewer negatives than asked for",
    "pairs_left_out": "pairs of such queries left out, as every row has all its columns",
    "without_positive": "queries without a positive left out",
    "with_pos_scores": "lines have the scores of all their positives",
    "with_neg_scores": "lines have the scores of all their negatives",
}


@dataclass(frozen=True)
class Exported:
    """What was written: lines, rows or judgments; ``counts`` by MEANINGS say what else was met."""

    rows: int
    counts: dict[str, int]
    run: str | None  # the mining run that the negatives are from

    def summary(self) -> list[str]:
        """Say what else was met, for people."""
        lines = [
            f"{self.counts[name]:,} {meaning}"
            for name, meaning in MEANINGS.items()
            if self.counts.get(name)
        ]
        return [*lines, f"negatives of run {self.run}"] if self.run else lines


def export_pairs(
    catalog: Catalog,
    snapshot: Snapshot,
    path: Path,
    settings: ExportSettings,
    *,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Exported:
    """Write a snapshot's kept pairs and their negatives, and how they were made beside them.

    The target appears whole or not at all.
    """
    settings.check_name(path)
    run = _find_sources(catalog, snapshot, settings)
    counts: Counter[str] = Counter()
    with (
        written_whole(path, overwrite=overwrite) as folder,
        snapshot_reader(catalog, snapshot) as connection,
    ):
        duck.retry(lambda: connection.execute(catalog.attach_sql(NOW)))
        connection.execute("set preserve_insertion_order = true")
        licenses = _licenses(connection)
        target = folder / path.name
        if settings.format == "beir":
            rows = write_beir(connection, target, counts)
        elif settings.holds_queries:
            taken = folder / TAKEN_FILE
            write_taken(connection, run, settings.negatives, taken)
            check_texts(connection, snapshot, taken)
            bound = {"taken": str(taken), "model": settings.score_model}
            batches = _stream(connection, "queries", bound, progress)
            queries = gather_queries(to_rows(batches), settings.negatives, counts)
            rows = write_queries(settings, queries, target, counts)
        else:
            batches = _stream(connection, "pairs", {}, progress)
            rows = write_pairs(settings.format, batches, target)
    made = Exported(rows, dict(+counts), run.run_id if run else None)
    record = _describe(snapshot, settings, run, made) | {"licenses": licenses}
    write_json(path.with_name(path.name + ".lode.json"), record)
    return made


def _find_sources(
    catalog: Catalog, snapshot: Snapshot, settings: ExportSettings
) -> MiningRun | None:
    negatives, run = settings.negatives, None
    with catalog.reader() as connection:
        if negatives is not None and negatives.n > 0:
            run = find_run(connection, snapshot, negatives.run)
        if settings.score_model is not None:
            check_scores(connection, settings.score_model, run)
    return run


def _stream(
    connection: duck.Connection,
    name: str,
    bound: dict[str, str | None],
    progress: Progress | None,
) -> Iterator[pa.RecordBatch]:
    done = 0
    sql = statement(name).replace("{instruction}", own_instruction(connection, "curated", "c"))
    for batch in connection.execute(sql, bound).to_arrow_reader(BATCH_ROWS):
        yield batch
        done += batch.num_rows
        if progress is not None:
            progress("export", done)


def _describe(
    snapshot: Snapshot, settings: ExportSettings, run: MiningRun | None, made: Exported
) -> dict[str, object]:
    negatives = settings.negatives
    return {
        "snapshot": snapshot.name,
        "digest": snapshot.digest,
        "policy": f"{snapshot.policy.name} version {snapshot.policy_version}",
        "format": settings.format,
        "rows": made.rows,
        "counts": made.counts,
        "negatives": None if negatives is None else negatives.to_record(run),
        "score_model": settings.score_model,
        "written_at": now().isoformat(),
    }


def _licenses(connection: duck.Connection) -> dict[str, str]:
    rows = connection.execute(
        "select distinct source, license from sources order by source, license"
    ).fetchall()
    return {source: license or "not stated" for source, license in rows}
