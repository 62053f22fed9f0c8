"""Embedding a snapshot: every text of its kept rows that has no vector yet gets one.

The store is the truth about what is done: each run lists the texts that are missing, cuts them into
tasks, and every task leaves one shard. What a killed run has finished is not listed again.
"""

import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from datatrove.pipeline.base import PipelineStep

from catalog import duck
from catalog.executors import ExecutorSettings, ProgressCallback, run_tasks, running_elsewhere
from catalog.instructions import own_instruction
from catalog.jobs import Job, JobOutput, is_unfinished, open_job
from catalog.lake import Catalog, current_version
from catalog.policies import Policy
from catalog.records import now, writing
from catalog.snapshots import Snapshot, measure, snapshot_reader
from mining.embeddings import EMBEDDINGS, EmbeddingSpec, EmbeddingStore, keys_of
from mining.encoder import Encoder, EncoderSettings, Side, VectorError, Vectors, spec_of

STAGE: Final = "embed"
# A killed worker costs a shard: seconds on a GPU, a minute or two of a small model on CPU.
TASK_TEXTS: Final = 16_384
_READ_ROWS: Final = 250_000
_SHOWN_IDS: Final = 5
ProgressOfTexts = Callable[[int], None]
TEXT_COLUMNS: Final = {"query": "query", "passage": "positive"}

TEXTS: Final = pa.schema(
    [pa.field("text_id", pa.int64(), nullable=False), pa.field("key", pa.uuid(), nullable=False)]
)


@dataclass(frozen=True)
class Embedded:
    """What a run of ``embed`` did; ``store`` has a vector of every text of the snapshot's side."""

    store: EmbeddingStore
    texts: int  # embedded now
    rebuilt_shards: int  # found damaged, and made again


def embed(
    catalog: Catalog,
    snapshot: Snapshot,
    settings: EncoderSettings,
    side: Side,
    executor: ExecutorSettings | None = None,
    progress: ProgressCallback | None = None,
    task_texts: int = TASK_TEXTS,
) -> Embedded:
    """Give a vector to every text of a snapshot's kept rows on one side."""
    executor = executor or ExecutorSettings()
    spec = spec_of(settings, side)
    store = EmbeddingStore.open(embeddings_folder(catalog), spec)
    damaged = store.verify()
    store = store.discard(damaged)
    record = {"model_path": settings.model, **asdict(spec)}
    inputs = {"snapshot": snapshot.digest, "spec": spec.key}
    texts = sum(found.num_rows for found in _missing(catalog, snapshot, store, side))
    listed_before = False
    if texts or is_unfinished(catalog, STAGE, record, inputs):
        with open_job(catalog, STAGE, record, inputs) as job:
            todo = job.folder / "scratch" / "texts.parquet"
            listed_before = running_elsewhere(job, STAGE, executor)
            if not listed_before:
                _list_missing(_missing(catalog, snapshot, store, side), job, todo, task_texts)
            steps = [
                ReadTexts(catalog, snapshot, todo, side),
                EmbedTexts(_for_workers(settings, spec, executor), store, side, job.output),
            ]
            run_tasks(job, STAGE, steps, pq.read_metadata(todo).num_row_groups, executor, progress)
            # A job that is recorded already made again what had been damaged: no second record.
            job.commit()
    done = Embedded(store.refresh(), texts, len(damaged))
    if listed_before:  # what is missing beside that list
        rest = embed(catalog, snapshot, settings, side, executor, progress, task_texts)
        return replace(done, store=rest.store, texts=done.texts + rest.texts)
    return done


def embeddings_folder(catalog: Catalog) -> Path:
    """Return where a catalog keeps its embeddings."""
    return catalog.location.work / EMBEDDINGS


def unique_texts(connection: duck.Connection, side: Side) -> Iterator[pa.Table]:
    """Yield (text_id, key) of a snapshot's kept rows, each text once, in the order of the ids.

    The connection comes from ``snapshot_reader``. A row that came after the last search for
    duplicates has no text ids: it names its own text.
    """
    key, text_id = {"query": ("query_key", "query_id"), "passage": ("positive_key", "passage_id")}[
        side
    ]
    connection.execute("set arrow_lossless_conversion = true")
    reader = connection.execute(
        f"""
        select min(coalesce(t.{text_id}, p.pair_id)) as text_id, p.{key} as key
        from pairs p
        join verdicts v using (pair_id)
        left join text_ids t using (pair_id)
        where v.kept and p.{key} is not null
        group by p.{key}
        order by text_id
        """
    ).to_arrow_reader(_READ_ROWS)
    for batch in reader:
        yield pa.table([batch["text_id"], batch["key"]], schema=TEXTS)


def count_texts(catalog: Catalog, snapshot: Snapshot, side: Side) -> int:
    """Count the unique texts of a snapshot's kept rows on one side."""
    with snapshot_reader(catalog, snapshot) as connection:
        return sum(texts.num_rows for texts in unique_texts(connection, side))


def whole_lake(catalog: Catalog) -> Snapshot:
    """Return the lake as it is now, every row of it, in the shape of a snapshot."""
    policy = Policy("none", ())
    with catalog.reader() as connection:
        version = current_version(connection)
        pairs, kept, digest = measure(connection, policy)
    return Snapshot("lake", version, policy, 0, pairs, kept, digest, now())


class ReadTexts(PipelineStep):  # type: ignore[misc]
    """Yields the texts of a task as (text_id, key, text, instruction: null is the model's)."""

    type = "READER"
    name = "texts"

    def __init__(self, catalog: Catalog, snapshot: Snapshot, todo: Path, side: Side) -> None:
        super().__init__()
        self.catalog, self.version = catalog, snapshot.lake_version
        self.todo, self.column = todo, TEXT_COLUMNS[side]

    def run(self, data: Any = None, rank: int = 0, world_size: int = 1) -> Iterator[pa.Table]:
        """Yield one table: text ids are pair ids, so a task's texts lie close together."""
        with pq.ParquetFile(self.todo) as file:
            wanted = file.read_row_group(rank)
        with self.catalog.reader(self.version) as connection:
            connection.register("wanted", wanted.select(["text_id"]))
            own = own_instruction(connection) if self.column == "query" else "null::varchar"
            found = connection.execute(
                f"""
                select pair_id, {self.column} as text, {own} as instruction from pairs p
                where pair_id between
                  (select min(text_id) from wanted) and (select max(text_id) from wanted)
                  and pair_id in (select text_id from wanted)
                order by pair_id
                """
            ).to_arrow_table()
        if found["pair_id"].to_pylist() != wanted["text_id"].to_pylist():
            raise RuntimeError(
                f"{wanted.num_rows - found.num_rows} texts of task {rank} are not in the lake's "
                f"version {self.version}; run lode check"
            )
        yield wanted.append_column("text", found["text"]).append_column(
            "instruction", found["instruction"]
        )


def encode_instructed(
    encoder: Encoder,
    side: Side,
    texts: list[str],
    instructions: pa.ChunkedArray,
    progress: ProgressOfTexts,
) -> Vectors:
    """Encode texts [n], those with an instruction of their own behind that; return [n, width]."""
    if instructions.null_count == len(texts):
        return encoder.encode(texts, side, progress)
    vectors = np.empty((len(texts), encoder.width), np.float32)
    coded = instructions.combine_chunks().dictionary_encode()
    codes = coded.indices.fill_null(len(coded.dictionary)).to_numpy(zero_copy_only=False)
    done = 0
    for code, instruction in enumerate([*coded.dictionary.to_pylist(), None]):
        rows = np.flatnonzero(codes == code)
        try:
            vectors[rows] = encoder.encode([texts[row] for row in rows], side, None, instruction)
        except VectorError as error:
            raise VectorError(str(error), rows[error.positions].tolist()) from error
        done += len(rows)
        progress(done)
    return vectors


class EmbedTexts(PipelineStep):  # type: ignore[misc]
    """Turns the texts of a task into one shard."""

    type = "ENCODER"
    name = "embed"

    def __init__(
        self, settings: EncoderSettings, store: EmbeddingStore, side: Side, output: JobOutput
    ) -> None:
        super().__init__()
        self.settings, self.store, self.side, self.output = settings, store, side, output

    def run(self, data: Iterator[pa.Table], rank: int = 0, world_size: int = 1) -> Iterator[None]:
        """Encode and write; the shard comes before the manifest that says it is there."""
        encoder = _load(_on_device(self.settings, rank))
        for texts in data:
            with self.output.task(STAGE, rank) as out:
                vectors = self._encode(encoder, texts, rank)
                self.store.write_shard(keys_of(texts["key"]), vectors)
                out.note("texts", texts.num_rows)
        yield from ()

    def _encode(self, encoder: Encoder, texts: pa.Table, rank: int) -> Any:
        def report(done: int) -> None:
            self.output.report_progress(STAGE, rank, done)

        try:
            return encode_instructed(
                encoder, self.side, texts["text"].to_pylist(), texts["instruction"], report
            )
        except VectorError as error:
            ids = texts["text_id"].take(error.positions[:_SHOWN_IDS]).to_pylist()
            raise VectorError(
                f"{error}; the texts are those of pair_id {', '.join(map(str, ids))}",
                error.positions,
            ) from error


@lru_cache(maxsize=1)
def _load(settings: EncoderSettings) -> Encoder:
    """Load a model once in a process, however many tasks it gets."""
    return Encoder.load(settings)


def _on_device(settings: EncoderSettings, rank: int) -> EncoderSettings:
    """Spread tasks over the machine's GPUs where the settings name no certain one."""
    if settings.is_lexical or settings.device not in ("cuda", "fastest"):
        return settings
    import torch

    count = torch.cuda.device_count()
    return replace(settings, device=f"cuda:{rank % count}") if count else settings


def _for_workers(
    settings: EncoderSettings, spec: EmbeddingSpec, executor: ExecutorSettings
) -> EncoderSettings:
    """Share the threads out, and fix what a worker's own hardware would decide otherwise."""
    threads = executor.threads_of_task(settings.threads)
    model = settings.model if settings.is_lexical else str(Path(settings.model).expanduser())
    if Path(model).is_dir():
        model = str(Path(model).resolve())  # a worker may have another working folder
    return replace(settings, model=model, name=spec.model, threads=threads, dtype=spec.dtype)


def _list_missing(texts: Iterator[pa.Table], job: Job, path: Path, task_texts: int) -> None:
    """Write down the texts without a vector, a row group a task; drop the tasks of older lists."""
    for name in ("manifests", "progress"):
        shutil.rmtree(job.folder / name, ignore_errors=True)
    with writing(job.folder):
        path.parent.mkdir(parents=True, exist_ok=True)
        with pq.ParquetWriter(path, TEXTS, compression="zstd") as writer:
            for group in _groups(texts, task_texts):
                writer.write_table(group, row_group_size=task_texts)


def _missing(
    catalog: Catalog, snapshot: Snapshot, store: EmbeddingStore, side: Side
) -> Iterator[pa.Table]:
    with snapshot_reader(catalog, snapshot) as connection:
        for texts in unique_texts(connection, side):
            yield texts.filter(pa.array(store.missing(keys_of(texts["key"]))))


def _groups(tables: Iterator[pa.Table], rows: int) -> Iterator[pa.Table]:
    """Cut a stream of tables into tables of exactly ``rows``; the last may be shorter."""
    pending: list[pa.Table] = []
    count = 0
    for table in tables:
        pending.append(table)
        count += table.num_rows
        if count < rows:
            continue
        gathered = pa.concat_tables(pending)
        for start in range(0, count - rows + 1, rows):
            yield gathered.slice(start, rows)
        pending = [gathered.slice(count - count % rows)]
        count %= rows
    if count:
        yield pa.concat_tables(pending)
