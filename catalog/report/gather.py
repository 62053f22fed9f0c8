"""Gathering a report from a catalog: three scans of all pairs, and two for each signal.

What was mined is measured after that, from the lake as it is now.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Final

from catalog import duck
from catalog.columns import Columns, available_columns
from catalog.lake import Catalog, current_version
from catalog.policies import Policy
from catalog.policy_store import active_policy
from catalog.report.counts import Count, combinations_of, reasons_of, sources_of, stages_of
from catalog.report.data import ClusterSize, ReportData, Stage
from catalog.report.distributions import gather_histograms
from catalog.report.mining import gather_mining
from catalog.report.page import render
from catalog.report.samples import gather_samples
from catalog.report.statements import joins_of, statement
from catalog.snapshots import load_snapshot, snapshot_reader
from catalog.verdicts import check_policy, masks_sql

# Lengths are taken from signals: reading every text to count it would cost more than all the rest.
LENGTHS: Final = ("query_chars", "passage_chars")


def write_report(catalog: Catalog, snapshot: str | Policy | None, path: Path | str) -> None:
    """Write the report of a snapshot, or of the lake as it is under a policy (the active one).

    The file is there whole or not at all; the same rows and policy give the same bytes.
    """
    page = render(gather_report(catalog, snapshot))
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        aside.write_text(page, encoding="utf-8")
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)


def gather_report(catalog: Catalog, snapshot: str | Policy | None = None) -> ReportData:
    """Measure everything that a report shows."""
    with _opened(catalog, snapshot) as (connection, policy, facts):
        columns = available_columns(connection)
        check_policy(connection, policy, columns)
        counts = _counts(connection, policy, columns)
        quarantined = _quarantined(connection, columns)
        reasons = reasons_of(policy, counts)
        all_are_pairs = _all_are_pairs(connection, columns)
        data = ReportData(
            title=f"Lode report: {facts[0][1]}",
            policy=policy.name,
            facts=facts,
            stages=stages_of(policy, counts, sum(rows for _, rows in quarantined)),
            reasons=reasons,
            combinations=combinations_of(policy, counts),
            sources=sources_of(policy, counts),
            histograms=gather_histograms(connection, policy, columns, all_are_pairs=all_are_pairs),
            clusters=_clusters(connection, columns),
            samples=gather_samples(connection, policy, columns, reasons),
            quarantined=quarantined,
        )
    name = snapshot if isinstance(snapshot, str) else None
    return replace(data, mining=gather_mining(catalog, name, policy))


def gather_stages(catalog: Catalog, snapshot: str | Policy | None = None) -> tuple[Stage, ...]:
    """Measure the funnel alone: one scan."""
    with _opened(catalog, snapshot) as (connection, policy, _):
        columns = available_columns(connection)
        check_policy(connection, policy, columns)
        quarantined = _quarantined(connection, columns)
        counts = _counts(connection, policy, columns)
        return stages_of(policy, counts, sum(rows for _, rows in quarantined))


def _counts(connection: duck.Connection, policy: Policy, columns: Columns) -> list[Count]:
    measured = {name: columns.of_column.get(name) for name in LENGTHS}
    sums = {
        name: f"sum({duck.identifier(provider)}.{duck.identifier(name)})::bigint"
        if provider
        else "null::bigint"
        for name, provider in measured.items()
    }
    sql = statement(
        "counts",
        masks=masks_sql(policy, columns),
        pairs=columns.providers["pairs"].relation,
        joins=joins_of(columns, [one for one in measured.values() if one], "pairs"),
        **sums,
    )
    return [Count(*row) for row in connection.execute(sql).fetchall()]


def _clusters(connection: duck.Connection, columns: Columns) -> tuple[ClusterSize, ...]:
    sql = statement("clusters", duplicates=f"{columns.prefix}duplicates")
    return tuple(ClusterSize(*row) for row in connection.execute(sql).fetchall())


def _quarantined(connection: duck.Connection, columns: Columns) -> tuple[tuple[str, int], ...]:
    sql = statement("quarantine", quarantine=f"{columns.prefix}quarantine")
    return tuple((reason, rows) for reason, rows in connection.execute(sql).fetchall())


def _all_are_pairs(connection: duck.Connection, columns: Columns) -> bool:
    pairs = columns.providers["pairs"].relation
    sql = f"select count(*) = count(query_key) from {pairs}"
    row = connection.execute(sql).fetchone()
    return bool(row and row[0])


@contextmanager
def _opened(
    catalog: Catalog, snapshot: str | Policy | None
) -> Iterator[tuple[duck.Connection, Policy, tuple[tuple[str, str], ...]]]:
    """Open what a report is about: (connection, policy, what identifies it)."""
    if isinstance(snapshot, str):
        found = load_snapshot(catalog, snapshot)
        facts = {
            "snapshot": found.name,
            "policy": f"{found.policy.name} version {found.policy_version}",
            "digest": found.digest,
            "lake version": str(found.lake_version),
            "created": f"{found.created_at:%Y-%m-%d %H:%M} UTC",
        }
        with snapshot_reader(catalog, found) as connection:
            yield connection, found.policy, tuple(facts.items())
        return
    with catalog.reader() as connection:
        active = active_policy(connection)
        if isinstance(snapshot, Policy):
            policy, name = snapshot, f"{snapshot.name} ({snapshot.digest})"
        elif active is not None:
            policy, name = active[0], f"{active[0].name} version {active[1]}"
        else:
            policy, name = Policy("none", ()), "none yet"
        facts = {"catalog": "as it is", "policy": name}
        facts["lake version"] = str(current_version(connection))
        yield connection, policy, tuple(facts.items())
