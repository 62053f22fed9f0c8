"""What is mined and how: the settings of a mining run, and each worker's part of the machine."""

from dataclasses import dataclass, field, replace

import torch

from catalog.bounds import check_at_least_one
from catalog.executors import ExecutorSettings
from mining import ann
from mining.ann import AnnSettings
from mining.bm25 import Bm25Settings
from mining.candidates import FilterSettings
from mining.miners import BM25, MINERS
from mining.relevance import RelevanceSettings
from mining.search_plan import SearchSettings


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
        check_at_least_one(self, "depth", "recall_queries", "shard_queries")
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


def share_machine(settings: MineSettings, executor: ExecutorSettings) -> MineSettings:
    """Give each worker its part of the threads, and of the memory that it shares with others."""
    search = settings.search
    sharing = -(-executor.tasks_per_machine // max(1, count_gpus(search)))
    memory_mb = max(search.memory_mb // sharing, 1)
    threads = executor.threads_of_task(search.threads)
    return replace(settings, search=replace(search, memory_mb=memory_mb, threads=threads))


def count_gpus(settings: SearchSettings) -> int:
    """Count the GPUs that tasks are spread over: none, where the settings name a certain device."""
    return torch.cuda.device_count() if settings.device == "cuda" else 0


def on_device(settings: SearchSettings, rank: int) -> SearchSettings:
    """Name the GPU of a task."""
    count = count_gpus(settings)
    return replace(settings, device=f"cuda:{rank % count}") if count else settings
