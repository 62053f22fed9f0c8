"""Commands of curation: ingest, curate, signals and mask."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from catalog.executor_options import (
    DEFAULT_WORKERS,
    ClusterOption,
    ExecutorOption,
    WaitOption,
    WorkersOption,
    choose_executor,
)
from catalog.terminal import (
    AtOption,
    Bars,
    CatalogOption,
    FormatOption,
    OutputOption,
    PolicyOption,
    open_catalog,
    say,
)


def register(app: typer.Typer) -> None:
    """Add curation's commands to the command line."""
    for command in (ingest, curate, signals, mask):
        app.command()(command)


def ingest(
    files: Annotated[
        list[str] | None, typer.Argument(help="Files, folders or patterns; also s3://…")
    ] = None,
    catalog: CatalogOption = None,
    recipe: Annotated[str | None, typer.Option(help="Read the recipe's [sources].")] = None,
    map: Annotated[
        list[str] | None, typer.Option("--map", help="TARGET=COLUMN, such as query=text1.")
    ] = None,
    set: Annotated[
        list[str] | None, typer.Option("--set", help="SETTING=VALUE, such as form=title-content.")
    ] = None,
    replace: Annotated[bool, typer.Option(help="Take changed files in place of old ones.")] = False,
    explain: Annotated[
        bool, typer.Option(help="Say how files would be read; read nothing.")
    ] = False,
    workers: WorkersOption = DEFAULT_WORKERS,
    executor: ExecutorOption = None,
    cluster: ClusterOption = None,
    wait: WaitOption = True,
) -> None:
    """Read files of pairs into the catalog; the same file twice adds nothing."""
    from catalog.recipe_files import find_recipe
    from curation.ingest import describe_sources, find_sources, ingest_files
    from curation.recipes import load_sources

    sources = load_sources(find_recipe(recipe)) if recipe else None
    found = find_sources(files or (), map or (), set or (), sources)
    for line in describe_sources(found):
        say(line)
    if explain:
        return
    place = choose_executor(workers, executor, cluster, wait, recipe)
    with Bars({"read": sum(source.bytes for source in found)}) as bars:
        result = ingest_files(
            open_catalog(catalog), found, replace=replace, executor=place, progress=bars
        )
    say(result.summary())


def curate(
    recipe: Annotated[
        str, typer.Argument(help="Recipe: a TOML file, or the name of a shipped one.")
    ],
    evaluation_sets: Annotated[
        list[Path] | None,
        typer.Option(help="Sets, or folders of them, whose texts must not be trained on."),
    ] = None,
    catalog: CatalogOption = None,
    workers: WorkersOption = DEFAULT_WORKERS,
    executor: ExecutorOption = None,
    cluster: ClusterOption = None,
    wait: WaitOption = True,
) -> None:
    """Measure signals, find duplicates and apply the recipe's policy; does only what is missing."""
    from catalog.evaluation_sets import read_evaluation_sets
    from catalog.report import funnel_text, gather_stages
    from curation.curate import curate as run
    from curation.curate import pending
    from curation.decontaminate import decontaminate
    from curation.recipes import load_recipe

    chosen = load_recipe(recipe)
    sets = read_evaluation_sets(evaluation_sets or ())
    found = open_catalog(catalog)
    place = choose_executor(workers, executor, cluster, wait, recipe)
    with Bars(pending(found, chosen)) as bars:
        if sets:
            decontaminate(found, sets, place, bars, chosen.name)
        done = run(found, chosen, place, bars)
    say(f"measured {done.measured_pairs:,} pairs; policy {chosen.policy.name} version "
        f"{done.policy_version} is active")  # fmt: skip
    say(funnel_text(gather_stages(found)))


def signals(
    pattern: Annotated[str, typer.Argument(help="Only names that contain this.")] = "",
) -> None:
    """List every signal: what it measures, its unit, its range and where it comes from."""
    from curation.signals import signals as registered

    for name, signal in registered.items():
        if pattern in name:
            measure = signal.measure
            span = " to ".join("" if b is None else f"{b:g}" for b in (measure.low, measure.high))
            scale = f"{measure.unit}, {span}" if span.strip(" to") else measure.unit
            say(f"{name:<38} {measure.about} [{scale}]")


def mask(
    query: Annotated[str, typer.Argument(help="SQL, as for lode sql; - reads stdin.")],
    catalog: CatalogOption = None,
    at: AtOption = None,
    policy: PolicyOption = None,
    format: FormatOption = "table",
    output: OutputOption = None,
) -> None:
    """Query like lode sql, with personal data in texts replaced: [PHONE], [ID], [EMAIL] …"""
    from catalog.query import run_query
    from catalog.results import write_result
    from curation.masking import mask_rows

    text = sys.stdin.read() if query == "-" else query
    with run_query(open_catalog(catalog), text, at=at, policy=policy) as reader:
        write_result(mask_rows(reader), format, output)
