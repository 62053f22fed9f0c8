"""The command line: one Typer app with the commands of the packages.

A command is a few lines: it reads its arguments, calls one function of the library, and prints.
"""

import logging
import sys
from pathlib import Path
from typing import Annotated

import typer

from catalog import commands as catalog_commands
from catalog.executor_options import DEFAULT_WORKERS, WorkersOption
from catalog.executors import ExecutorSettings
from catalog.terminal import fail_with_message, say
from curation import (
    classifier_commands,
    decontamination_commands,
    extract_commands,
    ngram_commands,
    synthesis_commands,
)
from curation import commands as curation_commands
from mining import commands as mining_commands
from recipes import commands as recipe_commands
from recipes import flagembedding_commands
from trainer import commands as trainer_commands

app = typer.Typer(
    name="lode",
    help="Lode turns raw text pairs into an embedding model and keeps every step a query away.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
curation_commands.register(app)
extract_commands.register(app)
classifier_commands.register(app)
decontamination_commands.register(app)
ngram_commands.register(app)
synthesis_commands.register(app)
catalog_commands.register(app)
mining_commands.register(app)
trainer_commands.register(app)
recipe_commands.register(app)
flagembedding_commands.register(app)


@app.command()
def demo(
    folder: Annotated[
        Path, typer.Argument(help="Where to make corpus, catalog, pack and report.")
    ] = Path("demo"),
    rows: Annotated[int, typer.Option(help="Pairs to generate.")] = 20_000,
    workers: WorkersOption = DEFAULT_WORKERS,
) -> None:
    """Generate a corpus with planted defects, curate and mine it, and say what was found."""
    from catalog.report import write_report
    from curation.demonstrate import demonstrate as curate_demo
    from mining.demonstrate import demonstrate as mine_demo

    executor = ExecutorSettings(workers)
    catalog, snapshot = curate_demo(folder, rows, executor, say)
    say()
    mine_demo(catalog, snapshot, folder / "pack", executor, say)
    write_report(catalog, snapshot.name, folder / "funnel.html")
    say(f"\nreport: {folder / 'funnel.html'}")
    at = f"--catalog {folder / 'corpus'}"
    say(f'next: lode sql "select * from rejections order by pairs desc" {at}')


def main() -> None:
    """Run the command line; what a user can cause ends in one line, not in a traceback."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    with fail_with_message():
        app()


if __name__ == "__main__":
    sys.exit(main())
