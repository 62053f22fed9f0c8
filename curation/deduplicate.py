"""Deduplication of a catalog: equal pairs, groups of equal texts, clusters of similar texts.

    pairs ─ keys ─▶ text_ids                 which pair stands for a text
    band_keys ─ find ─▶ pairs to compare ─ collect their texts ─ compare ─▶ duplicate_edges
    duplicate_edges ─ propose neighbors' neighbors ─ compare ─▶ duplicate_edges
    duplicate_edges ─ join ─▶ duplicates     exact and near clusters

New files are compared with everything that is there, and nothing old is compared again. All of it
starts again where that would not give the same: after files were replaced, where a file with a
smaller number came later, and when settings that decide edges have changed.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Final

from catalog import duck
from catalog.errors import CatalogError
from catalog.executors import ExecutorSettings, ProgressCallback, run_tasks
from catalog.files import first_pair_id
from catalog.jobs import Job, open_job
from catalog.lake import LAKE, Catalog, current_version
from catalog.schema import FILE_SHIFT
from catalog.storage import open_parquet
from curation.duplicates import DuplicateSettings
from curation.duplicates.neighbors import BAND
from curation.duplicates.steps import (
    BandPart,
    CollectTexts,
    ComparePairs,
    CompareProposed,
    DuplicateStep,
    FindPairs,
    ProposePairs,
    RowGroup,
    Work,
)
from curation.duplicates.tables import (
    LakeView,
    WriteClusters,
    WriteTextIds,
    save_candidates,
)

KIND: Final = "duplicates"
# Settings that a stored edge does not depend on.
CLUSTER_SETTINGS: Final = ("threshold", "template_min_size")
COST_SETTINGS: Final = ("memory_mb",)

# A key and its id, read and put together, and two slots to find its bucket with.
_BYTES_PER_KEY: Final = 2 * 16 + 8
# Each task is some seconds of work: a lost worker costs no more, a small catalog needs one task.
_TASK_KEYS: Final = 20_000_000
_TASK_ROWS: Final = 500_000
_TASK_PAIRS: Final = 4_000_000
_TASK_TEXTS: Final = 1_000_000


@dataclass(frozen=True)
class Deduplicated:
    """What a run of ``deduplicate`` did."""

    job_id: str | None  # None: there was nothing to do
    new_pairs: int = 0
    compared: int = 0
    edges: int = 0
    duplicates: int = 0


@dataclass(frozen=True)
class _Start:
    """What the catalog holds when a job begins, and where it has to go on."""

    version: int
    files: list[int]
    new_from: int
    from_scratch: bool
    previous: str | None  # the last deduplication
    is_done: bool

    @property
    def inputs(self) -> dict[str, object]:
        """What decides the result, beside the settings."""
        return {"files": self.files, "new_from": self.new_from, "previous": self.previous}


def deduplicate(
    catalog: Catalog,
    settings: DuplicateSettings | None = None,
    executor: ExecutorSettings | None = None,
    progress: ProgressCallback | None = None,
    recipe: str | None = None,
) -> Deduplicated:
    """Find the duplicates among all pairs, comparing those that are new."""
    settings = settings or DuplicateSettings()
    executor = executor or ExecutorSettings()
    sharing = executor.tasks_per_machine
    with catalog.reader() as connection:
        start = _survey(connection, settings)
    if start.is_done:
        return Deduplicated(None)
    with open_job(catalog, KIND, asdict(settings), start.inputs, recipe) as job:
        if job.is_committed():
            return Deduplicated(job.job_id)
        plan: dict[str, Any] = job.plan(lambda: _make_plan(catalog, start, sharing))
        # Tasks were cut to the share of each worker: more workers would need more memory.
        if sharing > plan["workers"]:
            executor = replace(executor, workers=plan["workers"])
        _run(job, settings, start, plan, executor, progress)
        return _commit(job, start)


def _survey(connection: duck.Connection, settings: DuplicateSettings) -> _Start:
    """Compare the catalog's files with those that earlier runs went through."""
    files = _ids(connection, "select file_id from files where rows > 0")
    known = _ids(connection, f"select distinct pair_id >> {FILE_SHIFT} from text_ids")
    keyed = _ids(connection, f"select distinct pair_id >> {FILE_SHIFT} from band_keys")
    if files - keyed:
        raise CatalogError(
            f"{len(files - keyed)} files have no band keys yet (first: number "
            f"{min(files - keyed)}); measure them first: lode curate does both"
        )
    previous, stored = _last_run(connection)
    wanted = asdict(settings)
    changed = {name for name in wanted if stored.get(name) != wanted[name]} - set(COST_SETTINGS)
    fresh = files - known
    if known - files or (known and fresh and min(fresh) < max(known)):
        known = set()  # pairs that went, or that belong before those that were compared
    if changed - set(CLUSTER_SETTINGS):
        known = set()
    fresh = files - known
    return _Start(
        version=current_version(connection),
        files=sorted(files),
        new_from=first_pair_id(max(known) + 1) if known else 0,
        from_scratch=not known,
        previous=previous,
        is_done=not fresh and (not changed or not files),
    )


def _ids(connection: duck.Connection, sql: str) -> set[int]:
    return {int(number) for (number,) in connection.execute(sql).fetchall()}


def _last_run(connection: duck.Connection) -> tuple[str | None, dict[str, object]]:
    row = connection.execute(
        "select run_id, settings from runs where kind = ? "
        "order by finished_at desc, run_id limit 1",
        [KIND],
    ).fetchone()
    return (row[0], json.loads(row[1])) if row else (None, {})


def _make_plan(catalog: Catalog, start: _Start, workers: int) -> dict[str, Any]:
    """Note the version of the lake, the size of its files and the row groups to read."""
    with catalog.reader(start.version) as connection:
        sizes = connection.execute(
            f"select pair_id >> {FILE_SHIFT}, max(pair_id & ((1::bigint << {FILE_SHIFT}) - 1)) + 1 "
            "from pairs group by all order by all"
        ).fetchall()
        groups = {table: _row_groups(connection, table) for table in ("pairs", "band_keys")}
    return {"version": start.version, "workers": workers, "file_rows": sizes, **groups}


def _row_groups(connection: duck.Connection, table: str) -> list[tuple[str, int, int]]:
    paths = connection.execute(
        f"select data_file from ducklake_list_files('{LAKE}', '{table}') order by data_file"
    ).fetchall()
    groups = []
    for (path,) in paths:
        metadata = open_parquet(path).metadata
        for number in range(metadata.num_row_groups):
            groups.append((path, number, metadata.row_group(number).num_rows))
    return groups


def _run(
    job: Job,
    settings: DuplicateSettings,
    start: _Start,
    plan: dict[str, Any],
    executor: ExecutorSettings,
    progress: ProgressCallback | None,
) -> None:
    """Run the stages one after the other; those that are done are passed over."""
    work = Work(job.output, settings, start.new_from, plan["workers"])
    file_rows = {int(file_id): int(rows) for file_id, rows in plan["file_rows"]}

    def stage(kind: type[DuplicateStep], tasks: Sequence[Any], *more: Any) -> None:
        run_tasks(job, kind.stage, [kind(work, tasks, *more)], len(tasks), executor, progress)

    stage(WriteTextIds, [_lake(job, settings, start, plan)], file_rows)
    groups = [RowGroup(*group) for group in plan["band_keys"]]
    stage(FindPairs, _find_tasks(groups, work), groups)
    save_candidates(work, _lake(job, settings, start, plan), file_rows)
    stage(CollectTexts, _collect_tasks([RowGroup(*group) for group in plan["pairs"]]))
    stage(ComparePairs, work.found.cut(_TASK_PAIRS))
    stage(ProposePairs, _propose_tasks(work, _lake(job, settings, start, plan)))
    stage(CompareProposed, work.proposed.cut(_TASK_PAIRS, work.found))
    stage(WriteClusters, [_lake(job, settings, start, plan)])


def _lake(job: Job, settings: DuplicateSettings, start: _Start, plan: dict[str, Any]) -> LakeView:
    """Look at the lake and at what the job's finished tasks wrote."""
    data = job.output.data
    written = [file for manifest in job.manifests() for file in manifest.files]
    paths = {
        table: sorted(f"{data}/{file.path}" for file in written if file.table == table)
        for table in ("text_ids", "duplicate_edges")
    }
    return LakeView(
        job.catalog,
        plan["version"],
        start.from_scratch,
        settings.memory_mb,
        paths["text_ids"],
        paths["duplicate_edges"],
    )


def _find_tasks(groups: Sequence[RowGroup], work: Work) -> list[list[BandPart]]:
    """Cut the bands into parts that fit a worker's memory, and gather small ones."""
    keys = max(1, sum(group.rows for group in groups))
    parts = -(-keys * _BYTES_PER_KEY // (work.share.memory_mb << 20))
    units = [
        BandPart(band, part, parts) for band in range(work.settings.bands) for part in range(parts)
    ]
    size = max(1, _TASK_KEYS * parts // keys)
    return [units[at : at + size] for at in range(0, len(units), size)]


def _collect_tasks(groups: Sequence[RowGroup]) -> list[list[RowGroup]]:
    tasks: list[list[RowGroup]] = []
    rows = _TASK_ROWS
    for group in groups:
        if rows + group.rows > _TASK_ROWS:
            tasks.append([])
            rows = 0
        tasks[-1].append(group)
        rows += group.rows
    return tasks


def _propose_tasks(work: Work, lake: LakeView) -> list[tuple[int, int]]:
    """Build the graph of the edges that band keys found, and cut its new texts into ranges."""
    if work.settings.neighbors == 0:
        return []
    if not work.graph.is_built():
        with lake.open() as connection:
            work.graph.build(connection, f"(select * from every_edge where kind = '{BAND}')")
    begin, end = work.graph.rows_from(work.new_from)
    return [(at, min(at + _TASK_TEXTS, end)) for at in range(begin, end, _TASK_TEXTS)]


def _commit(job: Job, start: _Start) -> Deduplicated:
    """Publish text ids, edges and clusters together, unless what they stand on has changed."""

    def check(connection: duck.Connection) -> None:
        gone = set(start.files) - _ids(connection, "select file_id from files")
        if gone or _last_run(connection)[0] != start.previous:
            raise CatalogError(
                "while duplicates were being found, "
                + (f"file {min(gone)} was replaced" if gone else "another run found them")
                + "; nothing was changed: run the command again"
            )

    replaced = ["duplicates"]
    if start.from_scratch:
        replaced += ["text_ids", "duplicate_edges"]
    manifests = job.commit(check, replace_tables=tuple(replaced))
    notes: dict[str, int] = {}
    for manifest in manifests:
        for name, amount in manifest.notes.items():
            notes[name] = notes.get(name, 0) + amount
    return Deduplicated(
        job.job_id,
        notes.get("text_ids", 0),
        notes.get("compared", 0),
        notes.get("duplicate_edges", 0),
        notes.get("duplicates", 0),
    )
