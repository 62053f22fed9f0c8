"""What training decided, pair by pair: rows of the table ``train_events``."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from catalog.lake import Catalog
from catalog.pack.layout import Ids
from catalog.schema import TRAIN_EVENTS

TABLE = "train_events"


@dataclass(frozen=True)
class Decided:
    """Decisions of one kind and step: a rank below 0 and a score that is NaN become null."""

    reason: str
    pair_ids: Ids
    query_ids: Ids
    window: npt.NDArray[np.integer]
    rank: npt.NDArray[np.integer]
    s0: npt.NDArray[np.float32]
    s: npt.NDArray[np.float32]


def make_events(run: str, step: int, decided: Decided) -> pa.RecordBatch:
    """Make rows of ``train_events``."""
    count = len(decided.pair_ids)
    columns = [
        pa.repeat(run, count),
        pa.repeat(pa.scalar(step, pa.int64()), count),
        pa.array(decided.pair_ids, pa.int64()),
        pa.array(decided.query_ids, pa.int64()),
        pa.array(decided.window.astype(np.int32)),
        pa.array(decided.rank.astype(np.int32), mask=decided.rank < 0),
        pa.array(decided.s0, mask=np.isnan(decided.s0)),
        pa.array(decided.s, mask=np.isnan(decided.s)),
        pa.repeat(decided.reason, count),
    ]
    return pa.record_batch(columns, schema=TRAIN_EVENTS)


def read_events(catalog: Catalog, run: str) -> pa.Table:
    """Read the events of a run from the lake, in the order of steps and pairs."""
    with catalog.reader() as connection:
        return connection.execute(
            f"select * from {TABLE} where run = ? order by step, pair_id, rank", [run]
        ).to_arrow_table()
