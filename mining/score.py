"""Teacher scores: the cosine of query and positive under a model, for every pair of a snapshot.

Scores are rows of the table ``scores`` and never a verdict: a policy asks for
``score('bge-large-zh-v1.5') >= 0.4`` and can ask for something else tomorrow.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from datatrove.pipeline.base import PipelineStep

from catalog.executors import ExecutorSettings, ProgressCallback, run_tasks
from catalog.jobs import Job, JobOutput, open_job
from catalog.lake import Catalog
from catalog.records import sync_file, to_json, writing
from catalog.schema import SCORES
from catalog.score_rows import commit_scores, look_up_scores
from catalog.snapshots import Snapshot, snapshot_reader
from mining.embed import embed
from mining.embeddings import EmbeddingSpec, EmbeddingStore, Half, keys_of
from mining.encoder import EncoderSettings

STAGE: Final = "score"
TASK_PAIRS: Final = 500_000
# Two blocks of vectors in float32: 128 MB at 1,024 dimensions.
_BLOCK_PAIRS: Final = 16_384

PAIRS_TO_SCORE: Final = pa.schema(
    [
        pa.field("pair_id", pa.int64(), nullable=False),
        pa.field("query_key", pa.uuid(), nullable=False),
        pa.field("positive_key", pa.uuid(), nullable=False),
    ]
)


@dataclass(frozen=True)
class Scored:
    """What a run of ``score`` did."""

    model: str
    revision: str
    pairs: int  # scored now
    texts: int  # embedded for it


def score(
    catalog: Catalog,
    snapshot: Snapshot,
    settings: EncoderSettings,
    executor: ExecutorSettings | None = None,
    progress: ProgressCallback | None = None,
    *,
    replace: bool = False,
) -> Scored:
    """Score every kept pair of a snapshot that has no score yet.

    One name means one model: scores of another revision are in the way unless ``replace`` drops
    them.
    """
    executor = executor or ExecutorSettings()
    queries = embed(catalog, snapshot, settings, "query", executor, progress)
    passages = embed(catalog, snapshot, settings, "passage", executor, progress)
    specs = (queries.store.spec, passages.store.spec)
    model, revision = specs[0].model, score_revision(*specs)
    record = {"model": model, "revision": revision, "replace": replace}
    record |= {f"{spec.side}_{key}": value for spec in specs for key, value in asdict(spec).items()}
    before, version = look_up_scores(catalog, model, revision, replace=replace)
    pairs = sum(found.num_rows for found in _unscored(catalog, snapshot, model, revision))
    if pairs:
        # The lake's version: which pairs have a score is decided by it.
        inputs = {"snapshot": snapshot.digest, "lake_version": version}
        with open_job(catalog, STAGE, record, inputs) as job:
            plan: Any = job.plan(
                lambda: _list_pairs(job, _unscored(catalog, snapshot, model, revision))
            )
            steps = [
                ReadPairs(job.folder / "scratch" / "pairs.parquet"),
                ScorePairs(queries.store, passages.store, revision),
                WriteScores(job.output),
            ]
            run_tasks(job, STAGE, steps, plan["tasks"], executor, progress)
            commit_scores(job, model, revision, before, replace=replace)
    return Scored(model, revision, pairs, queries.texts + passages.texts)


def score_revision(query: EmbeddingSpec, passage: EmbeddingSpec) -> str:
    """Name what decides a score: the weights, and how both sides were put to the model."""
    digest = hashlib.sha256(to_json([asdict(query), asdict(passage)]).encode()).hexdigest()
    return f"{query.revision}-{digest[:8]}"


def cosines(queries: Half, passages: Half) -> npt.NDArray[np.float32]:
    """Return the cosine of each row of one matrix with the same row of the other; 0 for zeros."""
    wide_q, wide_p = queries.astype(np.float32), passages.astype(np.float32)
    lengths = np.linalg.norm(wide_q, axis=1) * np.linalg.norm(wide_p, axis=1)
    products = np.einsum("ij,ij->i", wide_q, wide_p)
    cosine = np.zeros(len(products), np.float32)
    np.divide(products, lengths, out=cosine, where=lengths > 0)
    return cosine


class ReadPairs(PipelineStep):  # type: ignore[misc]
    """Yields the pairs of a task in blocks."""

    type = "READER"
    name = "pairs"

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path

    def run(self, data: Any = None, rank: int = 0, world_size: int = 1) -> Iterator[pa.Table]:
        """Yield (pair_id, query_key, positive_key)."""
        with pq.ParquetFile(self.path) as file:
            pairs = file.read_row_group(rank)
        for start in range(0, pairs.num_rows, _BLOCK_PAIRS):
            yield pairs.slice(start, _BLOCK_PAIRS)


class ScorePairs(PipelineStep):  # type: ignore[misc]
    """Turns pairs into rows of ``scores``."""

    type = "SCORER"
    name = "score"

    def __init__(self, queries: EmbeddingStore, passages: EmbeddingStore, revision: str) -> None:
        super().__init__()
        self.queries, self.passages, self.revision = queries, passages, revision

    def run(
        self, data: Iterator[pa.Table], rank: int = 0, world_size: int = 1
    ) -> Iterator[pa.Table]:
        """Yield the scores of each block."""
        for pairs in data:
            found = cosines(
                self.queries.lookup(keys_of(pairs["query_key"])),
                self.passages.lookup(keys_of(pairs["positive_key"])),
            )
            model = pa.repeat(self.queries.spec.model, len(found))
            revision = pa.repeat(self.revision, len(found))
            yield pa.table([pairs["pair_id"], model, revision, found], schema=SCORES)


class WriteScores(PipelineStep):  # type: ignore[misc]
    """Writes the scores of a task."""

    type = "WRITER"
    name = "scores"

    def __init__(self, output: JobOutput) -> None:
        super().__init__()
        self.output = output

    def run(self, data: Iterator[pa.Table], rank: int = 0, world_size: int = 1) -> Iterator[None]:
        """Write every block; nothing flows on."""
        done = 0
        with self.output.task(STAGE, rank) as out:
            for rows in data:
                out.write("scores", rows)
                out.note("pairs", rows.num_rows)
                done += rows.num_rows
                self.output.report_progress(STAGE, rank, done)
        yield from ()


def _unscored(
    catalog: Catalog, snapshot: Snapshot, model: str, revision: str
) -> Iterator[pa.Table]:
    """Yield a snapshot's kept pairs that have no score now, in the order of their ids."""
    with catalog.reader() as latest:
        scored = latest.execute(
            "select pair_id from scores where model = ? and revision = ?", [model, revision]
        ).to_arrow_table()
    with snapshot_reader(catalog, snapshot) as connection:
        connection.execute("set arrow_lossless_conversion = true")
        connection.register("scored", scored)
        reader = connection.execute(
            """
            select p.pair_id, p.query_key, p.positive_key
            from pairs p join verdicts v using (pair_id)
            where v.kept and p.query_key is not null
              and p.pair_id not in (select pair_id from scored)
            order by p.pair_id
            """
        ).to_arrow_reader(TASK_PAIRS)
        for batch in reader:
            yield pa.table(batch.columns, schema=PAIRS_TO_SCORE)


def _list_pairs(job: Job, pairs: Iterator[pa.Table]) -> dict[str, object]:
    """Write down the pairs to score, a row group a task."""
    path = job.folder / "scratch" / "pairs.parquet"
    tasks = 0
    with writing(job.folder):
        path.parent.mkdir(parents=True, exist_ok=True)
        with pq.ParquetWriter(path, PAIRS_TO_SCORE, compression="zstd") as writer:
            for tasks, group in enumerate(pairs, start=1):  # noqa: B007
                writer.write_table(group, row_group_size=TASK_PAIRS)
        sync_file(path)
    return {"tasks": tasks}
