"""The command of extraction."""

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
from catalog.terminal import Bars, CatalogOption, open_catalog, say
from curation.extraction.settings import KINDS, PageSettings

DEFAULTS = PageSettings()


def register(app: typer.Typer) -> None:
    """Add extraction to the command line."""
    app.command()(extract)


def extract(
    files: Annotated[
        list[str], typer.Argument(help="WARC, HTML, Markdown; folders, patterns, s3://…")
    ],
    catalog: CatalogOption = None,
    set: Annotated[
        list[str] | None, typer.Option("--set", help="SETTING=VALUE, such as source=crawl-2024.")
    ] = None,
    kind: Annotated[
        list[str] | None, typer.Option("--kind", help=f"Pairs to take: {', '.join(KINDS)}.")
    ] = None,
    min_chars: Annotated[
        int, typer.Option(help="Characters that the content of a page must have.")
    ] = DEFAULTS.min_content_chars,
    page_seconds: Annotated[
        float, typer.Option(help="Processor time that a page may take.")
    ] = DEFAULTS.page_cpu_s,
    replace: Annotated[bool, typer.Option(help="Take changed files in place of old ones.")] = False,
    workers: WorkersOption = DEFAULT_WORKERS,
    executor: ExecutorOption = None,
    cluster: ClusterOption = None,
    wait: WaitOption = True,
) -> None:
    """Extract pairs out of web pages; what cannot be used goes to quarantine with the reason."""
    from curation.extract import extract_pages, find_pages

    pages = PageSettings(
        kinds=tuple(kind or KINDS), min_content_chars=min_chars, page_cpu_s=page_seconds
    )
    found = find_pages(files, set or (), pages.as_document())
    place = choose_executor(workers, executor, cluster, wait)
    with Bars({"read": sum(source.bytes for source in found)}) as bars:
        result = extract_pages(
            open_catalog(catalog), found, replace=replace, executor=place, progress=bars
        )
    say(result.summary())
