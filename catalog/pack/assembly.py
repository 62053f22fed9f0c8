"""The parts of a pack, written one after another from what a snapshot holds."""

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from catalog import duck
from catalog.lake import Catalog
from catalog.pack import contents, instructions, mined, negatives, pairs
from catalog.pack.blob import Compressor, train_dictionary, write_shard
from catalog.pack.layout import (
    CANDIDATES,
    DICTIONARY,
    SIDES,
    Counts,
    Ids,
    Manifest,
    PackSettings,
    check_rows,
    shard_part,
    shard_ranges,
)
from catalog.pack.mapped import MappedFile
from catalog.pack.parts import Parts
from catalog.pack.vectors import COLUMN as VECTORS_COLUMN
from catalog.pack.vectors import VectorSource, vectors_part
from catalog.snapshots import Snapshot

# Called with (stage, rows done so far in it). Library code shows nothing itself.
Progress = Callable[[str, int], None]


@dataclass
class Tally:
    """Counts the rows of every stage for whoever shows progress."""

    progress: Progress | None
    done: dict[str, int] = field(default_factory=dict)

    def add(self, stage: str, rows: int) -> None:
        """Count rows of a stage."""
        self.done[stage] = self.done.get(stage, 0) + rows
        if self.progress is not None:
            self.progress(stage, self.done[stage])


@dataclass(frozen=True)
class _Gathered:
    """What the numbers of a pack are made from."""

    ids: dict[str, Ids]
    given: negatives.Given
    sources: list[str]
    instructions: list[str]
    tasks: dict[str, int]
    scores: contents.Scores | None
    lists: int
    width: int

    @property
    def passages(self) -> int:
        """Count the passages with and without an id."""
        return len(self.ids["passage"]) + self.given.unnamed


@dataclass
class Assembly:
    """The parts of one pack, in the order in which they need each other; done ones are kept."""

    snapshot: Snapshot
    settings: PackSettings
    parts: Parts
    tally: Tally
    vectors: VectorSource | None = None

    def run(self, catalog: Catalog, key: str) -> Manifest:
        """Write all parts and return the manifest."""
        with contents.open_contents(
            catalog, self.snapshot, self.parts.folder, self.settings.memory_mb
        ) as connection:
            gathered = self._gather(connection)
            self._write_texts(connection, gathered)
            self._write_numbers(connection, gathered)
            self._write_candidates(connection, gathered)
            self._write_vectors(connection, gathered)
        return self._manifest(key, gathered)

    def _gather(self, connection: duck.Connection) -> _Gathered:
        run = self.settings.candidates_run
        scores = contents.find_scores(connection, self.settings)
        if run is not None:
            contents.check_run(connection, run)
        contents.gather_kept(connection, self.snapshot, scores)
        lists, width = mined.gather_lists(connection, run) if run is not None else (0, 0)
        ids = {
            "query": self._ids("query", contents.query_ids(connection)),
            "passage": self._ids("passage", contents.passage_ids(connection, run)),
        }
        contents.gather_late(connection, ids["passage"])
        given = negatives.gather_given(connection, ids["passage"])
        sources, tasks = contents.list_sources(connection), contents.count_tasks(connection)
        own = instructions.list_instructions(connection)
        return _Gathered(ids, given, sources, own, tasks, scores, lists, width)

    def _manifest(self, key: str, gathered: _Gathered) -> Manifest:
        ends = np.cumsum([0, *gathered.tasks.values()]).tolist()
        return Manifest(
            key=key,
            snapshot=self.snapshot.name,
            digest=self.snapshot.digest,
            lake_version=self.snapshot.lake_version,
            settings=self.settings.content(),
            scores_revision=gathered.scores.revision if gathered.scores else None,
            counts=Counts(
                pairs=ends[-1],
                queries=len(gathered.ids["query"]),
                passages=gathered.passages,
                named_passages=len(gathered.ids["passage"]),
                negatives=gathered.given.negatives,
                lists=gathered.lists,
                width=gathered.width,
                scored=pairs.count_scored(self.parts.folder) if gathered.scores else 0,
                vector_width=self.vectors.width if self.vectors else 0,
            ),
            tasks={task: [ends[n], ends[n + 1]] for n, task in enumerate(gathered.tasks)},
            sources=gathered.sources,
            files=self.parts.records(),
            instructions=gathered.instructions,
        )

    def _ids(self, side: str, blocks: Iterator[Ids]) -> Ids:
        if not self.parts.is_done(side):
            with self.parts.write(side, ("ids",)) as (file,):
                for block in blocks:
                    file.write(block)
        ids: Ids = MappedFile(self.parts.folder / f"{side}.ids").array(np.int64)
        check_rows(len(ids), f"{side} texts")
        return ids

    def _write_texts(self, connection: duck.Connection, gathered: _Gathered) -> None:
        check_rows(gathered.passages, "passage texts with given negatives")
        ids = gathered.ids
        compressors = self._compressors(connection, ids)
        for side, total in (("query", len(ids["query"])), ("passage", gathered.passages)):
            for shard, rows in enumerate(shard_ranges(total, self.settings.texts_per_shard)):
                part = shard_part(side, shard)
                if self.parts.is_done(part):
                    continue
                with self.parts.write(part, ("blob", "offsets")) as (blob, offsets):
                    texts = self._texts(connection, side, ids[side], rows)
                    found = write_shard(blob, offsets, texts, compressors.get(side))
                    assert found == len(rows), f"{part}: {found} texts, not {len(rows)}"

    def _texts(
        self, connection: duck.Connection, side: str, ids: Ids, rows: range
    ) -> Iterator[pa.Array]:
        """Stream the texts of rows: those with an id, then given negatives."""
        named = contents.named_texts(connection, side, ids[rows.start : rows.stop])
        first, end = max(rows.start - len(ids), 0), max(rows.stop - len(ids), 0)
        for texts in itertools.chain(named, negatives.unnamed_texts(connection, first, end)):
            yield texts
            self.tally.add(f"{side} texts", len(texts))

    def _compressors(
        self, connection: duck.Connection, ids: dict[str, Ids]
    ) -> dict[str, Compressor]:
        if self.settings.compression is None:
            return {}
        if not self.parts.is_done(DICTIONARY):
            with self.parts.write(DICTIONARY, SIDES) as files:
                for side, file in zip(SIDES, files, strict=True):
                    samples = contents.sample_texts(connection, side, ids[side])
                    file.write(train_dictionary(samples))
        folder = self.parts.folder
        return {side: Compressor((folder / f"{DICTIONARY}.{side}").read_bytes()) for side in SIDES}

    def _write_numbers(self, connection: duck.Connection, gathered: _Gathered) -> None:
        def advance(rows: int) -> None:
            self.tally.add("pairs", rows)

        passage_ids = gathered.ids["passage"]
        if not self.parts.is_done(pairs.PART):
            pairs.write_pairs(
                connection,
                self.parts,
                gathered.ids,
                gathered.sources,
                has_scores=gathered.scores is not None,
                advance=advance,
            )
        if gathered.instructions and not self.parts.is_done(instructions.PART):
            instructions.write_instructions(
                connection, self.parts, gathered.ids["query"], gathered.instructions
            )
        if gathered.given.negatives and not self.parts.is_done(negatives.PART):
            negatives.write_negatives(connection, self.parts, passage_ids)
        if not self.parts.is_done(pairs.CLUSTERS):
            pairs.write_clusters(connection, self.parts, passage_ids, gathered.passages)

    def _write_candidates(self, connection: duck.Connection, gathered: _Gathered) -> None:
        run, ids, width = self.settings.candidates_run, gathered.ids, gathered.width
        if run is None:
            return
        if not self.parts.is_done(mined.LISTS):
            mined.write_lists(connection, self.parts, ids["query"])
        lists = mined.list_ids(connection)
        for shard, rows in enumerate(shard_ranges(len(lists), self.settings.lists_per_shard)):
            part = shard_part(CANDIDATES, shard)
            if self.parts.is_done(part):
                continue
            wanted = lists[rows.start : rows.stop]
            with self.parts.write(part, ("passage", "score")) as (passage, score):
                for block in mined.matrix_blocks(connection, run, width, wanted, ids["passage"]):
                    passage.write(block[0])
                    score.write(block[1])
                    self.tally.add("candidate lists", len(block[0]))

    def _write_vectors(self, connection: duck.Connection, gathered: _Gathered) -> None:
        if self.vectors is None:
            return
        for side, ids in gathered.ids.items():
            for shard, rows in enumerate(shard_ranges(len(ids), self.settings.texts_per_shard)):
                part = shard_part(vectors_part(side), shard)
                if self.parts.is_done(part):
                    continue
                with self.parts.write(part, (VECTORS_COLUMN,)) as (file,):
                    wanted = ids[rows.start : rows.stop]
                    for keys in contents.named_keys(connection, side, wanted):
                        file.write(self.vectors.lookup(side, keys))
                        self.tally.add(f"{side} vectors", len(keys))
