"""Mining: hard-negative candidates of a snapshot's queries, as rows of the table ``candidates``.

    encoder = EncoderSettings("bge-large-zh")
    mined = mine(catalog, load_snapshot(catalog, "v1"), MineSettings(), encoder)

What workers need is gathered once from the lake and the embeddings; a task then ranks and judges
one shard of the queries. Nothing of it depends on shards, memory, threads or workers.
"""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from datatrove.pipeline.base import PipelineStep

from catalog.errors import CatalogError
from catalog.executors import ExecutorSettings, ProgressCallback, run_tasks
from catalog.jobs import Job, JobOutput, open_job
from catalog.lake import Catalog, scalar
from catalog.records import sync_file, write_json
from catalog.snapshots import Snapshot, snapshot_reader
from mining import ann
from mining.ann import AnnSettings
from mining.bm25 import Bm25Settings
from mining.candidates import (
    FilterSettings,
    Flags,
    Reason,
    candidate_rows,
    judge,
    lowest_scores,
)
from mining.embeddings import EMBEDDINGS, EmbeddingSpec, EmbeddingStore
from mining.encoder import EncoderSettings, spec_of
from mining.exhausted import exhausted_queries
from mining.miners import BM25, MINERS, Materials, prepare_ann, prepare_bm25, rank_passages
from mining.relations import Relations, Wanted, write_relations
from mining.relevance import Relevance, RelevanceSettings
from mining.search import NO_PASSAGE, Ids, SearchSettings, score_listed
from mining.text_file import write_texts

STAGE: Final = "mine"
TABLE: Final = "candidates"
GATHER_ROWS: Final = 1 << 16


@dataclass(frozen=True)
class MineSettings:
    """What is mined. ``search`` is how, and changes nothing of the result.

    ``depth`` counts removed candidates too. Several ``miners`` are fused by reciprocal rank.
    ``ann`` None: sizes are chosen for the corpus and recorded. ``recall_queries`` measure what an
    index misses. ``train_run`` mines again, and only, the queries whose lists that training run has
    used up.
    """

    depth: int = 200
    miners: tuple[str, ...] = ("exact",)
    tasks: tuple[str, ...] = ("retrieval",)
    filters: FilterSettings = field(default_factory=FilterSettings)
    ann: AnnSettings | None = None
    bm25: Bm25Settings = field(default_factory=Bm25Settings)
    relevance: RelevanceSettings | None = None
    recall_queries: int = 1000
    train_run: str | None = None
    shard_queries: int = 16_384
    search: SearchSettings = field(default_factory=SearchSettings)

    def __post_init__(self) -> None:
        for name in ("depth", "recall_queries", "shard_queries"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")
        unknown = [miner for miner in self.miners if miner not in MINERS]
        if unknown or not self.miners or len(set(self.miners)) < len(self.miners):
            raise ValueError(
                f"miners are {', '.join(self.miners) or 'none'}; name one or more of "
                f"{', '.join(MINERS)}, each once"
            )
        if len(set(self.miners) & set(ann.KINDS)) > 1:
            raise ValueError(f"miners are {', '.join(self.miners)}; only one can be a faiss index")
        if self.ann is not None and self.ann.kind not in self.miners:
            raise ValueError(f"ann is of kind {self.ann.kind!r}, which is not among the miners")

    @property
    def ann_kind(self) -> str | None:
        """The kind of faiss index that is wanted, if one is."""
        return next((miner for miner in self.miners if miner in ann.KINDS), None)

    @property
    def needs_texts(self) -> bool:
        """A miner or the cross-encoder reads texts."""
        return BM25 in self.miners or self.relevance is not None


@dataclass(frozen=True)
class Mined:
    """What a run found: candidates kept, and removed by reason (one can have several)."""

    run: str
    queries: int
    passages: int
    kept: int
    removed: dict[str, int]
    recall: float | None  # of an approximate search; None: every search was exact

    def summary(self) -> str:
        """Say what was found, for people."""
        mined = self.kept + sum(self.removed.values())
        reasons = ", ".join(
            f"{name.lower().replace('_', '-')} {count:,}"
            for name, count in self.removed.items()
            if count
        )
        lines = [
            f"run {self.run}: {self.queries:,} queries, {self.passages:,} passages",
            f"kept {self.kept:,} candidates ({self.kept / max(self.queries, 1):.1f} a query)",
            f"removed by {reasons}" if reasons else "removed none",
        ]
        if self.recall is not None:
            lines.append(f"recall of the index against exact search: {self.recall:.4f}")
        return "\n".join(lines) if mined else lines[0]


def mine(
    catalog: Catalog,
    snapshot: Snapshot,
    settings: MineSettings,
    encoder: EncoderSettings,
    executor: ExecutorSettings | None = None,
    progress: ProgressCallback | None = None,
) -> Mined:
    """Mine a snapshot whose texts are embedded, and commit its candidates.

    The same snapshot, settings and model are the same run: it is resumed, or found finished.
    """
    specs = {side: spec_of(encoder, side) for side in ("query", "passage")}
    again = settings.train_run and exhausted_queries(catalog, settings.train_run)
    record = _describe(settings, snapshot, specs)
    if again:
        record["queries"] = again.digest
    with open_job(catalog, STAGE, record, {}) as job:
        if not job.is_committed():
            wanted = Wanted(settings.tasks, again.query_ids if again else None)
            materials, relations = _gather(catalog, snapshot, settings, wanted, specs, job)
            prepared = _prepare_miners(materials, settings, job)
            # One worker by default, or one a GPU: its threads share a block of passages, workers
            # would not.
            executor = executor or ExecutorSettings(workers=max(1, _count_gpus(settings.search)))
            share = _share(settings, executor)
            step = MineShard(job.output, materials, relations, share, prepared["ann"])
            shards = -(-len(relations.query_ids) // settings.shard_queries)
            run_tasks(job, STAGE, [step], shards, executor, progress)
            _commit(job, {**prepared, "passages": len(relations.passage_ids)})
        return _read_mined(catalog, job.job_id)


class MineShard(PipelineStep):  # type: ignore[misc]
    """Ranks and judges the passages of one shard of queries, and writes their rows."""

    type = "MINER"
    name = "candidates"

    def __init__(
        self,
        output: JobOutput,
        materials: Materials,
        relations: Relations,
        settings: MineSettings,
        ann_settings: AnnSettings | None,
    ) -> None:
        super().__init__()
        self.output = output
        self.materials = materials
        self.relations = relations
        self.settings = settings
        self.search = settings.search
        self.ann_settings = ann_settings

    def run(self, data: Any = None, rank: int = 0, world_size: int = 1) -> Iterator[None]:
        """Write one shard; nothing flows on."""
        size = self.settings.shard_queries
        self.search = _on_device(self.settings.search, rank)
        here = slice(rank * size, min((rank + 1) * size, len(self.relations.query_ids)))
        with self.output.task(STAGE, rank) as out:
            rows = self.mine(here)
            out.write(TABLE, rows)
            for name, amount in _count(rows).items():
                out.note(name, amount)
        self.output.report_progress(STAGE, rank, rows.num_rows)
        yield from ()

    def mine(self, here: slice) -> pa.Table:
        """Return the candidates of the queries in some rows."""
        settings, relations = self.settings, self.relations
        rows, scores = rank_passages(
            self.materials,
            settings.miners,
            here,
            settings.depth,
            self.ann_settings,
            self.search,
        )
        passage_ids = np.where(rows == NO_PASSAGE, NO_PASSAGE, relations.passage_ids[rows])
        positive_scores = self._positive_scores(here)
        known = relations.known(here)
        flags = judge(passage_ids, scores, known, positive_scores, settings.filters)
        if settings.relevance is not None:
            relevant = self._relevant(here, rows, flags, settings.relevance)
            flags |= np.where(relevant, np.uint8(Reason.CROSS_ENCODER), np.uint8(0))
        query_ids = relations.query_ids[here]
        run = self.output.job_id
        return candidate_rows(run, query_ids, passage_ids, scores, flags, positive_scores)

    def _positive_scores(self, here: slice) -> npt.NDArray[np.float32]:
        offsets, rows = self.relations.positive_rows(here)
        queries = self.materials.vectors("query").read(here.start, here.stop)
        passages = self.materials.vectors("passage")
        scores = score_listed(queries, passages, offsets, rows, self.search)
        return lowest_scores(offsets, scores)

    def _relevant(
        self, here: slice, rows: Ids, flags: Flags, settings: RelevanceSettings
    ) -> npt.NDArray[np.bool_]:
        """Let the cross-encoder read the first candidates that nothing else removed."""
        read = (flags == 0) & (rows != NO_PASSAGE)
        read[:, settings.ranks :] = False
        query, rank = np.nonzero(read)
        queries = self.materials.texts("query").take(query + here.start)
        passages = self.materials.texts("passage").take(rows[query, rank])
        relevant = np.zeros(rows.shape, bool)
        relevant[query, rank] = Relevance(settings).judge(queries, passages)
        return relevant


def gather_vectors(store: EmbeddingStore, keys: npt.NDArray[np.uint64], path: Path) -> None:
    """Write the vectors of texts in their order, so that a search reads the disk forwards."""
    if path.exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.tmp")
    shape = (len(keys), store.spec.width)
    vectors = np.lib.format.open_memmap(aside, "w+", np.float16, shape)
    for start in range(0, len(keys), GATHER_ROWS):
        block = np.asarray(keys[start : start + GATHER_ROWS])
        vectors[start : start + len(block)] = store.lookup(block)
    vectors.flush()
    sync_file(aside)
    aside.rename(path)


def _describe(
    settings: MineSettings, snapshot: Snapshot, specs: dict[str, EmbeddingSpec]
) -> dict[str, object]:
    """Name everything that decides the result; it is the run's record."""
    plain = asdict(settings)
    for how in ("search", "shard_queries"):
        del plain[how]
    if BM25 not in settings.miners:
        del plain["bm25"]
    if settings.train_run is None:
        del plain["train_run"]
    return {
        **plain,
        "snapshot": snapshot.name,
        "snapshot_digest": snapshot.digest,
        "lake_version": snapshot.lake_version,
        "embeddings": {side: asdict(spec) for side, spec in specs.items()},
    }


def _share(settings: MineSettings, executor: ExecutorSettings) -> MineSettings:
    """Give each worker its part of the threads, and of the memory that it shares with others."""
    search = settings.search
    sharing = -(-executor.tasks_per_machine // max(1, _count_gpus(search)))
    memory_mb = max(search.memory_mb // sharing, 1)
    threads = executor.threads_of_task(search.threads)
    return replace(settings, search=replace(search, memory_mb=memory_mb, threads=threads))


def _count_gpus(settings: SearchSettings) -> int:
    """Count the GPUs that tasks are spread over: none, where the settings name a certain device."""
    return torch.cuda.device_count() if settings.device == "cuda" else 0


def _on_device(settings: SearchSettings, rank: int) -> SearchSettings:
    """Name the GPU of a task."""
    count = _count_gpus(settings)
    return replace(settings, device=f"cuda:{rank % count}") if count else settings


def _gather(
    catalog: Catalog,
    snapshot: Snapshot,
    settings: MineSettings,
    wanted: Wanted,
    specs: dict[str, EmbeddingSpec],
    job: Job,
) -> tuple[Materials, Relations]:
    """Put beside each other on disk what the tasks need; what is there already stays."""
    folder = job.folder / "scratch"
    memory_mb = max(settings.search.memory_mb, 512)  # DuckDB needs some for each of its threads
    relations = write_relations(catalog, snapshot, wanted, folder, memory_mb)
    ids = {"query": relations.query_ids, "passage": relations.passage_ids}
    keys = {"query": relations.query_keys, "passage": relations.passage_keys}
    for side, spec in specs.items():
        store = EmbeddingStore.open(catalog.location.work / EMBEDDINGS, spec)
        gather_vectors(store, keys[side], folder / f"{side}_vectors.npy")
    if settings.needs_texts:
        with snapshot_reader(catalog, snapshot) as connection:
            for side in specs:
                path = folder / f"{side}_texts.arrow"
                if not path.exists():
                    write_texts(connection, side, ids[side], path)
    return Materials(folder), relations


def _prepare_miners(materials: Materials, settings: MineSettings, job: Job) -> dict[str, Any]:
    """Build indexes; return the settings and the recall of an approximate one."""
    if BM25 in settings.miners:
        prepare_bm25(materials, settings.bm25)
    kind = settings.ann_kind
    if kind is None:
        return {"ann": None, "recall": None}
    passages = materials.vectors("passage")
    chosen = settings.ann or AnnSettings.for_corpus(kind, len(passages), passages.width)
    path = job.folder / "scratch" / "recall.json"
    if not path.exists():
        sample = settings.recall_queries
        recall = prepare_ann(materials, chosen, settings.depth, sample, settings.search)
        write_json(path, {"recall": recall})
    return {"ann": chosen, **json.loads(path.read_text(encoding="utf-8"))}


def _count(rows: pa.Table) -> dict[str, int]:
    """Count queries and candidates by reason."""
    flags = rows["filtered_by"].combine_chunks().flatten().to_numpy()
    counts = {reason.name or "": int((flags & reason > 0).sum()) for reason in Reason}
    return {"queries": rows.num_rows, "kept": int((flags == 0).sum()), **counts}


def _commit(job: Job, found: dict[str, Any]) -> None:
    totals: dict[str, int] = {}
    for manifest in job.manifests():
        for name, amount in manifest.notes.items():
            totals[name] = totals.get(name, 0) + amount
    chosen = found["ann"]
    job.settings["ann"] = None if chosen is None else asdict(chosen)
    job.settings["found"] = {**found, **totals, "ann": None}
    job.commit()


def _read_mined(catalog: Catalog, run: str) -> Mined:
    with catalog.reader() as connection:
        text = scalar(connection, "select settings from runs where run_id = ?", [run])
    if text is None:
        raise CatalogError(f"run {run!r} is not in the catalog; lode status lists the runs")
    found = json.loads(str(text))["found"]
    removed = {str(reason.name): found.get(reason.name, 0) for reason in Reason}
    return Mined(run, found["queries"], found["passages"], found["kept"], removed, found["recall"])
