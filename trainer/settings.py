"""What a training run is told: the sections [model] and [train] of a recipe, checked as a whole."""

import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from catalog.recipe_files import RecipeError, find_recipe, read_recipe
from catalog.recipe_values import change, check_values, make_settings
from trainer.balance import CBB_BETA
from trainer.batches import PlanSettings, TaskBatches
from trainer.contrastive import Contrast
from trainer.engine import OptimizerSettings
from trainer.matryoshka import Widths
from trainer.model import ModelSettings
from trainer.negative_rules import NegativeSettings
from trainer.run_settings import check_run
from trainer.task_order import task_at

TASKS_PER_UPDATE: Final = ("all", "one")
LEARNED: Final = "learned"


@dataclass(frozen=True)
class ContrastiveTask:
    """A task of queries and passages: ``batch`` pairs of all processes in every update.

    ``temperature`` is a number, or learned. ``columns`` says which negatives a query is set
    against (see ``trainer.contrastive.Contrast``); ``hard_negatives`` are a query's own.
    ``distillation`` weighs the divergence from the miner's stored scores of a query's positive and
    hard negatives (see ``trainer.distillation``), whose own temperature is
    ``teacher_temperature``.
    ``source_weights``, ``source_temperature`` and ``batch_by`` mix sources, and ``processes`` is
    how many work on the task (see ``trainer.batches.TaskBatches``). The instructions are the
    task's own, in place of the model's; an empty one is none.
    """

    batch: int = 64
    weight: float = 1.0
    temperature: float | str = 0.02
    columns: str = "gathered"
    in_batch: bool = True
    hard_negatives: bool = True
    margin: float | None = None
    hardness: float = 0.0
    focus: float = 0.0
    distillation: float = 0.0
    teacher_temperature: float = 0.05
    source_weights: Mapping[str, float] = field(default_factory=dict)
    source_temperature: float = 1.0
    batch_by: str = "task"
    processes: int | str = "all"
    query_instruction: str | None = None
    passage_instruction: str | None = None

    def __post_init__(self) -> None:
        _check_weight(self.weight)
        is_text = isinstance(self.temperature, str)
        if self.temperature != LEARNED and (is_text or not float(self.temperature) > 0):
            raise ValueError(
                f"temperature is {self.temperature!r}; it must be a number above 0, or 'learned'"
            )
        self._check_distillation()
        self.contrast()
        self.batches()

    def _check_distillation(self) -> None:
        if self.distillation < 0 or self.teacher_temperature <= 0:
            raise ValueError(
                f"distillation is {self.distillation} and teacher_temperature "
                f"{self.teacher_temperature}; at least 0, and above 0"
            )
        if self.distillation and not self.hard_negatives:
            raise ValueError(
                "distillation learns from the scores of hard negatives; set hard_negatives = true"
            )
        if self.distillation and self.columns == "shared_query":
            raise ValueError(
                "distillation needs all hard negatives of a query in one process; set columns to "
                "gathered or local"
            )

    def batches(self) -> TaskBatches:
        """Return how the plan cuts batches."""
        batch_by: Any = self.batch_by
        return TaskBatches(
            self.batch, self.source_weights, self.source_temperature, batch_by,
            processes=_processes(self.processes), shares_queries=self.columns == "shared_query",
        )  # fmt: skip

    def contrast(self, widths: Widths | None = None) -> Contrast:
        """Return the loss's own settings."""
        columns: Any = self.columns
        return Contrast(columns, self.in_batch, self.margin, self.hardness, self.focus, widths)


@dataclass(frozen=True)
class CosentTask:
    """A task of pairs with graded similarity, learned by CoSENT.

    The first sentence of a pair is put as a query, the second as a passage, with the task's own
    instructions where it has some.
    """

    batch: int = 32
    weight: float = CBB_BETA
    temperature: float = 0.05
    source_weights: Mapping[str, float] = field(default_factory=dict)
    source_temperature: float = 1.0
    processes: int | str = "all"
    query_instruction: str | None = None
    passage_instruction: str | None = None

    def __post_init__(self) -> None:
        _check_weight(self.weight)
        if self.temperature <= 0:
            raise ValueError(f"temperature is {self.temperature}; it must be above 0")
        self.batches()

    def batches(self) -> TaskBatches:
        """Return how the plan cuts batches."""
        # Repeated sentences are graded, too: only the same pair is kept apart.
        return TaskBatches(
            self.batch, self.source_weights, self.source_temperature, avoid="repeats",
            processes=_processes(self.processes),
        )  # fmt: skip


@dataclass(frozen=True)
class TrainSettings:
    """A run as a whole. ``steps`` None: as many as ``epochs`` of the largest task take.

    ``batch_tokens`` bounds a micro-batch; ``cached`` encodes twice and holds the activations of
    one micro-batch only (GradCache), for batches that do not fit. ``tasks_per_update``: all of
    them in every update (cross-task batch balance), or one, in a random order.
    """

    model: ModelSettings
    seed: int = 1
    steps: int | None = None
    epochs: float = 1.0
    engine: str = "torch"
    precision: str = "fastest"
    batch_tokens: int = 8192
    cached: bool = False
    tasks_per_update: str = "all"
    checkpoint_every: int = 500
    keep_checkpoints: int = 2
    log_every: int = 10
    live: bool = True
    optimizer: OptimizerSettings = field(default_factory=OptimizerSettings)
    negatives: NegativeSettings = field(default_factory=NegativeSettings)
    retrieval: ContrastiveTask | None = None
    classification: ContrastiveTask | None = None
    sts: CosentTask | None = None
    widths: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        check_run(self)
        if self.tasks_per_update not in TASKS_PER_UPDATE:
            raise ValueError(
                f"tasks_per_update is {self.tasks_per_update!r}; allowed are "
                f"{', '.join(TASKS_PER_UPDATE)}"
            )
        if not self.tasks:
            raise ValueError(
                "no task is trained; give [train.retrieval], [train.sts] or [train.classification]"
            )
        some = [name for name, task in self.tasks.items() if task.processes != "all"]
        if self.tasks_per_update == "one" and some:
            raise ValueError(
                f"{some[0]} has processes of its own, which would wait while tasks_per_update is "
                "'one'; leave processes out"
            )
        if self.classification is not None and self.classification.distillation:
            raise ValueError("distillation is of retrieval: candidates are mined for no other task")

    @property
    def tasks(self) -> dict[str, ContrastiveTask | CosentTask]:
        """The tasks that are trained, by name."""
        named = {
            "retrieval": self.retrieval, "sts": self.sts, "classification": self.classification,
        }  # fmt: skip
        return {name: task for name, task in named.items() if task is not None}

    def task_prompts(self) -> dict[str, str]:
        """Return the tasks' own instructions, as a model's folder names them."""
        found = {name: task.query_instruction for name, task in self.tasks.items()}
        found |= {f"{name}-document": task.passage_instruction for name, task in self.tasks.items()}
        return {name: text for name, text in found.items() if text is not None}

    def plan(self) -> PlanSettings:
        """Return the settings of the plan."""
        return PlanSettings(self.seed, {name: task.batches() for name, task in self.tasks.items()})

    def tasks_at(self, step: int) -> tuple[tuple[str, ...], int]:
        """Return which tasks an update holds, and which of the plan's steps it is for them."""
        if self.tasks_per_update == "all":
            return tuple(self.tasks), step
        task, number = task_at(self.seed, step, tuple(self.tasks))
        return (task,), number

    def to_document(self) -> dict[str, Any]:
        """Return plain data, for records."""
        return asdict(self)


_SECTIONS: Final = {
    "optimizer": OptimizerSettings,
    "negatives": NegativeSettings,
    "retrieval": ContrastiveTask,
    "classification": ContrastiveTask,
    "sts": CosentTask,
}


def load_settings(
    recipe: Path | str,
    base: str | None = None,
    changes: Mapping[str, Any] | None = None,
    section: str = "train",
) -> TrainSettings:
    """Read a recipe's [model] and [train]; ``base`` and ``changes`` replace what it says.

    ``section`` is ``train``, or another section of the same keys: ``general``.
    """
    path = find_recipe(recipe)
    content = read_recipe(path)
    content["model"] = content.get("model", {}) | ({} if base is None else {"base": base})
    for name, value in (changes or {}).items():
        place = name.split(".")
        change(content, place if place[0] == "model" else [section, *place], value)
    return settings_of(path, content, section)


def settings_of(path: Path, content: Mapping[str, Any], section: str = "train") -> TrainSettings:
    """Return the settings of a section of training, with the recipe's [model]."""
    if section not in content:
        raise RecipeError(f"{path} has no [{section}]: it does not say what to train")
    model = content.get("model", {})
    if "base" not in model:
        raise RecipeError(f"{path} names no model: set base in [model], or give --model")
    try:
        return from_document(path, {"model": model, **content[section]}, section)
    except (TypeError, ValueError) as error:
        if isinstance(error, RecipeError):
            raise
        raise RecipeError(f"{path}: {error}") from error


def from_document(path: Path, document: Mapping[str, Any], section: str = "train") -> TrainSettings:
    """Make settings of plain data; an unknown key names the closest known one."""
    plain = {key: value for key, value in document.items() if key not in (*_SECTIONS, "model")}
    check_values(path, section, TrainSettings, plain)
    made: dict[str, Any] = {
        name: make_settings(path, f"{section}.{name}", kind, document[name])
        for name, kind in _SECTIONS.items()
        if document.get(name) is not None
    }
    plain["widths"] = tuple(plain.get("widths", ()))
    model = make_settings(path, "model", ModelSettings, document["model"])
    return TrainSettings(model, **plain, **made)


def change_settings(given: Mapping[str, Any], words: Iterable[str]) -> dict[str, Any]:
    """Add settings written as NAME=VALUE, the value as in TOML; a bare word is a string."""
    changes = dict(given)
    for word in words:
        name, equals, value = word.partition("=")
        if not equals:
            raise ValueError(f"{word!r} is no setting; write NAME=VALUE, such as steps=1000")
        try:
            changes[name] = tomllib.loads(f"value = {value}")["value"]
        except tomllib.TOMLDecodeError:
            changes[name] = value
    return changes


def _check_weight(weight: float) -> None:
    if weight < 0:
        raise ValueError(f"weight is {weight}; it must be at least 0")


def _processes(number: int | str) -> Any:
    if number != "all" and not isinstance(number, int):
        raise ValueError(f"processes is {number!r}; give a number, or 'all'")
    return number
