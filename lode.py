"""The command line: one Typer app with the commands of the packages.

A command is a few lines: it reads its arguments, calls one function of the library, and prints.
"""

import logging
import sys

import typer

from catalog import commands as catalog_commands
from catalog.terminal import fail_with_message
from curation import commands as curation_commands
from mining import commands as mining_commands

app = typer.Typer(
    name="lode",
    help="Lode turns raw text pairs into an embedding model and keeps every step a query away.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
curation_commands.register(app)
catalog_commands.register(app)
mining_commands.register(app)


def main() -> None:
    """Run the command line; what a user can cause ends in one line, not in a traceback."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    with fail_with_message():
        app()


if __name__ == "__main__":
    sys.exit(main())
