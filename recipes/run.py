"""A run of a recipe, from raw pairs to an evaluated model; kill it and run the same again."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path

from catalog.errors import CatalogError
from catalog.executors import ExecutorSettings
from catalog.lake import Catalog
from catalog.policies import NAME
from recipes.journal import Journal
from recipes.plan import RecipePlan
from recipes.requirements import check_requirements
from recipes.stages import RUNNERS, Bench


def run_recipe(
    plan: RecipePlan,
    catalog: Catalog,
    folder: Path,
    executor: ExecutorSettings,
    say: Callable[[str], None],
    stages: Sequence[str] | None = None,
) -> Bench:
    """Run the stages that are not done yet, or those of ``stages`` only.

    Everything that can be wrong with a recipe or a machine is said before the first one begins.
    """
    bench = Bench(plan, catalog, folder, Journal(folder), executor, say)
    if not NAME.fullmatch(bench.name):
        raise CatalogError(
            f"{folder} names the run {bench.name!r}; a name is made of a-z, 0-9, _, . and -"
        )
    left = choose_stages(plan, bench.journal, stages)
    check_requirements(plan, left)
    for stage in left:
        say(f"── {stage} ──")
        began = time.monotonic()
        made = RUNNERS[stage](bench)
        bench.journal.write(stage, plan.document(stage), made)
        say(f"{stage} took {time.monotonic() - began:,.1f} s\n")
    return bench


def choose_stages(
    plan: RecipePlan, journal: Journal, stages: Sequence[str] | None = None
) -> list[str]:
    """Return which stages will run, in their order; each needs all that come before it."""
    chosen = plan.stages if stages is None else tuple(stages)
    unknown = [stage for stage in chosen if stage not in plan.stages]
    if unknown:
        raise CatalogError(
            f"recipe {plan.name} has no stage {unknown[0]!r}; it has {', '.join(plan.stages)}"
        )
    left: list[str] = []
    skipped: list[str] = []
    for stage in plan.stages:
        if journal.is_done(stage, plan.document(stage)):
            if left and stage in chosen:
                raise CatalogError(
                    f"{journal.path} says that {stage} is done, but {left[0]} before it is not; "
                    "choose another folder"
                )
        elif stage not in chosen:
            skipped.append(stage)
        elif skipped:
            raise CatalogError(
                f"{stage} comes after {', '.join(skipped)}, which has not run: name it too, "
                f"--stages {','.join([*skipped, stage])}"
            )
        else:
            left.append(stage)
    return left
