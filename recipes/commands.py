"""Commands of recipes: list them, compare two, and run one as a whole."""

from pathlib import Path
from typing import Annotated, Any

import typer

from catalog.errors import CatalogError
from catalog.executor_options import (
    DEFAULT_WORKERS,
    ClusterOption,
    ExecutorOption,
    WaitOption,
    WorkersOption,
    choose_executor,
)
from catalog.terminal import CatalogOption, open_catalog, say

RecipeArgument = Annotated[
    str, typer.Argument(help="Recipe: a TOML file, or the name of a shipped one.")
]
recipes_app = typer.Typer(help="Published systems as files.", no_args_is_help=False)


def register(app: typer.Typer) -> None:
    """Add the commands of recipes to the command line."""
    app.command()(run)
    app.add_typer(recipes_app, name="recipes")


@recipes_app.callback(invoke_without_command=True)
def recipes(context: typer.Context) -> None:
    """List the recipes that come with Lode: stages, source, and what this machine lacks."""
    if context.invoked_subcommand is not None:
        return
    from catalog.recipe_files import shipped_recipes
    from recipes.listing import describe_recipe

    for name in shipped_recipes():
        for line in describe_recipe(name):
            say(line)


@recipes_app.command("diff")
def recipes_diff(first: RecipeArgument, second: RecipeArgument) -> None:
    """Show every setting in which two recipes differ."""
    from recipes.differences import recipe_differences

    for name, one, two in recipe_differences(first, second):
        say(f"{name:<56} {one}  →  {two}")


def run(
    recipe: RecipeArgument,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the run; it names the run.")],
    model: Annotated[
        str | None, typer.Option("--model", "-m", help="Base model (default: the recipe's).")
    ] = None,
    stages: Annotated[
        str | None, typer.Option(help="Only these, such as mine,train (default: all).")
    ] = None,
    sts: Annotated[
        list[Path] | None, typer.Option(help="Evaluate on this file or folder of graded pairs.")
    ] = None,
    retrieval: Annotated[
        list[Path] | None, typer.Option(help="Evaluate on this judged collection, or folder.")
    ] = None,
    benchmark: Annotated[
        str | None, typer.Option(help="Evaluate on all sets of cmteb-local, or of a TOML file.")
    ] = None,
    data: Annotated[Path, typer.Option(help="Folder that the benchmark's sets are in.")] = Path(
        "."
    ),
    set: Annotated[
        list[str] | None,
        typer.Option("--set", help="SECTION.KEY=VALUE, such as train.optimizer.lr=2e-5."),
    ] = None,
    rehearse: Annotated[
        bool, typer.Option(help="Run all of it on the demo corpus with a small new model.")
    ] = False,
    workers: WorkersOption = DEFAULT_WORKERS,
    executor: ExecutorOption = None,
    cluster: ClusterOption = None,
    wait: WaitOption = True,
    catalog: CatalogOption = None,
) -> None:
    """Run a whole recipe on a catalog: from curation to evaluation; what is done is not redone."""
    from recipes.plan import load_plan
    from recipes.run import run_recipe

    place = choose_executor(workers, executor, cluster, wait, recipe)
    sets = {"sts": sts, "retrieval": retrieval}
    given: dict[str, Any] = {kind: list(map(str, paths)) for kind, paths in sets.items() if paths}
    if benchmark is not None:
        given |= {"benchmark": benchmark, "data": str(data)}
    if rehearse:
        from recipes.rehearsal import rehearse as run_rehearsal

        if catalog is not None or given or model is not None:
            raise CatalogError(
                "a rehearsal makes its own catalog, model and evaluation sets; leave --catalog, "
                "--model, --sts, --retrieval and --benchmark out"
            )
        done = run_rehearsal(recipe, out, set or (), place, say, _stages(stages))
    else:
        plan = load_plan(recipe, model, set or (), given)
        found = open_catalog(catalog)
        done = run_recipe(plan, found, out, place, say, _stages(stages))
    made = done.newest_model()
    if made is not None:
        say(f"model {made}")
    reranker = done.journal.newest("reranker")
    if reranker is not None:
        say(f"reranker {reranker}")


def _stages(words: str | None) -> list[str] | None:
    return None if words is None else [word.strip() for word in words.split(",")]
