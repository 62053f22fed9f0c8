"""Approximate search: the one door to faiss.

An index finds passages, ``mining.search`` scores them canonically: a passage that both approximate
and exact search find has the same score in both. What the index misses is measured on a sample.
"""

import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import faiss
import numpy as np

from catalog.bounds import check_at_least_one
from catalog.records import sync_file
from mining.fusion import merge
from mining.search import NO_PASSAGE, AnyVectors, Ids, Scores, score_rows, search
from mining.search_plan import SearchSettings
from mining.vectors import Vectors, as_vectors

KINDS: Final = ("ivf", "ivf-sq8", "ivf-pq", "hnsw")
ADD_ROWS: Final = 65_536
PQ_CENTROIDS: Final = 256  # one byte a code
# faiss warns below 39 training rows a centroid, and 64 is where more stop helping (its own wiki).
TRAINING_ROWS_PER_LIST: Final = 64
GPU_INSTALL: Final = (
    "install a faiss with GPU support: pip install faiss-gpu-cu12, or with cuVS: conda install "
    "-c pytorch -c nvidia -c rapidsai -c conda-forge libnvjitlink faiss-gpu-cuvs"
)
GPU_MAX_K: Final = 2048


class AnnUnavailableError(ValueError):
    """The installed faiss cannot do what the settings say; the message says what to install."""


@dataclass(frozen=True)
class AnnSettings:
    """An index, fully resolved; ``for_corpus`` chooses the numbers for a corpus.

    ``fetched_per_k``: passages taken from the index per passage wanted, before they are scored
    canonically; quantized codes need more than 1. ``threads`` builds the graph of ``hnsw``: above 1
    the graph, and with it the result, is a little different every time.
    """

    kind: str
    lists: int = 1  # ivf: cells that the corpus is cut into
    probes: int = 1  # ivf: cells that a query looks into
    code_bytes: int = 48  # ivf-pq: bytes a passage
    neighbors: int = 32  # hnsw: edges a passage
    build_breadth: int = 200  # hnsw: candidates looked at for each edge
    search_breadth: int = 400  # hnsw: candidates looked at for each query, at least k
    training_rows: int = 65_536
    fetched_per_k: float = 2.0
    threads: int = 1
    seed: int = 1
    device: str = "cpu"

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"kind is {self.kind!r}; allowed are {', '.join(KINDS)}")
        check_at_least_one(
            self, "lists", "probes", "code_bytes", "neighbors", "build_breadth", "threads"
        )
        if self.probes > self.lists:
            raise ValueError(f"probes is {self.probes}; it must be at most lists ({self.lists})")
        if self.fetched_per_k < 1:
            raise ValueError(f"fetched_per_k is {self.fetched_per_k}; it must be at least 1")
        _check_device(self)

    @classmethod
    def for_corpus(cls, kind: str, rows: int, width: int, device: str = "cpu") -> "AnnSettings":
        """Choose sizes by the usual rules: 4·√rows cells, a sixteenth of them probed."""
        lists = max(1, min(2 ** round(math.log2(4 * math.sqrt(max(rows, 1)))), rows // 39))
        needed = max(TRAINING_ROWS_PER_LIST * lists, TRAINING_ROWS_PER_LIST * PQ_CENTROIDS)
        return cls(
            kind,
            lists=lists,
            probes=max(1, lists // 16),
            code_bytes=max(n for n in range(1, width // 8 + 2) if width % n == 0),
            training_rows=min(max(rows, 1), needed),
            fetched_per_k=4.0 if kind == "ivf-pq" else 1.5,
            device=device,
        )


def build_index(passages: AnyVectors, settings: AnnSettings) -> Any:
    """Train and fill an index; training rows are spread evenly over the corpus."""
    passages = as_vectors(passages)
    _check_corpus(passages, settings)
    index = _empty_index(passages.width, settings)
    with _threads(settings.threads):
        if not index.is_trained:
            rows = min(settings.training_rows, len(passages))
            chosen = np.arange(rows, dtype=np.int64) * len(passages) // rows
            index.train(passages.take(chosen).astype(np.float32))
        for start in range(0, len(passages), ADD_ROWS):
            block = passages.read(start, min(start + ADD_ROWS, len(passages)))
            index.add(block.astype(np.float32))
    return index


def save_index(index: Any, path: Path) -> None:
    """Write an index so that the file is there whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    faiss.write_index(index, str(aside))
    sync_file(aside)
    aside.rename(path)


def load_index(path: Path, settings: AnnSettings) -> Any:
    """Read an index, onto the GPU if the settings say so."""
    index = faiss.read_index(str(path))
    return index if settings.device == "cpu" else _to_gpu(index, settings)


def search_index(
    index: Any,
    queries: AnyVectors,
    passages: AnyVectors,
    k: int,
    settings: AnnSettings,
    search_settings: SearchSettings,
) -> tuple[Ids, Scores]:
    """Return (row numbers, scores) like ``mining.search.search``, of what the index finds."""
    queries, passages = as_vectors(queries), as_vectors(passages)
    if index.ntotal != len(passages) or index.d != queries.width:
        raise ValueError(
            f"the index holds {index.ntotal} passages of {index.d} dimensions, the corpus "
            f"{len(passages)} of {queries.width}; build the index again"
        )
    fetched = _fetched(k, index.ntotal, settings)
    _set_breadth(index, fetched, settings)
    with _threads(search_settings.threads):
        _, found = index.search(queries.read(0, len(queries)).astype(np.float32), fetched)
    exact = score_rows(queries, passages, found, search_settings)
    return merge([(found, exact)], k)


def measure_recall(
    index: Any,
    queries: AnyVectors,
    passages: AnyVectors,
    k: int,
    settings: AnnSettings,
    search_settings: SearchSettings,
) -> float:
    """Return which share of the k passages that exact search finds the index finds too."""
    found, _ = search_index(index, queries, passages, k, settings, search_settings)
    exact, _ = search(queries, passages, k, search_settings)
    return recall(found, exact)


def recall(found: Ids, exact: Ids) -> float:
    """Return which share of ``exact`` is in the same row of ``found``; 1 of nothing."""
    wanted = exact != NO_PASSAGE
    hits = [np.isin(e, f).sum() for e, f in zip(np.where(wanted, exact, -2), found, strict=True)]
    return float(sum(hits) / wanted.sum()) if wanted.any() else 1.0


def _empty_index(width: int, settings: AnnSettings) -> Any:
    metric = faiss.METRIC_INNER_PRODUCT
    index: Any
    if settings.kind == "hnsw":
        index = faiss.IndexHNSWFlat(width, settings.neighbors, metric)
        index.hnsw.efConstruction = settings.build_breadth
        return index
    codes = {"ivf": "Flat", "ivf-sq8": "SQ8", "ivf-pq": f"PQ{settings.code_bytes}"}
    index = faiss.index_factory(width, f"IVF{settings.lists},{codes[settings.kind]}", metric)
    index.cp.seed = settings.seed
    if settings.kind == "ivf-pq":
        index.pq.cp.seed = settings.seed
    return index


def _fetched(k: int, rows: int, settings: AnnSettings) -> int:
    fetched = min(math.ceil(k * settings.fetched_per_k), max(rows, 1))
    if settings.device != "cpu" and fetched > GPU_MAX_K:
        raise ValueError(
            f"k={k} with fetched_per_k={settings.fetched_per_k} fetches {fetched} passages; faiss "
            f"fetches at most {GPU_MAX_K} on a GPU: lower one of them"
        )
    return fetched


def _set_breadth(index: Any, fetched: int, settings: AnnSettings) -> None:
    if settings.kind == "hnsw":
        index.hnsw.efSearch = max(settings.search_breadth, fetched)
    else:
        index.nprobe = settings.probes


def _check_corpus(passages: Vectors, settings: AnnSettings) -> None:
    if not len(passages):
        raise ValueError("the corpus is empty: there is nothing to index")
    if settings.kind == "hnsw":
        return
    if settings.lists > len(passages):
        raise ValueError(
            f"lists is {settings.lists} for {len(passages)} passages; use fewer, or exact search"
        )
    if settings.kind != "ivf-pq":
        return
    if passages.width % settings.code_bytes:
        raise ValueError(
            f"code_bytes is {settings.code_bytes}; it must divide the width {passages.width}"
        )
    if min(settings.training_rows, len(passages)) < PQ_CENTROIDS:
        raise ValueError(
            f"ivf-pq learns its codes from at least {PQ_CENTROIDS} passages; this corpus has "
            f"{len(passages)} and training_rows is {settings.training_rows}: use exact search"
        )


def _check_device(settings: AnnSettings) -> None:
    if settings.device == "cpu":
        return
    if not hasattr(faiss, "StandardGpuResources"):
        raise AnnUnavailableError(
            f"device is {settings.device!r}, but the installed faiss runs on CPUs; {GPU_INSTALL}"
        )
    if faiss.get_num_gpus() < 1:
        raise AnnUnavailableError(
            f"device is {settings.device!r}, but faiss finds no GPU; use 'cpu'"
        )
    if settings.kind == "hnsw":
        raise AnnUnavailableError("faiss has no hnsw on GPUs; use an ivf kind, or device 'cpu'")


def _to_gpu(index: Any, settings: AnnSettings) -> Any:
    options = faiss.GpuClonerOptions()
    if hasattr(options, "use_cuvs"):  # only where faiss was built with cuVS
        options.use_cuvs = True
    device = int(settings.device.partition(":")[2] or 0)
    return faiss.index_cpu_to_gpu(faiss.StandardGpuResources(), device, index, options)


class _threads:
    """faiss's number of threads within the block; it is a global of the process."""

    def __init__(self, threads: int) -> None:
        self.threads = threads

    def __enter__(self) -> None:
        self.before = faiss.omp_get_max_threads()
        faiss.omp_set_num_threads(self.threads)

    def __exit__(self, *_: object) -> None:
        faiss.omp_set_num_threads(self.before)
