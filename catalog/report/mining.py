"""Measuring a mining run for the report: scores by rank, reasons, and queries to look at.

Two scans of the candidates of at most ``MEASURED_QUERIES`` queries, chosen by a hash, count them by
rank, score and reasons; everything that is drawn is worked out of those counts.
"""

from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from catalog import duck
from catalog.candidates import KNOWN, CandidateList, Reason, read_lists, reason_names
from catalog.lake import Catalog
from catalog.mining_runs import MiningRun, choose_run, list_mining_runs
from catalog.policies import Policy
from catalog.report.closeness import gather_closeness
from catalog.report.data import POSITIVES, QUANTILES, MiningData, RankRow, Removal, ScoreGroup
from catalog.report.mining_facts import facts_of, rule_of
from catalog.report.ranks import rank_groups
from catalog.report.samples import HIGHEST_HASH
from catalog.report.statements import statement
from catalog.snapshots import list_snapshots, load_snapshot

Counts = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]

# 40 million candidates at 200 a query: seconds to count, and shares are known to 0.1 %.
MEASURED_QUERIES: Final = 200_000
BINS: Final = 800  # of scores: a quantile is off by a part in a thousand of their range at most
SHOWN_QUERIES: Final = 6
PICKED_QUERIES: Final = 64  # expected below the limit that the shown ones are chosen from


@dataclass(frozen=True)
class Measured:
    """Candidates of the measured queries: parallel arrays of counts by rank, bin and reasons."""

    rank: Counts
    bin: Counts
    filtered_by: Counts
    candidates: Counts
    low: float
    step: float

    def total(self, where: Mask) -> int:
        """Count the candidates of some of the counts."""
        return int(self.candidates[where].sum())

    def by_bin(self, where: Mask) -> Counts:
        """Count the candidates of some of the counts by the bin of their score."""
        return np.bincount(self.bin[where], self.candidates[where], BINS).astype(np.int64)

    @property
    def is_known(self) -> Mask:
        """Say which counts are of passages that are known to answer."""
        return np.asarray(self.filtered_by & int(KNOWN), bool)

    @property
    def is_kept(self) -> Mask:
        """Say which counts are of candidates that nothing speaks against."""
        return np.asarray(self.filtered_by == 0)

    @property
    def is_removed(self) -> Mask:
        """Say which counts are of candidates that were removed for their score alone."""
        return np.asarray(~self.is_kept & ~self.is_known)


def gather_mining(
    catalog: Catalog, snapshot: str | None, policy: Policy, max_queries: int = MEASURED_QUERIES
) -> MiningData | None:
    """Measure the newest run over a snapshot's rows, or over one of the policy; None without one.

    A run comes after its snapshot, so it is read from the lake as it is now.
    """
    found = load_snapshot(catalog, snapshot) if snapshot is not None else None
    with catalog.reader() as connection:
        if found is not None:
            run = choose_run(connection, found)
        else:
            names = {one.name for one in list_snapshots(connection) if one.policy == policy}
            runs = list_mining_runs(connection)
            run = next((one for one in runs if one.snapshot in names), None)
        return None if run is None else _measure(connection, run, max_queries)


def _measure(connection: duck.Connection, run: MiningRun, max_queries: int) -> MiningData | None:
    bound = {"run": run.run_id}
    totals = connection.execute(statement("mining_totals"), bound).fetchone()
    if totals is None or not totals[0]:
        return None
    highest = hash_limit(totals[0], max_queries)
    sampled = {**bound, "highest": highest}
    row = connection.execute(statement("mining_range"), sampled).fetchone()
    assert row is not None
    queries, low, high = row
    data = MiningData(
        run.run_id,
        facts_of(run),
        queries=totals[0],
        candidates=totals[1],
        kept=totals[2],
        without_negative=totals[3],
        measured_queries=queries,
        lists=_pick(connection, run, totals[0]),
    )
    if low is None:  # not one candidate
        return data
    if high <= low:  # all scores tie
        low, high = low - 0.5, high + 0.5
    measured = _count(connection, sampled, low, (high - low) / BINS)
    return replace(
        data,
        low=low,
        high=high,
        groups=_groups(connection, sampled, measured),
        ranks=_rank_rows(measured),
        removals=_removals(run, measured),
        closeness=gather_closeness(connection, sampled, run),
    )


def hash_limit(queries: int, wanted: int) -> int:
    """Return the hash that so many of the queries are expected not to be above."""
    return HIGHEST_HASH if queries <= wanted else HIGHEST_HASH * wanted // queries


def quantiles_of(counts: Counts, low: float, step: float, shares: tuple[float, ...]) -> list[float]:
    """Return the values below which shares of binned values lie, evenly spread within a bin."""
    below = np.cumsum(counts)
    found = []
    for share in shares:
        wanted = share * below[-1]
        at = int(np.searchsorted(below, wanted))
        inside = (wanted - (below[at] - counts[at])) / max(counts[at], 1)
        found.append(low + step * (at + float(inside)))
    return found


def _count(
    connection: duck.Connection, sampled: dict[str, Any], low: float, step: float
) -> Measured:
    bound = {**sampled, "low": low, "step": step, "bins": BINS}
    columns = connection.execute(statement("mining_candidates"), bound).fetchnumpy()
    rank, bin_, filtered_by, candidates = (
        np.asarray(columns[name], np.int64) for name in ("rank", "bin", "filtered_by", "candidates")
    )
    return Measured(rank, bin_, filtered_by, candidates, low, step)


def _groups(
    connection: duck.Connection, sampled: dict[str, Any], measured: Measured
) -> tuple[ScoreGroup, ...]:
    """Make the distributions: positives, negatives that were removed for their score, and kept."""
    bound = {**sampled, "low": measured.low, "step": measured.step, "bins": BINS}
    positives = np.zeros(BINS, np.int64)
    for bin_, queries in connection.execute(statement("mining_positives"), bound).fetchall():
        positives[bin_] = queries
    groups = [
        (POSITIVES, "query", positives),
        ("removed for their score", "candidate", measured.by_bin(measured.is_removed)),
        ("kept", "candidate", measured.by_bin(measured.is_kept)),
    ]
    return tuple(
        ScoreGroup(name, noun, tuple(counts.tolist()), _median(counts, measured))
        for name, noun, counts in groups
        if counts.any()
    )


def _median(counts: Counts, measured: Measured) -> float:
    return quantiles_of(counts, measured.low, measured.step, (0.5,))[0]


def _rank_rows(measured: Measured) -> tuple[RankRow, ...]:
    rows = []
    for first, last in rank_groups(int(measured.rank.max(initial=0))):
        here = (measured.rank >= first) & (measured.rank <= last)
        counts = measured.by_bin(here)
        if counts.any():
            quantiles = quantiles_of(counts, measured.low, measured.step, QUANTILES)
            rows.append(
                RankRow(
                    first,
                    last,
                    tuple(quantiles),
                    kept=measured.total(here & measured.is_kept),
                    removed=measured.total(here & measured.is_removed),
                    known=measured.total(here & measured.is_known),
                )
            )
    return tuple(rows)


def _removals(run: MiningRun, measured: Measured) -> tuple[Removal, ...]:
    """Count, for every reason that the run used, the candidates it holds for and holds alone."""
    return tuple(
        Removal(
            reason_names(reason)[0],
            rule,
            candidates=measured.total((measured.filtered_by & int(reason)) > 0),
            alone=measured.total(measured.filtered_by == int(reason)),
        )
        for reason in Reason
        if (rule := rule_of(reason, run)) is not None
    )


def _pick(connection: duck.Connection, run: MiningRun, queries: int) -> tuple[CandidateList, ...]:
    """Read the lists of a few queries, in the order of their hashes."""
    bound = {
        "run": run.run_id,
        "highest": hash_limit(queries, PICKED_QUERIES),
        "shown": SHOWN_QUERIES,
    }
    picked = [row[0] for row in connection.execute(statement("mining_picks"), bound).fetchall()]
    lists = {one.query_id: one for one in read_lists(connection, run.run_id, picked)}
    return tuple(lists[query_id] for query_id in picked)
