"""Negatives of an export: which of the candidates that a mining run kept are taken."""

import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from catalog import duck
from catalog.mining_runs import MiningRun
from catalog.ranges import as_matrix, check_range, preferences

# 4,096 lists of 200 candidates, with their draws and orders: 30 MB.
BATCH_LISTS: Final = 1 << 12
WHOLE_LIST: Final = (0, 1 << 31)
_RANKS: Final = re.compile(r"(\d+)-(\d+)")

TAKEN: Final = pa.schema(
    [
        pa.field("query_id", pa.int64()),
        pa.field("passage_id", pa.int64()),
        pa.field("preference", pa.int64()),  # the query takes those with the lowest first
        pa.field("rank", pa.int64()),
        pa.field("score", pa.float32()),
    ]
)


@dataclass(frozen=True)
class NegativeSettings:
    """Which negatives a query gets: up to ``n``, those that came with its pairs first.

    Candidates are those that the run kept among ``ranks``, [start, stop) from 0 over the whole
    list: the best of them, or a draw where there is a ``seed``. Without a ``run`` the snapshot's
    newest is meant.
    """

    n: int
    run: str | None = None
    ranks: tuple[int, int] = WHOLE_LIST
    seed: int | None = None
    keeps_given: bool = True

    def __post_init__(self) -> None:
        if self.n < 0:
            raise ValueError(f"negatives is {self.n}; it must be at least 0")
        check_range(self.ranks, max(self.n, 1))

    def to_record(self, run: MiningRun | None) -> dict[str, Any]:
        """Describe what was taken, with the run that was meant."""
        resolved = run.run_id if run else None
        ranks = None if self.ranks == WHOLE_LIST else list(self.ranks)
        return asdict(self) | {"run": resolved, "ranks": ranks}


def negative_settings(
    n: int | None,
    run: str | None,
    ranks: str | None,
    *,
    sample: bool,
    seed: int | None,
    keeps_given: bool,
) -> NegativeSettings | None:
    """Make settings of what a user wrote; None where no number of negatives was given."""
    if seed is not None and not sample:
        raise ValueError("--seed says which sample is drawn; add --sample, or leave it out")
    if n is None:
        if run or ranks or sample or not keeps_given:
            raise ValueError(
                "--run, --ranks, --sample and --no-given-negatives choose negatives; "
                "say how many: --negatives 7"
            )
        return None
    return NegativeSettings(
        n, run, parse_ranks(ranks) if ranks else WHOLE_LIST, (seed or 0) if sample else None,
        keeps_given,
    )  # fmt: skip


def parse_ranks(text: str) -> tuple[int, int]:
    """Read a range of ranks, written like FlagEmbedding's 2-200."""
    match = _RANKS.fullmatch(text)
    if match is None:
        raise ValueError(f"ranks {text!r} is no range; write START-STOP, such as 2-200")
    return int(match[1]), int(match[2])


def write_taken(
    connection: duck.Connection,
    run: MiningRun | None,
    settings: NegativeSettings | None,
    path: Path,
) -> None:
    """Write which candidates each query may take, as Parquet; none without a run.

    ``n`` of them are enough: a given negative takes the place of at most one that is equal.
    """
    with pq.ParquetWriter(path, TAKEN, compression="zstd") as writer:
        if run is None or settings is None:
            return
        rows = connection.execute(
            "select query_id, passage_ids, filtered_by, scores from lake_now.candidates "
            "where run = ?",
            [run.run_id],
        ).to_arrow_reader(BATCH_LISTS)
        for batch in rows:
            writer.write_batch(take(batch, settings))


def take(lists: pa.RecordBatch, settings: NegativeSettings) -> pa.RecordBatch:
    """Return rows of TAKEN from (query_id, passage_ids, filtered_by, scores)."""
    query_ids = lists["query_id"].to_numpy()
    passage_ids = as_matrix(lists["passage_ids"], -1)
    filtered_by = as_matrix(lists["filtered_by"], 0)
    scores = as_matrix(lists["scores"], np.nan)
    place = preferences(query_ids, passage_ids, filtered_by, settings.ranks, settings.seed)
    query, rank = np.nonzero((place >= 0) & (place < settings.n))
    columns = [
        query_ids[query],
        passage_ids[query, rank],
        place[query, rank],
        rank,
        scores[query, rank].astype(np.float32),
    ]
    return pa.record_batch([pa.array(column) for column in columns], schema=TAKEN)
