"""Mining: hard-negative candidates of a snapshot's queries, as rows of the table ``candidates``.

    encoder = EncoderSettings("bge-large-zh")
    mined = mine(catalog, load_snapshot(catalog, "v1"), MineSettings(), encoder)

What workers need is gathered once from the lake and the embeddings; a task then ranks and judges
one shard of the queries. Nothing of it depends on shards, memory, threads or workers.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from catalog.errors import CatalogError
from catalog.executors import ExecutorSettings, ProgressCallback, run_tasks
from catalog.jobs import Job, open_job
from catalog.lake import Catalog, scalar
from catalog.records import sync_file, write_json
from catalog.snapshots import Snapshot, snapshot_reader
from mining.ann import AnnSettings
from mining.candidates import (
    Reason,
)
from mining.embeddings import EMBEDDINGS, EmbeddingSpec, EmbeddingStore
from mining.encoder import EncoderSettings, spec_of
from mining.exhausted import exhausted_queries
from mining.mine_settings import MineSettings, count_gpus, share_machine
from mining.mine_shard import STAGE, MineShard
from mining.miners import BM25, Materials, prepare_ann, prepare_bm25
from mining.relations import Relations, Wanted, write_relations
from mining.text_file import write_texts

GATHER_ROWS: Final = 1 << 16


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
            executor = executor or ExecutorSettings(workers=max(1, count_gpus(settings.search)))
            share = share_machine(settings, executor)
            step = MineShard(job.output, materials, relations, share, prepared["ann"])
            shards = -(-len(relations.query_ids) // settings.shard_queries)
            run_tasks(job, STAGE, [step], shards, executor, progress)
            _commit(job, {**prepared, "passages": len(relations.passage_ids)})
        return _read_mined(catalog, job.job_id)


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
