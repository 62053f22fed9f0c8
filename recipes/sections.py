"""The sections of a recipe that only a whole run reads: curate, score, mine, evaluate."""

from dataclasses import dataclass
from pathlib import Path

from mining.candidates import FilterSettings
from mining.encoder import EncoderSettings
from mining.mine_settings import MineSettings
from mining.relevance import RelevanceSettings
from trainer.eval_paths import KINDS, SetPaths, read_benchmark


@dataclass(frozen=True)
class CurateSection:
    """``recipe``: whose signals, duplicates and policy are used, where a recipe has none itself."""

    recipe: str


@dataclass(frozen=True)
class ScoreSection:
    """A teacher scores every pair, and those below ``min_score`` are not kept.

    ``tasks`` are those whose pairs must reach it: graded pairs are unlike each other on purpose.
    """

    model: str
    min_score: float
    name: str | None = None
    pooling: str | None = None
    max_tokens: int | None = None
    query_instruction: str | None = None
    passage_instruction: str | None = None
    tasks: tuple[str, ...] = ("retrieval",)

    def __post_init__(self) -> None:
        if not -1 <= self.min_score <= 1:
            raise ValueError(f"min_score is {self.min_score}; a cosine is between -1 and 1")
        if not self.tasks or any(not task.isidentifier() for task in self.tasks):
            raise ValueError(f"tasks is {list(self.tasks)}; name one or more, such as retrieval")
        self.encoder()

    def encoder(self) -> EncoderSettings:
        """Return how the teacher is run."""
        return EncoderSettings(
            self.model, self.name, pooling=self.pooling, max_tokens=self.max_tokens,
            query_instruction=self.query_instruction, passage_instruction=self.passage_instruction,
        )  # fmt: skip


@dataclass(frozen=True)
class MineSection:
    """Hard negatives. ``model`` None: the newest model of the run, which mines for the next stage.

    The other settings are those of ``lode mine``; ``margin`` false keeps what is close to the
    positive, as miners did before positive-aware margins.
    """

    model: str | None = None
    depth: int = 200
    search: tuple[str, ...] = ("exact",)
    tasks: tuple[str, ...] = ("retrieval",)
    margin: bool = True
    relative_margin: float = 0.95
    absolute_margin: float | None = None
    max_score: float | None = None
    reranker: str | None = None
    reranker_min_score: float = 0.5
    reranker_ranks: int = 50

    def __post_init__(self) -> None:
        self.mining()

    def mining(self) -> MineSettings:
        """Return the settings of ``lode mine``."""
        relevance = None
        if self.reranker is not None:
            relevance = RelevanceSettings(
                self.reranker, self.reranker_min_score, self.reranker_ranks
            )
        margin = self.relative_margin if self.margin else None
        return MineSettings(
            self.depth, self.search, self.tasks,
            FilterSettings(margin, self.absolute_margin, self.max_score), relevance=relevance,
        )  # fmt: skip


@dataclass(frozen=True)
class EvaluateSection:
    """Evaluation sets of this machine: files and folders by kind, or a benchmark's below ``data``.

    The kinds are those of ``trainer.eval_paths.SetPaths``. A reranker reads the first
    ``rerank_depth`` passages that a search finds.
    """

    sts: tuple[str, ...] = ()
    retrieval: tuple[str, ...] = ()
    classification: tuple[str, ...] = ()
    clustering: tuple[str, ...] = ()
    benchmark: str | None = None
    data: str = "."
    rerank_depth: int = 100

    def __post_init__(self) -> None:
        if self.rerank_depth < 1:
            raise ValueError(f"rerank_depth is {self.rerank_depth}; it must be at least 1")
        missing = [path for path in self.paths().all if not path.exists()]
        if missing:
            raise ValueError(
                f"{missing[0]} does not exist; give files or folders of this machine, or none"
            )

    def paths(self) -> SetPaths:
        """Return where all sets are; ValueError for a benchmark whose sets are not there."""
        given = SetPaths(*(tuple(map(Path, getattr(self, kind))) for kind in KINDS))
        if self.benchmark is None:
            return given
        return given + read_benchmark(self.benchmark, Path(self.data))

    @property
    def is_empty(self) -> bool:
        """Nothing is evaluated."""
        return not self.paths().all
