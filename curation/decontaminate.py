"""Decontamination: which pairs hold a text of an evaluation set, and which text of which set.

    decontaminate(catalog, read_evaluation_sets(["eval"]))

What is found are rows of the table ``contamination``; a policy decides what they mean. New files
and new or changed sets are compared, and nothing that was compared before.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datatrove.pipeline.base import PipelineStep

from catalog import duck
from catalog.evaluation_sets import EvaluationSet
from catalog.executors import ExecutorSettings, ProgressCallback, run_tasks
from catalog.jobs import Job, JobOutput, open_job
from catalog.lake import Catalog
from catalog.records import write_json
from catalog.schema import CONTAMINATION, FILE_SHIFT
from curation.contamination_index import ContaminationIndex, Matches
from curation.measure import ReadPairs, plan_tasks
from curation.signals import PairBatch

STAGE: Final = "decontaminate"
TABLE: Final = "contamination"
FILES_TABLE: Final = "contamination_files"
SIDES: Final = ("query", "passage")
# Nearer than this is found and stored; a policy can ask for more.
FLOOR: Final = 0.7
_PLACES: Final = "places.arrow"


@dataclass(frozen=True)
class Decontaminated:
    """What a run compared: pairs that were read, and rows that were found."""

    job_id: str | None  # None: there was nothing to do
    pairs: int
    found: int


@dataclass(frozen=True)
class _Gap:
    """A set, and the files that it was not compared with."""

    name: str
    digest: str
    is_changed: bool
    file_ids: tuple[int, ...]


def decontaminate(
    catalog: Catalog,
    sets: Sequence[EvaluationSet],
    executor: ExecutorSettings | None = None,
    progress: ProgressCallback | None = None,
    recipe: str | None = None,
) -> Decontaminated:
    """Compare the catalog with evaluation sets; only what was not compared yet."""
    with catalog.reader() as connection:
        gaps = [gap for one in sets if (gap := _find_gap(connection, one)) is not None]
    if not gaps:
        return Decontaminated(None, 0, 0)
    inputs = {"gaps": [[gap.name, gap.digest, list(gap.file_ids)] for gap in gaps]}
    with open_job(catalog, STAGE, {"floor": FLOOR}, inputs, recipe) as job:
        pairs = found = 0
        if not job.is_committed():
            folder = job.folder / "scratch"
            _write_index(folder, sets, gaps)
            file_ids = {file_id for gap in gaps for file_id in gap.file_ids}
            tasks: Any = job.plan(lambda: plan_tasks(catalog, file_ids))["tasks"]
            steps = [
                ReadPairs(job.output, tasks, STAGE),
                FindContamination(job.output, folder, gaps),
            ]
            run_tasks(job, STAGE, steps, len(tasks), executor, progress)
            notes = [manifest.notes for manifest in _commit(job, gaps)]
            pairs, found = (sum(n.get(name, 0) for n in notes) for name in ("pairs", "found"))
    return Decontaminated(job.job_id, pairs, found)


class FindContamination(PipelineStep):  # type: ignore[misc]
    """Compares both sides of every pair with the evaluation texts, and writes what it finds."""

    type = "MATCHER"
    name = "contamination"

    def __init__(self, output: JobOutput, folder: Path, gaps: Sequence[_Gap]) -> None:
        super().__init__()
        self.output = output
        self.folder = folder
        self.gaps = gaps

    def run(self, data: Iterator[pa.Table], rank: int = 0, world_size: int = 1) -> Iterator[None]:
        """Write the rows of one task; nothing flows on."""
        index = ContaminationIndex.load(self.folder)
        with pa.memory_map(str(self.folder / _PLACES)) as source:
            places = pa.ipc.open_file(source).read_all()
        with self.output.task(STAGE, rank) as out:
            for pairs in data:
                batch = PairBatch(pairs)
                for side in SIDES:
                    texts = batch.normalized_query if side == "query" else batch.normalized_passage
                    rows = contamination_rows(
                        batch.column("pair_id"), side, index.match(texts, FLOOR), places
                    )
                    rows = _of_gaps(rows, self.gaps)
                    if rows.num_rows:
                        out.write(TABLE, rows)
                    out.note("found", rows.num_rows)
                out.note("pairs", len(batch))
        yield from ()


def contamination_rows(
    pair_ids: pa.ChunkedArray | pa.Array, side: str, matches: Matches, places: pa.Table
) -> pa.Table:
    """Make a row for each place that a matched text has in the sets.

    ``places`` (text, set, place) is sorted by text: one text can stand in several sets.
    """
    numbers = places["text"].to_numpy()
    low = np.searchsorted(numbers, matches.texts, "left")
    counts = np.searchsorted(numbers, matches.texts, "right") - low
    of_match = np.repeat(np.arange(len(matches.texts)), counts)
    within = np.arange(len(of_match)) - np.repeat(np.cumsum(counts) - counts, counts)
    found = places.take(pa.array(np.repeat(low, counts) + within))
    jaccard = matches.jaccard[of_match]
    kinds = pa.array(np.where(matches.is_equal[of_match], "exact", "near"), pa.string())
    ids = pc.take(pair_ids, pa.array(matches.rows[of_match]))
    columns = [
        ids.combine_chunks() if isinstance(ids, pa.ChunkedArray) else ids,
        pa.repeat(side, len(of_match)), found["set"].combine_chunks(),
        found["place"].combine_chunks(), kinds, pa.array(jaccard, pa.float32()),
    ]  # fmt: skip
    return pa.table(columns, schema=CONTAMINATION)


def _find_gap(connection: duck.Connection, one: EvaluationSet) -> _Gap | None:
    """Return the files with which a set, as it is now, was not compared."""
    rows = connection.execute(
        f'select file_id, digest from {FILES_TABLE} where "set" = ?', [one.name]
    ).fetchall()
    is_changed = any(digest != one.digest for _, digest in rows)
    known = {file_id for file_id, digest in rows if digest == one.digest}
    all_files = connection.execute("select file_id from files where rows > 0 order by 1").fetchall()
    missing = tuple(file_id for (file_id,) in all_files if file_id not in known)
    if not missing and not is_changed:
        return None
    return _Gap(one.name, one.digest, is_changed, missing)


def _write_index(folder: Path, sets: Sequence[EvaluationSet], gaps: Sequence[_Gap]) -> None:
    """Write the texts of the sets that have gaps; what is complete stays."""
    if (folder / "index.json").exists():
        return
    named = {gap.name for gap in gaps}
    wanted = [one for one in sets if one.name in named]
    index, numbers = ContaminationIndex.build([text for one in wanted for text in one.texts])
    index.save(folder)
    names = [one.name for one in wanted for _ in one.texts]
    places = [place for one in wanted for place in one.places]
    table = pa.table({"text": numbers.reshape(-1), "set": names, "place": places})
    table = table.sort_by([("text", "ascending"), ("set", "ascending"), ("place", "ascending")])
    with (
        pa.OSFile(str(folder / _PLACES), "wb") as sink,
        pa.ipc.new_file(sink, table.schema) as writer,
    ):
        writer.write_table(table)
    write_json(folder / "index.json", {"texts": len(index.keys)})


def _of_gaps(rows: pa.Table, gaps: Sequence[_Gap]) -> pa.Table:
    """Leave out what an earlier run has found: a set compared with a file already."""
    if len({gap.file_ids for gap in gaps}) == 1:
        return rows  # all sets lack the same files, and no other file was read
    file_ids = pc.shift_right(rows["pair_id"], FILE_SHIFT)
    keep = pa.nulls(rows.num_rows, pa.bool_()).fill_null(False)
    for gap in gaps:
        here = pc.and_(
            pc.equal(rows["set"], gap.name),
            pc.is_in(file_ids, pa.array(gap.file_ids, pa.int64())),
        )
        keep = pc.or_(keep, here)
    return rows.filter(keep)


def _commit(job: Job, gaps: Sequence[_Gap]) -> Any:
    def forget(connection: duck.Connection) -> None:
        for gap in gaps:
            if gap.is_changed:
                for table in (TABLE, FILES_TABLE):
                    connection.execute(f'delete from {table} where "set" = ?', [gap.name])

    def record(connection: duck.Connection) -> None:
        rows = [(gap.name, gap.digest, file_id) for gap in gaps for file_id in gap.file_ids]
        if rows:
            connection.executemany(f"insert into {FILES_TABLE} values (?, ?, ?)", rows)

    return job.commit(forget, finish=record)
