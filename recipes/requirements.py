"""What a recipe needs of a machine: packages of Lode's extras, and models."""

import importlib.util
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from catalog.recipe_files import RecipeError
from mining.encoder import LEXICAL
from recipes.plan import LATER, TRAINING, RecipePlan
from recipes.sections import MineSection


@dataclass(frozen=True)
class Requirement:
    """Something that a stage needs and that may not be here."""

    stage: str
    what: str
    is_here: bool
    remedy: str


def requirements(plan: RecipePlan) -> list[Requirement]:
    """List what the stages need, in their order."""
    found: list[Requirement] = []
    if plan.score is not None:
        found += _model("score", plan.score.model, "--set score.model=FOLDER")
    if plan.base:
        found += _model(_first_training(plan), plan.base, "--model FOLDER")
    for stage in (*TRAINING, "rerank"):
        settings = getattr(plan, stage)
        if settings is not None and settings.engine == "deepspeed":
            found.append(_package(stage, "deepspeed", "deepspeed"))
    if plan.pretrain is not None and plan.pretrain.mask.words == "jieba":
        found.append(_package("pretrain", "jieba", "words"))
    if plan.mine is not None:
        found += _mining(plan.mine)
    if plan.rerank is not None and plan.rerank.base not in (LATER, plan.base, ""):
        found += _model("rerank", plan.rerank.base, "--set rerank.base=FOLDER")
    return found + _evaluation(plan)


def check_requirements(plan: RecipePlan, stages: Iterable[str]) -> None:
    """Raise RecipeError, before any work, where a stage that will run lacks something."""
    wanted = set(stages)
    missing = [each for each in requirements(plan) if each.stage in wanted and not each.is_here]
    if missing:
        lines = [f"{each.stage} needs {each.what}: {each.remedy}" for each in missing]
        raise RecipeError(f"{plan.path} cannot run here; " + "; ".join(lines))


def _mining(section: MineSection) -> list[Requirement]:
    found = []
    if section.mining().ann_kind:
        found.append(_package("mine", "faiss", "ann"))
    if section.reranker is not None:
        found.append(_package("mine", "sentence_transformers", "rerank"))
        found += _model("mine", section.reranker, "--set mine.reranker=FOLDER")
    if section.model is not None:
        found += _model("mine", section.model, "--set mine.model=FOLDER")
    return found


def _evaluation(plan: RecipePlan) -> list[Requirement]:
    if plan.evaluate is None or plan.evaluate.is_empty:
        return []
    found = []
    if plan.trains_embedding:
        found.append(_package("evaluate", "mteb", "eval"))
    if plan.rerank is not None:
        found.append(_package("evaluate", "sentence_transformers", "rerank"))
    return found


def _first_training(plan: RecipePlan) -> str:
    return next(stage for stage in plan.stages if stage in (*TRAINING, "rerank"))


def _package(stage: str, module: str, extra: str) -> Requirement:
    is_here = importlib.util.find_spec(module) is not None
    return Requirement(
        stage, f"the package {module}", is_here, f"pip install 'lode-engine[{extra}]'"
    )


def _model(stage: str, name: str, option: str) -> list[Requirement]:
    if name == LEXICAL:
        return []
    remedy = f"download it, or give {option}"
    return [Requirement(stage, f"the model {name}", _is_model_here(name), remedy)]


def _is_model_here(name: str) -> bool:
    """Say whether a model is a folder, or lies whole in the cache of the hub's client."""
    if Path(name).is_dir():
        return True
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        return isinstance(try_to_load_from_cache(name, "config.json"), str)
    except HFValidationError:
        return False
