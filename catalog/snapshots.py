"""Snapshots: names for (lake version, policy), immutable and comparable row by row."""

import hashlib
import json
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import TYPE_CHECKING, Final

from catalog import duck
from catalog.columns import available_columns
from catalog.errors import CatalogError
from catalog.expressions import unknown_name
from catalog.lake import LAKE, Catalog
from catalog.policies import NAME, Policy
from catalog.policy_store import active_policy, latest_policy, load_policy
from catalog.records import now, to_json
from catalog.verdicts import check_policy, masks_sql
from catalog.views import use_policy

if TYPE_CHECKING:
    from catalog.candidates import SnapshotCandidates

# Of a kept row. md5 is the same in every release of DuckDB, its hash() is not.
_ROW_DIGEST: Final = "md5_number_lower(concat_ws('|', pair_id, query_key, positive_key))"
# What a diff says of a pair that neither came nor went.
SAME: Final = ("same", "kept in both")
ABSENT: Final = ("same", "kept in neither")


@dataclass(frozen=True)
class Snapshot:
    """A named, immutable selection of pairs. ``pairs`` and ``kept`` count rows with a query."""

    name: str
    lake_version: int
    policy: Policy
    policy_version: int
    pairs: int
    kept: int
    digest: str
    created_at: datetime
    catalog: Catalog | None = field(default=None, repr=False, compare=False)

    @property
    def candidates(self) -> "SnapshotCandidates":
        """The hard negatives that the newest mining run of these rows has found."""
        from catalog.candidates import SnapshotCandidates

        if self.catalog is None:
            raise CatalogError(f"snapshot {self.name!r} was not loaded by load_snapshot")
        return SnapshotCandidates.of(self.catalog, self)


@dataclass(frozen=True)
class Difference:
    """How two snapshots differ: totals, and why rows came or went, most frequent first."""

    added: int
    removed: int
    unchanged: int
    reasons: list[tuple[str, str, int]]  # came | went, why, rows


def create_snapshot(catalog: Catalog, name: str, policy_name: str | None = None) -> Snapshot:
    """Name what a policy keeps of the lake as it is now.

    The same name for the same rows is no change; for other rows it is refused.
    """
    if not NAME.fullmatch(name):
        raise CatalogError(f"snapshot {name!r}: a name is made of a-z, 0-9, _, . and -")
    version = catalog.version()
    with catalog.reader(version=version) as connection:
        policy, policy_version = _choose_policy(connection, policy_name)
        pairs, kept, digest = measure(connection, policy)
    created_at = now()
    content = to_json(policy.to_document())

    def change(connection: duck.Connection) -> None:
        old = connection.execute(
            "select digest from snapshots where snapshot = ?", [name]
        ).fetchone()
        if old is not None and old[0] == digest:
            return
        if old is not None:
            raise CatalogError(
                f"snapshot {name!r} exists and holds other rows (digest {old[0]}, now {digest}); "
                "snapshots are immutable: choose another name"
            )
        if version not in versions_kept(connection):
            raise CatalogError(
                f"lake version {version} was forgotten while it was measured; run the same again"
            )
        connection.execute(
            "insert into snapshots values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            [
                name,
                version,
                policy.name,
                policy_version,
                content,
                pairs,
                kept,
                digest,
                [],
                created_at,
            ],
        )

    catalog.transact(change)
    return load_snapshot(catalog, name)


def versions_kept(connection: duck.Connection) -> set[int]:
    """Return the lake versions that have not been forgotten."""
    rows = connection.execute(f"select snapshot_id from ducklake_snapshots('{LAKE}')").fetchall()
    return {version for (version,) in rows}


def list_snapshots(connection: duck.Connection) -> list[Snapshot]:
    """List all snapshots, oldest first."""
    rows = connection.execute(
        "select snapshot, lake_version, policy_document, policy_version, pairs, kept, digest, "
        "created_at from snapshots order by created_at, snapshot"
    ).fetchall()
    return [
        Snapshot(name, version, Policy.from_document(json.loads(document)), *rest)
        for name, version, document, *rest in rows
    ]


def load_snapshot(catalog: Catalog, name: str) -> Snapshot:
    """Return a snapshot by name."""
    with catalog.reader() as connection:
        found = {snapshot.name: snapshot for snapshot in list_snapshots(connection)}
    if name not in found:
        raise CatalogError(unknown_name("snapshot", name, found))
    return replace(found[name], catalog=catalog)


@contextmanager
def snapshot_reader(catalog: Catalog, snapshot: Snapshot) -> Iterator[duck.Connection]:
    """Open the lake as a snapshot sees it, its policy's views included."""
    with catalog.reader(version=snapshot.lake_version) as connection:
        use_policy(connection, snapshot.policy)
        yield connection


def measure(connection: duck.Connection, policy: Policy) -> tuple[int, int, str]:
    """Count pairs and kept pairs, and digest the kept rows whatever their order.

    The digest covers id and keys of every kept row, passages without a query included.
    """
    columns = available_columns(connection)
    check_policy(connection, policy, columns)
    row = connection.execute(
        f"""
        with masks as (
        {masks_sql(policy, columns, _ROW_DIGEST)}
        )
        select
          count(*) filter (is_pair),
          count(*) filter (is_pair and fails = 0),
          sum(row_value::hugeint) filter (fails = 0),
          count(*) filter (fails = 0)
        from masks
        """
    ).fetchone()
    assert row is not None
    pairs, kept, total, rows = row
    files = connection.execute("select file_id, sha256 from files order by file_id").fetchall()
    content = to_json({"sum": str(total), "rows": rows, "files": [list(file) for file in files]})
    return int(pairs), int(kept), hashlib.sha256(content.encode()).hexdigest()[:32]


def diff_snapshots(catalog: Catalog, before: Snapshot, after: Snapshot) -> Difference:
    """Compare two snapshots by pair: what came, what went, and which conditions decided it."""
    with _two_lakes(catalog, before, after) as (connection, both):
        # Few combinations of failed conditions stand for all pairs: names are looked up for those.
        rows = connection.execute(
            f"select is_new, is_gone, fails_before, fails_after, count(*) "
            f"from ({both}) group by all"
        ).fetchall()
    counts: Counter[tuple[str, str]] = Counter()
    for *facts, n in rows:
        counts[_change(before, after, *facts)] += n
    unchanged, _ = counts.pop(SAME, 0), counts.pop(ABSENT, 0)
    reasons = [(change, why, n) for (change, why), n in counts.items()]
    return Difference(
        added=sum(n for change, _, n in reasons if change == "came"),
        removed=sum(n for change, _, n in reasons if change == "went"),
        unchanged=unchanged,
        reasons=sorted(reasons, key=lambda row: (row[0], -row[2], row[1])),
    )


def diff_rows(
    catalog: Catalog, before: Snapshot, after: Snapshot, limit: int
) -> list[dict[str, object]]:
    """List pairs that came or went, in the order of their ids."""
    with _two_lakes(catalog, before, after) as (connection, both):
        result = connection.execute(
            f"""
            with chosen as (
              select * from ({both})
              where (not is_new and fails_before = 0) <> (not is_gone and fails_after = 0)
              order by pair_id limit {int(limit)}
            )
            select c.is_new, c.is_gone, c.fails_before, c.fails_after, c.pair_id,
              coalesce(a.source, b.source) as source,
              coalesce(a.query, b.query) as query,
              coalesce(a.positive, b.positive) as positive
            from chosen c
            left join lake_after.pairs a using (pair_id)
            left join lake_before.pairs b using (pair_id)
            order by c.pair_id
            """
        )
        found = []
        for *facts, pair_id, source, query, positive in result.fetchall():
            change, why = _change(before, after, *facts)
            found.append(
                {
                    "change": change, "why": why, "pair_id": pair_id, "source": source,
                    "query": query, "positive": positive,
                }
            )  # fmt: skip
        return found


def _change(
    before: Snapshot,
    after: Snapshot,
    is_new: bool,
    is_gone: bool,
    fails_before: int | None,
    fails_after: int | None,
) -> tuple[str, str]:
    """Say what became of a pair, and why."""
    was_kept, is_kept = not is_new and fails_before == 0, not is_gone and fails_after == 0
    if was_kept == is_kept:
        return SAME if is_kept else ABSENT
    if is_kept:
        why = "new pair" if is_new else ", ".join(before.policy.failed(fails_before or 0))
        return "came", why
    return "went", "pair deleted" if is_gone else ", ".join(after.policy.failed(fails_after or 0))


@contextmanager
def _two_lakes(
    catalog: Catalog, before: Snapshot, after: Snapshot
) -> Iterator[tuple[duck.Connection, str]]:
    """Attach both versions; yield the query (pair_id, is_new, is_gone, fails_before, fails_after).

    Masks are joined and not lists of names: 16 bytes a pair.
    """
    with catalog.reader() as connection:
        sides = {}
        for side, snapshot in (("before", before), ("after", after)):
            attach = catalog.attach_sql(f"lake_{side}", version=snapshot.lake_version)
            duck.retry(lambda attach=attach: connection.execute(attach))  # type: ignore[misc]
            columns = available_columns(connection, lake=f"lake_{side}")
            sides[side] = masks_sql(snapshot.policy, columns)
        yield (
            connection,
            f"""
            select pair_id, b.pair_id is null as is_new, a.pair_id is null as is_gone,
              b.fails as fails_before, a.fails as fails_after
            from ({sides["before"]}) b full join ({sides["after"]}) a using (pair_id)
            """,
        )


def _choose_policy(connection: duck.Connection, name: str | None) -> tuple[Policy, int]:
    if name:
        load_policy(connection, name)  # raises for an unknown name
    found = latest_policy(connection, name) if name else active_policy(connection)
    if found is None:
        raise CatalogError(
            "the catalog has no policy yet; run: lode curate RECIPE, or lode policy add FILE"
        )
    return found
