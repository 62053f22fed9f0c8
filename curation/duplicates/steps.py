"""The steps of a deduplication that run as tasks: find pairs, collect texts, compare, propose more.

A step carries plain values and paths. What it leaves for the next is in the job's scratch folder,
what it leaves for the lake are edges; both depend on the task alone.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datatrove.pipeline.base import PipelineStep

from catalog.jobs import JobOutput, TaskOutput
from catalog.storage import open_parquet
from curation.duplicates.buckets import bucket_pairs
from curation.duplicates.edges import edge_table, verify
from curation.duplicates.graph import EdgeGraph
from curation.duplicates.idset import IdSet
from curation.duplicates.neighbors import BAND, NEIGHBOR
from curation.duplicates.pairs import Ids, subtract
from curation.duplicates.scratch import Bound, PairRuns, TextFiles
from curation.duplicates.settings import MIN_MEMORY_MB, DuplicateSettings
from curation.minhash import Hashes
from curation.texts import decode, normalize

FIND: Final = "near-find"
COLLECT: Final = "near-collect"
COMPARE: Final = "near-compare"
PROPOSE: Final = "near-propose"
COMPARE_MORE: Final = "near-compare-more"


@dataclass(frozen=True)
class RowGroup:
    """A row group of a Parquet file of the lake."""

    path: str
    number: int
    rows: int

    def read(self, *columns: str) -> pa.Table:
        """Read some columns."""
        return open_parquet(self.path).read_row_group(self.number, columns=list(columns))


@dataclass(frozen=True)
class BandPart:
    """Where a task looks for buckets: in one of equal parts of a band's keys."""

    band: int
    part: int
    parts: int


@dataclass(frozen=True)
class Work:
    """What all steps of a job know."""

    output: JobOutput
    settings: DuplicateSettings
    new_from: int  # the first pair id that is not compared yet
    workers: int

    @property
    def scratch(self) -> Path:
        """The folder for what steps leave for each other."""
        return self.output.folder / "scratch"

    @property
    def share(self) -> DuplicateSettings:
        """The settings with one worker's share of the memory."""
        share_mb = max(MIN_MEMORY_MB, self.settings.memory_mb // self.workers)
        return replace(self.settings, memory_mb=share_mb)

    @property
    def representatives(self) -> Path:
        """The set of pairs that stand for their text: the first that holds it."""
        return self.scratch / "representatives.npz"

    @property
    def candidates(self) -> Path:
        """The set of pairs whose texts are needed."""
        return self.scratch / "candidates.npz"

    @property
    def found(self) -> PairRuns:
        """Pairs that share a band key."""
        return PairRuns(self.scratch, FIND)

    @property
    def proposed(self) -> PairRuns:
        """Pairs that share a neighbor."""
        return PairRuns(self.scratch, PROPOSE)

    @property
    def texts(self) -> TextFiles:
        """The texts of the candidates."""
        return TextFiles(self.scratch)

    @property
    def graph(self) -> EdgeGraph:
        """The edges that band keys found."""
        return EdgeGraph(self.scratch / "graph")


class DuplicateStep(PipelineStep):  # type: ignore[misc]
    """A step whose tasks leave nothing but files."""

    type = "DUPLICATES"
    name = "step"
    stage = ""

    def __init__(self, work: Work, tasks: Sequence[Any]) -> None:
        super().__init__()
        self.work = work
        self.tasks = tasks

    def run(self, data: Any = None, rank: int = 0, world_size: int = 1) -> Iterator[None]:
        """Do one task; nothing flows on."""
        with self.work.output.task(self.stage, rank) as out:
            self.do(rank, out)
        yield from ()

    def do(self, rank: int, out: TaskOutput) -> None:
        """Do one task."""
        raise NotImplementedError

    def write(self, rank: int, out: TaskOutput, table: str, rows: pa.Table) -> None:
        """Write rows of a table of the lake."""
        out.write(table, rows)
        out.note(table, rows.num_rows)
        self.report(rank, out.notes[table])

    def report(self, rank: int, done: int) -> None:
        """Note how much of a task is done."""
        self.work.output.report_progress(self.stage, rank, done)


class FindPairs(DuplicateStep):
    """Finds the pairs to compare in some bands; a task is a list of BandPart."""

    name = "find pairs"
    stage = FIND

    def __init__(self, work: Work, tasks: Sequence[Any], groups: Sequence[RowGroup]) -> None:
        super().__init__(work, tasks)
        self.groups = groups

    def do(self, rank: int, out: TaskOutput) -> None:
        """Write the task's pairs."""
        representatives = IdSet.load(self.work.representatives)
        runs = (
            run
            for done, part in enumerate(self.tasks[rank])
            for run in self._pairs(part, representatives, rank, done)
        )
        out.note("pairs", self.work.found.save(rank, runs))

    def _pairs(self, part: BandPart, representatives: IdSet, rank: int, done: int) -> Iterator[Any]:
        keys, ids = self.read(part, representatives)
        yield from bucket_pairs(keys, ids, self.work.settings, self.work.new_from)
        self.report(rank, done + 1)

    def read(self, part: BandPart, representatives: IdSet) -> tuple[Hashes, Ids]:
        """Read the keys of a part and the ids of the pairs that stand for their text."""
        column = f"b{part.band:02d}"
        all_keys, all_ids = [np.empty(0, np.uint64)], [np.empty(0, np.int64)]
        for group in self.groups:
            rows = group.read("pair_id", column).drop_null()
            keys, ids = rows[column].to_numpy(), rows["pair_id"].to_numpy()
            # Upper bits decide the part, lower bits the slots that buckets are found with.
            parts = ((keys >> np.uint64(32)) * np.uint64(part.parts)) >> np.uint64(32)
            kept = (parts == part.part) & representatives.contains(ids)
            all_keys.append(keys[kept])
            all_ids.append(ids[kept])
        return np.concatenate(all_keys), np.concatenate(all_ids)


class CollectTexts(DuplicateStep):
    """Collects the normalised texts of candidates; a task is a list of RowGroup of pairs."""

    name = "collect texts"
    stage = COLLECT

    def do(self, rank: int, out: TaskOutput) -> None:
        """Write the texts of the task's row groups."""
        candidates = IdSet.load(self.work.candidates)
        columns = ["positive"] if self.work.settings.text == "passage" else ["query", "positive"]
        done = 0
        for part, group in enumerate(self.tasks[rank]):
            ids = group.read("pair_id")["pair_id"].to_numpy()
            wanted = candidates.contains(ids)
            if wanted.any():
                texts = compared_texts(group.read(*columns).filter(pa.array(wanted)))
                self.work.texts.save(rank, part, ids[wanted], normalize(decode(texts)))
            done += group.rows
            self.report(rank, done)


def compared_texts(pairs: pa.Table) -> pa.ChunkedArray:
    """Return the texts that are compared: passages, or where there are queries both as one."""
    if "query" not in pairs.column_names:
        return pairs["positive"]
    return pc.binary_join_element_wise(
        pairs["query"], pairs["positive"], "\n", null_handling="skip"
    )


class ComparePairs(DuplicateStep):
    """Compares the pairs that share a band key; a task is a stretch of them."""

    name = "compare pairs"
    stage = COMPARE
    kind = BAND

    def do(self, rank: int, out: TaskOutput) -> None:
        """Write the task's edges."""
        pairs = self.pairs(*self.tasks[rank])
        edges = verify(pairs, self.work.texts.open().fetch, self.work.share)
        self.write(rank, out, "duplicate_edges", edge_table(self.kind, *edges))
        out.note("compared", len(pairs))
        self.report(rank, len(pairs))

    def pairs(self, first: Bound, end: Bound) -> Any:
        """Return the pairs of a stretch."""
        return self.work.found.between(first, end)


class CompareProposed(ComparePairs):
    """Compares the pairs that share a neighbor and were not compared; a task is a stretch."""

    name = "compare proposed pairs"
    stage = COMPARE_MORE
    kind = NEIGHBOR

    def pairs(self, first: Bound, end: Bound) -> Any:
        """Return the pairs of a stretch."""
        return subtract(self.work.proposed.between(first, end), self.work.found.between(first, end))


class ProposePairs(DuplicateStep):
    """Proposes pairs that share a neighbor; a task is a range of the graph's texts."""

    name = "propose pairs"
    stage = PROPOSE

    def do(self, rank: int, out: TaskOutput) -> None:
        """Write the task's proposals."""
        begin, end = self.tasks[rank]
        runs = self.work.graph.propose(begin, end, self.work.settings.neighbors)
        out.note("pairs", self.work.proposed.save(rank, runs))
        self.report(rank, end - begin)
