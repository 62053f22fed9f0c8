"""What the commands of all packages share: the catalog option, progress, and errors as messages."""

import contextlib
import os
import re
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)

from catalog import duck
from catalog.errors import CatalogError, TasksPendingError
from catalog.lake import Catalog
from catalog.location import ENVIRONMENT_VARIABLE

CatalogOption = Annotated[
    str | None,
    typer.Option(
        "--catalog",
        "-c",
        envvar=ENVIRONMENT_VARIABLE,
        help="Folder or URL of the catalog (default ./corpus).",
        show_default=False,
    ),
]

# What a command that answers a query takes beside it.
AtOption = Annotated[str | None, typer.Option(help="Look at this snapshot.")]
PolicyOption = Annotated[str | None, typer.Option(help="Show the verdicts of this policy.")]
FormatOption = Annotated[str, typer.Option("--format", "-f", help="table, csv, json or parquet.")]
OutputOption = Annotated[Path | None, typer.Option("--output", "-o", help="Write to this file.")]

# What sysexits.h calls a temporary failure: the same command is to be run again.
PENDING_STATUS = 75
# Bound once: a job redirects sys.stderr while its tasks run, and progress must stay visible.
console = Console(file=sys.stderr, highlight=False)


def open_catalog(url: str | None) -> Catalog:
    """Open the catalog that a command was given."""
    return Catalog.open(url)


def say(text: str = "") -> None:
    """Print a line of a command's result."""
    sys.stdout.write(text + "\n")


@contextlib.contextmanager
def fail_with_message() -> Iterator[None]:
    """End the program with one line and status 1 for everything that a user can cause."""
    try:
        yield
    except TasksPendingError as pending:
        sys.stderr.write(f"lode: {pending}\n")
        raise SystemExit(PENDING_STATUS) from None
    except (CatalogError, ValueError, OSError, duck.Error, RuntimeError) as error:
        if os.environ.get("LODE_TRACEBACK"):
            raise
        sys.stderr.write(f"lode: {error}\n")
        raise SystemExit(1) from None
    except KeyboardInterrupt:
        sys.stderr.write("lode: stopped; run the same command again to go on\n")
        raise SystemExit(130) from None


class Bars:
    """Progress bars, one a stage; on a terminal only.

    What a cluster says of waiting tasks stands beside them; elsewhere it is a line when it changes.
    """

    def __init__(self, totals: dict[str, int]) -> None:
        self.progress = Progress(
            TextColumn("{task.description:<12}"),
            BarColumn(bar_width=30),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[remark]}"),
            console=console,
            disable=not console.is_terminal,
            transient=True,
        )
        self.totals = totals
        self.tasks: dict[str, TaskID] = {}
        self.remarks: dict[str, str] = {}
        self.lock = threading.Lock()

    def __enter__(self) -> "Bars":
        self.progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.progress.stop()

    def __call__(self, stage: str, done: int) -> None:
        """Show that a stage has done so many of its units."""
        self.progress.update(self._task(stage), completed=done)

    def remark(self, stage: str, text: str) -> None:
        """Show what there is to say about a stage, in the place of what was said before."""
        self.progress.update(self._task(stage), remark=text)
        # Numbers change at every look; a log is told of states and reasons.
        said = re.sub(r"[\d,]+ ", "", text)
        if not console.is_terminal and text and self.remarks.get(stage) != said:
            console.print(f"{stage}: {text}", soft_wrap=True)
        self.remarks[stage] = said

    def _task(self, stage: str) -> TaskID:
        with self.lock:
            if stage not in self.tasks:
                total = self.totals.get(stage)
                self.tasks[stage] = self.progress.add_task(stage, total=total, remark="")
            return self.tasks[stage]
