"""What a run of pre-training is told: the sections [model] and [pretrain] of a recipe."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from catalog.bounds import check_at_least_one
from catalog.recipe_files import RecipeError, find_recipe, read_recipe
from catalog.recipe_values import change, check_values, make_settings
from trainer.engine import OptimizerSettings
from trainer.masked_texts import MaskSettings
from trainer.model import ModelSettings
from trainer.run_settings import check_run

SECTION: Final = "pretrain"


@dataclass(frozen=True)
class PretrainSettings:
    """RetroMAE as a whole: ``batch`` passages of all processes in every update.

    ``steps`` None: as many as ``epochs`` over all passages take. ``batch_tokens`` bounds a
    micro-batch. ``nearby`` keeps reads near each other: passages are shuffled within parts of the
    pack that follow each other in random order, for packs that memory does not hold.
    """

    model: ModelSettings
    batch: int = 256
    seed: int = 1
    steps: int | None = None
    epochs: float = 1.0
    engine: str = "torch"
    precision: str = "fastest"
    batch_tokens: int = 8192
    checkpoint_every: int = 500
    keep_checkpoints: int = 2
    log_every: int = 10
    nearby: bool = True
    mask: MaskSettings = field(default_factory=MaskSettings)
    optimizer: OptimizerSettings = field(default_factory=OptimizerSettings)

    def __post_init__(self) -> None:
        check_run(self)
        check_at_least_one(self, "batch")
        if self.model.head_width is not None:
            raise ValueError(
                "head_width is set; pre-training has no head: set it in the training after it"
            )

    def count_steps(self, passages: int) -> int:
        """Count the steps of a run over so many passages."""
        return self.steps or max(1, round(self.epochs * passages / self.batch))


_SECTIONS: Final = {"mask": MaskSettings, "optimizer": OptimizerSettings}


def load_pretraining(
    recipe: Path | str, base: str | None = None, changes: Mapping[str, Any] | None = None
) -> PretrainSettings:
    """Read a recipe's [model] and [pretrain]; ``base`` and ``changes`` replace what it says."""
    path = find_recipe(recipe)
    content = read_recipe(path)
    if SECTION not in content:
        raise RecipeError(f"{path} has no [{SECTION}]: it does not say how to pre-train")
    content["model"] = content.get("model", {}) | ({} if base is None else {"base": base})
    for name, value in (changes or {}).items():
        place = name.split(".")
        change(content, place if place[0] == "model" else [SECTION, *place], value)
    return pretraining_of(path, content)


def pretraining_of(path: Path, content: Mapping[str, Any]) -> PretrainSettings:
    """Return the settings of [pretrain], with the recipe's [model].

    Heads and instructions in [model] are of the training after it: texts are read as they are.
    """
    model = {
        key: value
        for key, value in content.get("model", {}).items()
        if key not in ("head_width", "query_instruction", "passage_instruction")
    }
    if "base" not in model:
        raise RecipeError(f"{path} names no model: set base in [model], or give --model")
    return pretraining_from_document(path, {"model": model, **content[SECTION]})


def pretraining_from_document(path: Path, document: Mapping[str, Any]) -> PretrainSettings:
    """Make settings of plain data; an unknown key names the closest known one."""
    plain = {key: value for key, value in document.items() if key not in (*_SECTIONS, "model")}
    check_values(path, SECTION, PretrainSettings, plain)
    made: dict[str, Any] = {
        name: make_settings(path, f"{SECTION}.{name}", kind, document[name])
        for name, kind in _SECTIONS.items()
        if document.get(name) is not None
    }
    model = make_settings(path, "model", ModelSettings, document["model"])
    try:
        return PretrainSettings(model, **plain, **made)
    except ValueError as error:
        raise RecipeError(f"{path}: {error}") from error
