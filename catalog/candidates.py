"""Candidate lists to look at: a query, its positives, and its ranked passages with reasons.

with catalog.reader() as connection:
    found = query_candidates(connection, choose_run(connection), query_id)
found.window(1, 7)  # the first seven negatives that training takes
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntFlag
from functools import cache
from pathlib import Path
from typing import Final, Self

from catalog import duck
from catalog.errors import CatalogError
from catalog.lake import Catalog, scalar
from catalog.mining_runs import MiningRun, choose_run
from catalog.pack.windows import lake_window
from catalog.pack.windows import window as cut_window
from catalog.snapshots import Snapshot

SQL_FOLDER: Final = Path(__file__).parent / "sql"
KEPT: Final = "kept"
MISSING: Final = "(its text is no longer in the catalog)"


class Reason(IntFlag):
    """Why a passage is no negative; ``filtered_by`` is the sum of all that hold."""

    POSITIVE = 1  # the passage of a pair with this query
    SAME_TEXT = 2  # the query's own text
    NEAR_DUPLICATE = 4  # in the near-duplicate cluster of a positive
    RELATIVE_MARGIN = 8  # too close to the positive's score, by a share of it
    ABSOLUTE_MARGIN = 16  # too close to the positive's score, by a difference
    MAX_SCORE = 32  # above the highest score allowed
    CROSS_ENCODER = 64  # relevant in the judgment of a cross-encoder


# Removed for what the catalog knows of it, whatever its score.
KNOWN: Final = Reason.POSITIVE | Reason.SAME_TEXT | Reason.NEAR_DUPLICATE


def reason_names(filtered_by: int) -> list[str]:
    """Spell out a sum of reasons, for people: 5 is ["positive", "near-duplicate"]."""
    return [str(reason.name).lower().replace("_", "-") for reason in Reason(filtered_by)]


@dataclass(frozen=True)
class Candidate:
    """A ranked passage; the best has rank 1."""

    rank: int
    passage_id: int
    score: float
    filtered_by: int
    text: str

    @property
    def is_kept(self) -> bool:
        """Say whether it may be a negative."""
        return self.filtered_by == 0

    @property
    def verdict(self) -> str:
        """Write "kept", or every reason why not."""
        return ", ".join(reason_names(self.filtered_by)) or KEPT


@dataclass(frozen=True)
class Positive:
    """A passage that is known to answer the query, by any pair of the lake, kept or not."""

    passage_id: int
    text: str
    teacher_scores: Mapping[str, float]  # by model
    rank: int | None = None  # among the candidates; None: it was not ranked
    score: float | None = None  # the miner's, where it was ranked


@dataclass(frozen=True)
class CandidateList:
    """What a mining run found for a query; candidates are in the order of their ranks."""

    query_id: int
    run: str
    query: str
    positive_score: float | None  # the lowest of its kept positives; None: it has none
    positives: tuple[Positive, ...] = ()
    candidates: tuple[Candidate, ...] = field(default=(), repr=False)

    @property
    def kept(self) -> tuple[Candidate, ...]:
        """Return the candidates that nothing speaks against."""
        return tuple(candidate for candidate in self.candidates if candidate.is_kept)

    def window(self, i: int, n: int) -> Sequence[Candidate]:
        """Return the i-th replacement window of n; ``catalog.pack.windows`` defines it."""
        return cut_window(self.kept, i, n)


@dataclass(frozen=True)
class SnapshotCandidates:
    """The candidates of one mining run of a snapshot, read from the lake query by query."""

    catalog: Catalog
    run: MiningRun

    @classmethod
    def of(cls, catalog: Catalog, snapshot: Snapshot, run: str | None = None) -> Self:
        """Return those of a run: the newest of the snapshot's rows where none is named."""
        with catalog.reader() as connection:
            chosen = choose_run(connection, snapshot, run)
        if chosen is None:
            raise CatalogError(f"snapshot {snapshot.name!r} was not mined; run: lode mine")
        return cls(catalog, chosen)

    def of_query(self, query_id: int) -> CandidateList:
        """Return a query with its positives and all its ranked passages."""
        with self.catalog.reader() as connection:
            return query_candidates(connection, self.run, query_id)

    def window(self, query_id: int, i: int, n: int) -> list[int]:
        """Return the passage ids of the i-th replacement window of n, i from 1.

        These are the kept candidates at positions ``[(i - 1) * n + 10, i * n + 10)`` counted from
        0; fewer where the list ends inside the window, none where it ended before.
        """
        return lake_window(self.catalog, self.run.run_id, query_id, i, n)


Listed = tuple[int, float | None, list[int], list[float], list[int]]  # a row of the table
Texts = Mapping[int, tuple[str | None, str]]  # (query, positive) of the pairs that name texts


def query_candidates(
    connection: duck.Connection, run: MiningRun | None, query_id: int
) -> CandidateList:
    """Read what a run found for a query; the id of any pair that asks it names it too."""
    if run is None:
        raise CatalogError("the catalog has no mining run yet; run: lode mine SNAPSHOT")
    found = read_lists(connection, run.run_id, [query_id])
    if not found:
        named = scalar(connection, _sql("candidates_named"), [query_id])
        if isinstance(named, int):
            found = read_lists(connection, run.run_id, [named])
    if not found:
        raise CatalogError(_not_mined(connection, run, query_id))
    return found[0]


def read_lists(
    connection: duck.Connection, run: str, query_ids: Sequence[int]
) -> list[CandidateList]:
    """Read the lists of some queries, by query_id; those that were not mined are left out."""
    lists = connection.execute(
        _sql("candidates_lists"), {"run": run, "query_ids": list(query_ids)}
    ).fetchall()
    positives: dict[int, list[tuple[int, dict[str, float]]]] = {}
    known = connection.execute(_sql("candidates_positives"), {"query_ids": list(query_ids)})
    for query_id, passage_id, models, scores in known.fetchall():
        teacher_scores = dict(zip(models, scores, strict=True))
        positives.setdefault(query_id, []).append((passage_id, teacher_scores))
    texts = _texts(connection, lists, positives)
    return [_candidate_list(run, row, positives.get(row[0], []), texts) for row in lists]


def _candidate_list(
    run: str,
    row: Listed,
    known: Sequence[tuple[int, dict[str, float]]],
    texts: Texts,
) -> CandidateList:
    query_id, positive_score, passage_ids, scores, filtered_by = row
    candidates = tuple(
        Candidate(rank, passage_id, score, reasons, _text(texts, passage_id))
        for rank, (passage_id, score, reasons) in enumerate(
            zip(passage_ids, scores, filtered_by, strict=True), start=1
        )
    )
    ranked = {candidate.passage_id: candidate for candidate in candidates}
    positives = []
    for passage_id, teacher_scores in known:
        own = ranked.get(passage_id)
        rank, score = (own.rank, own.score) if own else (None, None)
        text = _text(texts, passage_id)
        positives.append(Positive(passage_id, text, teacher_scores, rank, score))
    query = texts[query_id][0] if query_id in texts else None
    return CandidateList(
        query_id, run, query or MISSING, positive_score, tuple(positives), candidates
    )


def _text(texts: Texts, passage_id: int) -> str:
    return texts[passage_id][1] if passage_id in texts else MISSING


def _texts(
    connection: duck.Connection,
    lists: Sequence[Listed],
    positives: Mapping[int, Sequence[tuple[int, object]]],
) -> Texts:
    """Read (query, positive) of every pair that names a text of the lists."""
    wanted = {query_id for query_id, *_ in lists}
    wanted.update(passage for _, _, passages, _, _ in lists for passage in passages)
    wanted.update(passage for known in positives.values() for passage, _ in known)
    rows = connection.execute(_sql("candidates_texts"), {"ids": sorted(wanted)}).fetchall()
    return {pair_id: (query, positive) for pair_id, query, positive in rows}


def _not_mined(connection: duck.Connection, run: MiningRun, query_id: int) -> str:
    """Say why a run has no candidates of a query, and what to do."""
    listing = (
        'list queries that were: lode sql "select c.query_id, p.query from candidates c '
        f"join pairs p on p.pair_id = c.query_id where c.run = '{run.run_id}' limit 20\""
    )
    found = connection.execute(
        "select query is not null from pairs where pair_id = ?", [query_id]
    ).fetchone()
    if found is None:
        return f"there is no pair or query {query_id}, so it was not mined; {listing}"
    if not found[0]:
        return f"pair {query_id} is a passage without a query, so it was not mined; {listing}"
    others = connection.execute(
        "select distinct run from candidates where query_id = ? order by run", [query_id]
    ).fetchall()
    if others:
        runs = ", ".join(name for (name,) in others)
        return f"run {run.run_id} has no candidates of query {query_id}; it was mined by: {runs}"
    tasks = " or ".join(run.settings.get("tasks", []))
    return (
        f"query {query_id} was not mined by run {run.run_id}: none of its pairs is kept by "
        f"snapshot {run.snapshot}{f' with task {tasks}' if tasks else ''}; {listing}"
    )


@cache
def _sql(name: str) -> str:
    return (SQL_FOLDER / f"{name}.sql").read_text(encoding="utf-8")
