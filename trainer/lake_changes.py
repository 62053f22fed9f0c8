"""What is new in the lake for a run: lists mined again, and pairs that a revised policy drops."""

import json
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from catalog import duck
from catalog.columns import available_columns
from catalog.lake import Catalog, current_version
from catalog.pack import NONE, Pack
from catalog.pack.layout import Ids
from catalog.pack.windows import SKIPPED
from catalog.policy_store import latest_policy
from catalog.snapshots import Snapshot
from catalog.verdicts import check_policy, masks_sql
from trainer.candidate_lists import Exclusions, Refreshed, Update

Marked = tuple[Ids, Sequence[str]]
"""Ids of queries whose lists have ended, and the mining run of each one's list."""


@dataclass(frozen=True)
class Known:
    """What a look need not find again: runs that were there at the start, the policy's version."""

    runs: tuple[str, ...]
    policy_version: int


def find_update(
    connection: duck.Connection, pack: Pack, snapshot: Snapshot, marked: Marked, known: Known
) -> Update:
    """Ask the lake what is new for a run: lists for marked queries, another policy's exclusions."""
    version = current_version(connection)
    runs = _mining_runs(connection, pack)
    fresh = [run for run in runs if run not in known.runs]
    refreshed = Refreshed.empty()
    if fresh and len(marked[0]):
        refreshed = _find_lists(connection, pack, runs, fresh, marked)
    exclusions = _find_exclusions(connection, pack, snapshot, known.policy_version)
    return Update(version, refreshed, exclusions)


def runs_at_start(catalog: Catalog, pack: Pack) -> tuple[str, ...]:
    """Name the mining runs of the pack's snapshot that are there now."""
    with catalog.reader() as connection:
        return tuple(_mining_runs(connection, pack))


def _mining_runs(connection: duck.Connection, pack: Pack) -> list[str]:
    """Name the mining runs of the pack's snapshot, oldest first."""
    rows = connection.execute(
        "select run_id, settings from runs where kind = 'mine' order by finished_at, run_id"
    ).fetchall()
    digest = pack.manifest.digest
    return [run for run, text in rows if json.loads(text).get("snapshot_digest") == digest]


def _find_lists(
    connection: duck.Connection, pack: Pack, runs: list[str], fresh: list[str], marked: Marked
) -> Refreshed:
    """Read the newest list of every marked query that is newer than the one it has."""
    age = {run: place for place, run in enumerate(runs)}
    query_ids, current = marked
    wanted = pa.table(
        {
            "query_id": pa.array(query_ids, pa.int64()),
            "age": pa.array([age.get(run, -1) for run in current], pa.int64()),
        }
    )
    offered = pa.table({"run": fresh, "age": pa.array([age[run] for run in fresh], pa.int64())})
    connection.register("marked_queries", wanted)
    connection.register("fresh_runs", offered)
    rows = connection.execute(
        """
        select
          c.query_id,
          f.age,
          [p for p, place in c.passage_ids if c.filtered_by[place] = 0] as passages
        from candidates c
        join fresh_runs f on f.run = c.run
        join marked_queries m on m.query_id = c.query_id and f.age > m.age
        qualify row_number() over (partition by c.query_id order by f.age desc) = 1
        order by c.query_id
        """
    ).to_arrow_table()
    return _to_lists(pack, rows, runs)


def _to_lists(pack: Pack, rows: pa.Table, runs: list[str]) -> Refreshed:
    """Number the passages as the pack does; those that it does not have are left out.

    A list that ends before the first window would change nothing, and is left out, too.
    """
    column = rows["passages"].combine_chunks()
    lengths = np.diff(column.offsets.to_numpy())
    passages = pack.rows("passage", column.flatten().to_numpy(zero_copy_only=False))
    of_list = np.repeat(np.arange(len(rows)), lengths)[passages != NONE]
    passages = passages[passages != NONE]
    counts = np.bincount(of_list, minlength=len(rows))
    rank = np.arange(len(of_list)) - np.repeat(np.cumsum(counts) - counts, counts)
    lists = np.full((len(rows), counts.max(initial=0)), NONE, np.uint32)
    lists[of_list, rank] = passages
    is_useful = counts > SKIPPED
    queries = pack.rows("query", rows["query_id"].to_numpy())
    run = rows["age"].to_numpy().astype(np.int32)
    return Refreshed(queries[is_useful], lists[is_useful], run[is_useful], tuple(runs))


def _find_exclusions(
    connection: duck.Connection, pack: Pack, snapshot: Snapshot, policy_version: int
) -> Exclusions | None:
    """Return what the newest version of the snapshot's policy drops; None: it is known."""
    newest = latest_policy(connection, snapshot.policy.name)
    if newest is None or newest[1] <= policy_version:
        return None
    policy, version = newest
    columns = available_columns(connection)
    check_policy(connection, policy, columns)
    kept = f"select pair_id from ({masks_sql(policy, columns)}) where fails = 0"
    connection.execute(f"create or replace temp table kept_now as {kept}")
    pair_ids = connection.execute("select pair_id from kept_now").fetchnumpy()["pair_id"]
    passage_ids = connection.execute(
        "select distinct t.passage_id from text_ids t semi join kept_now k using (pair_id)"
    ).fetchnumpy()["passage_id"]
    connection.execute("drop table kept_now")
    pairs = np.ones(len(pack), np.bool_)
    positions = pack.positions(pair_ids)
    pairs[positions[positions >= 0]] = False
    passages = np.ones(len(pack.ids("passage")), np.bool_)
    rows = pack.rows("passage", passage_ids)
    passages[rows[rows != NONE]] = False
    dropped = np.flatnonzero(passages).astype(np.uint32)
    return Exclusions(version, np.flatnonzero(pairs), dropped)
