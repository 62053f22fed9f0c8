"""Commands of decontamination: compare with evaluation sets, and say what a snapshot holds."""

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
from catalog.snapshots import load_snapshot
from catalog.terminal import Bars, CatalogOption, open_catalog, say


def register(app: typer.Typer) -> None:
    """Add the commands to the command line."""
    app.command()(decontaminate)
    app.command()(contamination)


def decontaminate(
    sets: Annotated[
        list[Path],
        typer.Argument(help="Evaluation sets: files, collections, or folders of them."),
    ],
    catalog: CatalogOption = None,
    workers: WorkersOption = DEFAULT_WORKERS,
    executor: ExecutorOption = None,
    cluster: ClusterOption = None,
    wait: WaitOption = True,
) -> None:
    """Find the pairs that hold texts of evaluation sets; only what was not compared yet."""
    from catalog.evaluation_sets import read_evaluation_sets
    from curation.decontaminate import decontaminate as run

    read = read_evaluation_sets(sets)
    found = open_catalog(catalog)
    place = choose_executor(workers, executor, cluster, wait)
    with Bars({}) as bars:
        done = run(found, read, place, bars)
    texts = sum(len(one.texts) for one in read)
    say(f"{len(read):,} sets with {texts:,} texts; compared {done.pairs:,} pairs, "
        f"{done.found:,} matches")  # fmt: skip
    say('a policy can ask: require = "query_contamination < 0.8 and passage_contamination < 0.8"')


def contamination(
    snapshot: Annotated[str, typer.Argument(help="Snapshot whose kept pairs are looked at.")],
    catalog: CatalogOption = None,
) -> None:
    """Say how many texts of each evaluation set the kept pairs of a snapshot hold."""
    from catalog.contamination import contamination_lines, snapshot_contamination

    found = open_catalog(catalog)
    for line in contamination_lines(snapshot_contamination(found, load_snapshot(found, snapshot))):
        say(line)
