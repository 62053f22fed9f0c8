"""Recipes for people: what each is, its stages, and what of it this machine can run."""

from collections.abc import Iterator

from catalog.recipe_files import read_recipe, shipped_recipes
from recipes.plan import load_plan
from recipes.requirements import requirements


def describe_recipe(name: str) -> Iterator[str]:
    """Yield the lines about a shipped recipe."""
    content = read_recipe(shipped_recipes()[name])
    yield f"{name:<14} {content.get('recipe', {}).get('title', '')}"
    names_base = "new_model" in content or "base" in content.get("model", {})
    plan = load_plan(name, base=None if names_base else "")
    yield f"{'':<14} {' → '.join(plan.stages)}"
    if not names_base:
        yield f"{'':<14} it names no model to begin with: --model FOLDER"
    for need in requirements(plan):
        if not need.is_here:
            yield f"{'':<14} {need.stage} lacks {need.what}: {need.remedy}"
