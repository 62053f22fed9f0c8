"""A recipe as a whole: which stages it has, each one's settings, all checked before any work."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Final

from catalog.recipe_files import RecipeError, find_recipe, read_recipe
from catalog.recipe_values import change, make_settings
from curation.recipes import Recipe, load_recipe
from recipes.sections import CurateSection, EvaluateSection, MineSection, ScoreSection
from trainer.new_model import NewModelSettings
from trainer.pretrain_settings import PretrainSettings, pretraining_of
from trainer.reranker_settings import RerankSettings, rerank_settings_of
from trainer.settings import TrainSettings, change_settings, settings_of

# In the order in which they run.
STAGES: Final = (
    "curate", "score", "new_model", "pretrain", "general", "mine", "train", "rerank", "evaluate",
)  # fmt: skip
# Those that train an embedding model.
TRAINING: Final = ("pretrain", "general", "train")
_PLAIN_SECTIONS: Final = {
    "curate": CurateSection, "score": ScoreSection, "new_model": NewModelSettings,
    "mine": MineSection, "evaluate": EvaluateSection,
}  # fmt: skip
# A run without a base of its own makes one; settings are read before that is there.
LATER: Final = "the model of an earlier stage"


@dataclass(frozen=True)
class RecipePlan:
    """What a run of a recipe will do; a stage that is None is left out."""

    name: str
    path: Path
    curate: Recipe
    score: ScoreSection | None = None
    new_model: NewModelSettings | None = None
    pretrain: PretrainSettings | None = None
    general: TrainSettings | None = None
    mine: MineSection | None = None
    train: TrainSettings | None = None
    rerank: RerankSettings | None = None
    evaluate: EvaluateSection | None = None

    @property
    def stages(self) -> tuple[str, ...]:
        """The stages that this recipe has, in their order."""
        return tuple(stage for stage in STAGES if getattr(self, stage) is not None)

    @property
    def base(self) -> str | None:
        """The model that training begins with; None: the run makes one."""
        if self.new_model is not None:
            return None
        first = self.pretrain or self.general or self.train
        if first is not None:
            return first.model.base
        return self.rerank.base if self.rerank is not None else None

    @property
    def trains_embedding(self) -> bool:
        """It makes an embedding model, and not a reranker alone."""
        return any(getattr(self, stage) is not None for stage in TRAINING)

    @property
    def evaluation_sets(self) -> tuple[str, ...]:
        """What the models will be evaluated on: its texts are looked for in the pairs."""
        return () if self.evaluate is None else tuple(map(str, self.evaluate.paths().all))

    def document(self, stage: str) -> dict[str, Any]:
        """Return a stage's settings as plain data, for records."""
        settings = getattr(self, stage)
        if isinstance(settings, Recipe):
            return {
                "policy": settings.policy.digest, "signals": settings.signals,
                "duplicates": settings.duplicates, "evaluation_sets": self.evaluation_sets,
            }  # fmt: skip
        return asdict(settings)


def load_plan(
    recipe: Path | str,
    base: str | None = None,
    words: Iterable[str] = (),
    evaluation: Mapping[str, Any] | None = None,
    rehearse: bool = False,
) -> RecipePlan:
    """Read a whole recipe and check every section.

    ``base`` and ``words`` (SECTION.KEY=VALUE) replace what it says, ``evaluation`` values of
    its section [evaluate];
    ``rehearse`` lays its section [rehearse] over the others.
    """
    path = find_recipe(recipe)
    content = read_recipe(path)
    rehearsal = content.pop("rehearse", {})
    if rehearse:
        content = _laid_over(content, {k: v for k, v in rehearsal.items() if k != "rows"})
    content["model"] = content.get("model", {}) | ({} if base is None else {"base": base})
    for name, value in change_settings({}, words).items():
        change(content, name.split("."), value)
    for key, value in (evaluation or {}).items():
        change(content, ("evaluate", key), value)
    return _plan_of(path, content)


def rehearsal_rows(recipe: Path | str) -> int:
    """Return how many rows of the demo corpus a rehearsal takes."""
    path = find_recipe(recipe)
    rows = read_recipe(path).get("rehearse", {}).get("rows")
    if not isinstance(rows, int) or rows < 1:
        raise RecipeError(f"{path} cannot be rehearsed: [rehearse] says no rows, such as rows=3000")
    return rows


def _plan_of(path: Path, content: dict[str, Any]) -> RecipePlan:
    made: dict[str, Any] = {
        section: make_settings(path, section, kind, content[section])
        for section, kind in _PLAIN_SECTIONS.items()
        if section in content
    }
    made["curate"] = _curation(path, content, made.get("curate"))
    if "new_model" in content:
        content["model"] = {**content["model"], "base": LATER}
    if "pretrain" in content:
        made["pretrain"] = pretraining_of(path, content)
    for section in ("general", "train"):
        if section in content:
            made[section] = settings_of(path, content, section)
    if "rerank" in content:
        made["rerank"] = _reranking(path, content)
    if not {*TRAINING, "rerank"} & set(made):
        raise RecipeError(f"{path} trains nothing; give [train] or [rerank], or use lode curate")
    return RecipePlan(content.get("recipe", {}).get("name", path.stem), path, **made)


def _reranking(path: Path, content: Mapping[str, Any]) -> RerankSettings:
    """Return the settings of a reranker; LATER is its base where the run trains a model first."""
    if "mine" not in content:
        raise RecipeError(
            f"{path}: [rerank] learns from mined candidates, and there is no [mine] before it; "
            "give one"
        )
    if {"general", "train"} & set(content):
        content = {**content, "rerank": {"base": LATER} | content["rerank"]}
    return rerank_settings_of(path, content)


def _curation(path: Path, content: Mapping[str, Any], named: CurateSection | None) -> Recipe:
    """Return the recipe's own curation, or that of the recipe that it names."""
    if (named is None) == ("policy" not in content):
        raise RecipeError(
            f"{path} must say how pairs are curated: either [policy] or [curate] recipe=NAME"
        )
    return load_recipe(path if named is None else _beside(path, named.recipe))


def _beside(path: Path, name: str) -> Path | str:
    """A recipe's file is found from where the naming one is, a shipped one by its name."""
    return path.parent / name if (path.parent / name).is_file() else name


def _laid_over(content: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return the content with the values of another, section by section."""
    merged = dict(content)
    for key, value in changes.items():
        old = merged.get(key)
        both = isinstance(value, Mapping) and isinstance(old, Mapping)
        merged[key] = _laid_over(old, value) if both and old is not None else value
    return merged


assert set(STAGES) <= {field.name for field in fields(RecipePlan)}
