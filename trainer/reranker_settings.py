"""What the training of a reranker is told: the section [rerank] of a recipe, checked as a whole."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from catalog.bounds import check_if_set
from catalog.recipe_files import RecipeError, find_recipe, read_recipe
from catalog.recipe_values import change, check_values, make_settings
from trainer.batches import PlanSettings, TaskBatches
from trainer.engine import OptimizerSettings
from trainer.run_settings import check_run

SECTION: Final = "rerank"
LOSSES: Final = ("listwise", "binary")
TASK: Final = "retrieval"  # whose pairs have mined candidates


@dataclass(frozen=True)
class RerankSettings:
    """A reranker's run. ``base`` is an encoder, or a reranker that is trained on.

    ``loss`` listwise: softmax cross-entropy of the positive among its negatives, as FlagEmbedding
    trains; binary: every passage for itself, as sentence-transformers does. Scores are divided by
    ``temperature``. Every time a pair comes up, ``num_negatives`` are drawn of the kept candidates
    of its query at ``candidate_ranks`` [first, end), counted from 0; negatives that came with the
    data fill what is missing. ``distillation`` weighs the divergence from the miner's stored scores
    (softmax at ``teacher_temperature``). ``batch`` counts the pairs of all processes,
    ``batch_tokens`` the tokens of a micro-batch with its padding; ``max_tokens`` None: as many as
    the base reads. ``steps`` None: as many as ``epochs`` take.
    """

    base: str
    max_tokens: int | None = None
    loss: str = "listwise"
    temperature: float = 1.0
    num_negatives: int = 15
    candidate_ranks: tuple[int, int] = (2, 200)
    distillation: float = 0.0
    teacher_temperature: float = 0.05
    batch: int = 64
    batch_tokens: int = 16384
    seed: int = 1
    steps: int | None = None
    epochs: float = 1.0
    engine: str = "torch"
    precision: str = "fastest"
    checkpoint_every: int = 500
    keep_checkpoints: int = 2
    log_every: int = 10
    optimizer: OptimizerSettings = field(default_factory=OptimizerSettings)

    def __post_init__(self) -> None:
        check_run(self)
        if self.loss not in LOSSES:
            raise ValueError(f"loss is {self.loss!r}; allowed are {', '.join(LOSSES)}")
        check_if_set(self, "num_negatives", "batch", "max_tokens")
        if min(self.temperature, self.teacher_temperature) <= 0:
            raise ValueError(
                f"temperature is {self.temperature} and teacher_temperature "
                f"{self.teacher_temperature}; both must be above 0"
            )
        if self.distillation < 0:
            raise ValueError(f"distillation is {self.distillation}; it must be at least 0")
        self._check_ranks()

    def _check_ranks(self) -> None:
        ranks = self.candidate_ranks
        if len(ranks) != 2 or not all(isinstance(rank, int) for rank in ranks):
            raise ValueError(f"candidate_ranks is {list(ranks)}; give two, such as [2, 200]")
        if not 0 <= ranks[0] < ranks[1]:
            raise ValueError(
                f"candidate_ranks is {list(ranks)}; they are a first rank, counted from 0, and the "
                "end behind the last one, such as [2, 200]"
            )

    def plan(self) -> PlanSettings:
        """Return the settings of the plan; no text of a batch is another's negative."""
        return PlanSettings(self.seed, {TASK: TaskBatches(self.batch, avoid="nothing")})

    def to_document(self) -> dict[str, Any]:
        """Return plain data, for records."""
        return asdict(self)


def is_of_reranker(recipe: Path | str) -> bool:
    """Say whether a recipe trains a reranker and no embedding model."""
    content = read_recipe(find_recipe(recipe))
    return SECTION in content and "train" not in content


def load_rerank_settings(
    recipe: Path | str, base: str | None = None, changes: Mapping[str, Any] | None = None
) -> RerankSettings:
    """Read a recipe's [rerank]; ``base`` and ``changes`` replace what it says."""
    path = find_recipe(recipe)
    content = read_recipe(path)
    for name, value in (changes or {}).items():
        change(content, (SECTION, *name.split(".")), value)
    if base is not None:
        change(content, (SECTION, "base"), base)
    return rerank_settings_of(path, content)


def rerank_settings_of(path: Path, content: Mapping[str, Any]) -> RerankSettings:
    """Return the settings of a recipe's [rerank]; its base is that of [model] if it names none."""
    if SECTION not in content:
        raise RecipeError(f"{path} has no [{SECTION}]: it does not say how a reranker is trained")
    base = content.get("model", {}).get("base")
    document = ({} if base is None else {"base": base}) | content[SECTION]
    if "base" not in document:
        raise RecipeError(
            f"{path} names no model: set base in [model] or [{SECTION}], or give --model"
        )
    return rerank_from_document(path, document)


def rerank_from_document(path: Path, document: Mapping[str, Any]) -> RerankSettings:
    """Make settings of plain data; an unknown key names the closest known one."""
    plain = dict(document)
    optimizer = plain.pop("optimizer", {})
    check_values(path, SECTION, RerankSettings, plain)
    made = make_settings(path, f"{SECTION}.optimizer", OptimizerSettings, optimizer)
    return make_settings(path, SECTION, RerankSettings, {**plain, "optimizer": made})
