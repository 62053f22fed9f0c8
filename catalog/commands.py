"""Commands of the catalog: look at it, set policies, name snapshots, export, keep it clean."""

import shutil
import sys
from pathlib import Path
from typing import Annotated

import typer

from catalog import duck
from catalog.columns import available_columns
from catalog.errors import CatalogError
from catalog.lake import Catalog
from catalog.maintenance import check_catalog, collect_garbage, expire_versions
from catalog.policies import Policy
from catalog.policy_commit import commit_policy
from catalog.policy_diff import diff_policies
from catalog.policy_store import active_policy, load_policy
from catalog.snapshots import (
    create_snapshot,
    diff_rows,
    diff_snapshots,
    list_snapshots,
    load_snapshot,
)
from catalog.terminal import (
    AtOption,
    Bars,
    CatalogOption,
    FormatOption,
    OutputOption,
    PolicyOption,
    console,
    open_catalog,
    say,
)
from catalog.verdicts import check_policy

policy_app = typer.Typer(
    help="Thresholds: show them, try others, commit them.", no_args_is_help=True
)
snapshot_app = typer.Typer(help="Names for (lake version, policy).", no_args_is_help=True)
candidates_app = typer.Typer(help="Mined candidates, query by query.", no_args_is_help=True)
DAY_S = 24 * 3600


def register(app: typer.Typer) -> None:
    """Add the catalog's commands to the command line."""
    for command in (init, sql, connect, status, report, export, check, gc, compact):
        app.command()(command)
    app.add_typer(policy_app, name="policy")
    app.add_typer(snapshot_app, name="snapshot")
    app.add_typer(candidates_app, name="candidates")


def init(
    folder: Annotated[str | None, typer.Argument(help="Folder or URL.")] = None,
    catalog: CatalogOption = None,
) -> None:
    """Make an empty catalog."""
    made = Catalog.create(folder or catalog)
    say(f"catalog ready at {made.location.url}")


def sql(
    query: Annotated[
        str, typer.Argument(help="SQL over the lake's tables and views; - reads stdin.")
    ],
    catalog: CatalogOption = None,
    at: AtOption = None,
    policy: PolicyOption = None,
    format: FormatOption = "table",
    output: OutputOption = None,
) -> None:
    """Query the catalog; nothing can be changed from here."""
    from catalog.query import run_query
    from catalog.results import write_result

    text = sys.stdin.read() if query == "-" else query
    with run_query(open_catalog(catalog), text, at=at, policy=policy) as reader:
        write_result(reader, format, output)


def connect(catalog: CatalogOption = None) -> None:
    """Print the statements that open the catalog in any DuckDB client."""
    found = open_catalog(catalog)
    say("install ducklake; load ducklake;")
    say(found.attach_sql() + ";")
    say("use lake;")


def status(catalog: CatalogOption = None) -> None:
    """Show tables, sizes, snapshots and jobs, and what can be resumed."""
    from catalog.status import read_status, render_status

    say(render_status(read_status(open_catalog(catalog))))


def report(
    snapshot: Annotated[
        str | None, typer.Argument(help="Snapshot (default: the lake as it is).")
    ] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="HTML file to write.")] = Path(
        "funnel.html"
    ),
    catalog: CatalogOption = None,
) -> None:
    """Write one HTML page: funnel, reasons, signals, clusters, mined candidates, sample rows."""
    from catalog.report import write_report

    with console.status("measuring"):
        write_report(open_catalog(catalog), snapshot, output)
    say(f"report written to {output}")


def export(
    snapshot: Annotated[str, typer.Argument(help="Snapshot to export.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="File or folder to write.")],
    format: Annotated[
        str,
        typer.Option(
            "--format",
            "-f",
            help="jsonl, parquet, flagembedding, sentence-transformers, beir, hf.",
        ),
    ] = "jsonl",
    negatives: Annotated[
        int | None,
        typer.Option(help="Negatives of a query, mined ones after those that came with it."),
    ] = None,
    run: Annotated[
        str | None, typer.Option(help="Mining run to take them from (default: the newest).")
    ] = None,
    ranks: Annotated[
        str | None, typer.Option(help="Take them from these ranks, from 0, such as 2-200.")
    ] = None,
    sample: Annotated[bool, typer.Option("--sample", help="Draw them, not the best.")] = False,
    seed: Annotated[int | None, typer.Option(help="Which draw (default: 0).")] = None,
    given_negatives: Annotated[bool, typer.Option(help="Keep those that came with pairs.")] = True,
    score_model: Annotated[
        str | None, typer.Option(help="Model whose scores the positives get (flagembedding).")
    ] = None,
    overwrite: Annotated[bool, typer.Option(help="Replace what is there.")] = False,
    catalog: CatalogOption = None,
) -> None:
    """Write a snapshot's kept pairs, and mined negatives, in another tool's format."""
    from catalog.export import ExportSettings, export_pairs, negative_settings

    chosen_negatives = negative_settings(
        negatives, run, ranks, sample=sample, seed=seed, keeps_given=given_negatives
    )
    settings = ExportSettings(format, chosen_negatives, score_model)
    found = open_catalog(catalog)
    chosen = load_snapshot(found, snapshot)
    with Bars({"export": chosen.kept}) as bars:
        made = export_pairs(found, chosen, output, settings, overwrite=overwrite, progress=bars)
    say(f"{made.rows:,} rows written to {output}")
    for line in made.summary():
        say(f"  {line}")


def check(
    catalog: CatalogOption = None,
    checksums: Annotated[
        bool, typer.Option(help="Read every file and compare its checksum.")
    ] = True,
) -> None:
    """Verify what the catalog promises: unique ids, whole files, side tables in step."""
    with Bars({}) as bars:
        problems = check_catalog(open_catalog(catalog), checksums=checksums, progress=bars)
    for problem in problems:
        say(problem)
    if problems:
        raise CatalogError(f"{len(problems)} problems found")
    say("no problem found")


def gc(
    catalog: CatalogOption = None,
    days: Annotated[float, typer.Option(help="Leave unfinished jobs younger than this alone.")] = 7,
    dry_run: Annotated[bool, typer.Option(help="Only say what would be removed.")] = False,
) -> None:
    """Remove files of killed jobs that no version of the lake names."""
    cleaned = collect_garbage(open_catalog(catalog), older_than_s=days * DAY_S, dry_run=dry_run)
    verb = "would remove" if dry_run else "removed"
    say(
        f"{verb} {len(cleaned.files)} orphan files ({cleaned.bytes / 1e6:,.1f} MB) and "
        f"{len(cleaned.jobs)} folders of jobs that are over"
    )


def compact(
    catalog: CatalogOption = None,
    days: Annotated[float, typer.Option(help="Keep versions younger than this.")] = 7,
) -> None:
    """Merge small files and forget old versions; what a snapshot names is never touched."""
    expired = expire_versions(open_catalog(catalog), older_than_s=days * DAY_S)
    say(f"merged small files; forgot {len(expired)} old versions")


@policy_app.command("show")
def policy_show(
    name: Annotated[str | None, typer.Argument(help="Policy (default: the active one).")] = None,
    version: Annotated[int | None, typer.Option(help="An older version.")] = None,
    catalog: CatalogOption = None,
) -> None:
    """Print a stored policy: its conditions in the order of the funnel."""
    with open_catalog(catalog).reader() as connection:
        active = active_policy(connection)
        if name is None and active is None:
            raise CatalogError("the catalog has no policy yet; lode curate RECIPE stores one")
        policy = (
            active[0] if name is None and active else load_policy(connection, name or "", version)
        )
    say(f"policy {policy.name} ({len(policy.conditions)} conditions, digest {policy.digest})")
    for condition in policy.conditions:
        rule = condition.require or f"unique among {condition.unique} duplicates"
        say(f"  {condition.stage:<12} {condition.name:<28} {rule}")
        if condition.where:
            say(f"  {'':<12} {'':<28} where {condition.where}")
        if condition.source:
            say(f"  {'':<12} {'':<28} ({condition.source})")


@policy_app.command("check")
def policy_check(
    recipe: Annotated[str, typer.Argument(help="Recipe, or TOML file with a [policy].")],
    catalog: CatalogOption = None,
) -> None:
    """Check that every condition of a policy can be evaluated; commit nothing."""
    policy = _policy_of(recipe)
    with open_catalog(catalog).reader() as connection:
        check_policy(connection, policy, available_columns(connection))
    say(f"policy {policy.name}: {len(policy.conditions)} conditions, all can be evaluated")


@policy_app.command("diff")
def policy_diff(
    after: Annotated[str, typer.Argument(help="Recipe or stored policy to try.")],
    before: Annotated[
        str | None, typer.Option(help="Compare with this (default: the active one).")
    ] = None,
    catalog: CatalogOption = None,
) -> None:
    """Show how the funnel would move under another policy, before it is committed."""
    with open_catalog(catalog).reader() as connection:
        new = _stored_or_file(connection, after)
        active = active_policy(connection)
        old = _stored_or_file(connection, before) if before else active[0] if active else None
        if old is None:
            raise CatalogError("there is no active policy to compare with; give --before")
        say(diff_policies(connection, old, new))


@policy_app.command("add")
def policy_add(
    recipe: Annotated[str, typer.Argument(help="Recipe, or TOML file with a [policy].")],
    catalog: CatalogOption = None,
) -> None:
    """Commit a policy: the views verdicts, curated and funnel show it from now on."""
    policy = _policy_of(recipe)
    version = commit_policy(open_catalog(catalog), policy)
    say(f"policy {policy.name} version {version} is active")


@snapshot_app.command("create")
def snapshot_create(
    name: Annotated[str, typer.Argument(help="Name, for ever.")],
    policy: Annotated[
        str | None, typer.Option(help="Stored policy (default: the active one).")
    ] = None,
    catalog: CatalogOption = None,
) -> None:
    """Name what a policy keeps of the lake as it is now."""
    with console.status("digesting kept rows"):
        made = create_snapshot(open_catalog(catalog), name, policy)
    share = made.kept / made.pairs if made.pairs else 0
    say(
        f"snapshot {made.name}: {made.kept:,} of {made.pairs:,} pairs kept ({share:.1%}), "
        f"policy {made.policy.name} version {made.policy_version}, digest {made.digest}"
    )


@snapshot_app.command("list")
def snapshot_list(catalog: CatalogOption = None) -> None:
    """List all snapshots, oldest first."""
    with open_catalog(catalog).reader() as connection:
        for one in list_snapshots(connection):
            say(
                f"{one.name:<20} {one.kept:>12,} of {one.pairs:>12,}  {one.policy.name} "
                f"v{one.policy_version}  lake {one.lake_version}  {one.digest}  "
                f"{one.created_at:%Y-%m-%d %H:%M}"
            )


@snapshot_app.command("show")
def snapshot_show(name: Annotated[str, typer.Argument()], catalog: CatalogOption = None) -> None:
    """Print what a snapshot is."""
    one = load_snapshot(open_catalog(catalog), name)
    say(f"snapshot      {one.name}")
    say(f"kept          {one.kept:,} of {one.pairs:,} pairs")
    say(f"digest        {one.digest}")
    say(f"lake version  {one.lake_version}")
    say(f"policy        {one.policy.name} version {one.policy_version} ({one.policy.digest})")
    say(f"created       {one.created_at:%Y-%m-%d %H:%M:%S %Z}")


@snapshot_app.command("diff")
def snapshot_diff(
    before: Annotated[str, typer.Argument()],
    after: Annotated[str, typer.Argument()],
    rows: Annotated[int, typer.Option(help="Also list this many pairs.")] = 0,
    catalog: CatalogOption = None,
) -> None:
    """Say which pairs came and went between two snapshots, and why."""
    found = open_catalog(catalog)
    first, second = load_snapshot(found, before), load_snapshot(found, after)
    difference = diff_snapshots(found, first, second)
    say(
        f"{difference.unchanged:,} pairs in both, {difference.added:,} came, "
        f"{difference.removed:,} went"
    )
    for change, why, pairs in difference.reasons:
        say(f"  {change:<5} {pairs:>12,}  {why}")
    if rows:
        for row in diff_rows(found, first, second, rows):
            where = f"{row['change']} {row['pair_id']} [{row['source']}]"
            say(f"  {where} {row['why']}: {row['query']!s:.60}")


@candidates_app.command("show")
def candidates_show(
    query_id: Annotated[int, typer.Argument(help="Query, or any pair that asks it.")],
    run: Annotated[str | None, typer.Option(help="Mining run (default: the newest).")] = None,
    limit: Annotated[int, typer.Option(help="Ranks to show; 0: all.")] = 20,
    catalog: CatalogOption = None,
) -> None:
    """Print a query's positives and its ranked passages, kept or removed with the reasons."""
    from catalog.candidate_table import render_candidates
    from catalog.candidates import query_candidates
    from catalog.mining_runs import choose_run

    with open_catalog(catalog).reader() as connection:
        chosen = choose_run(connection, name=run)
        found = query_candidates(connection, chosen, query_id)
    assert chosen is not None, "query_candidates raises where there is no run"
    width = shutil.get_terminal_size((120, 20)).columns
    say(render_candidates(found, chosen, width, limit or None))


@candidates_app.command("window")
def candidates_window(
    snapshot: Annotated[str, typer.Argument(help="Snapshot that was mined.")],
    query_id: Annotated[int, typer.Argument(help="Query.")],
    i: Annotated[int, typer.Argument(help="Number of the window, from 1.")],
    n: Annotated[int, typer.Argument(help="Negatives in a window.")] = 7,
    catalog: CatalogOption = None,
) -> None:
    """Print the passages of a replacement window: kept ones at [(i - 1)n + 10, in + 10)."""
    chosen = load_snapshot(open_catalog(catalog), snapshot)
    for passage_id in chosen.candidates.window(query_id, i, n):
        say(str(passage_id))


def _policy_of(path: str) -> Policy:
    from catalog.policies import read_policy_file

    return read_policy_file(Path(path))


def _stored_or_file(connection: duck.Connection, name: str) -> Policy:
    return _policy_of(name) if Path(name).is_file() else load_policy(connection, name)
