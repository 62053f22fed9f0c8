"""What a mining run kept, on its way to disk: a fixed-width matrix of passage rows."""

from collections.abc import Iterator
from typing import Final

import numpy as np
import pyarrow as pa

from catalog import duck
from catalog.lake import scalar
from catalog.pack.contents import NOW, SCRATCH, number, registered, stream
from catalog.pack.layout import (
    CANDIDATES,
    NONE,
    Halves,
    Ids,
    PackError,
    Rows,
)
from catalog.pack.pairs import known_rows, to_halves
from catalog.pack.parts import Parts

LISTS: Final = "lists"
# Lists that one statement sorts: 50 MB at 200 candidates.
RANGE_LISTS: Final = 1 << 14
INDEX_BLOCK: Final = 1 << 20


def gather_lists(connection: duck.Connection, run: str) -> tuple[int, int]:
    """Write ``lists``: every kept query that was mined; return (lists, longest list)."""
    connection.execute(
        f"""
        create table {SCRATCH}.lists as
        select
          query_id,
          len(list_filter(filtered_by, reason -> reason = 0)) as kept,
          coalesce(positive_score, 'nan'::float) as positive_score,
          coalesce(
            len(passage_ids) = len(filtered_by) and len(scores) = len(filtered_by), false
          ) as is_whole
        from {NOW}.{CANDIDATES}
        where run = ? and query_id in (select query_id from {SCRATCH}.kept where is_pair)
        """,
        [run],
    )
    lists = f"{SCRATCH}.lists"
    broken = scalar(connection, f"select min(query_id) from {lists} where not is_whole")
    if broken is not None:
        raise PackError(
            f"run {run!r}: the list of query {broken} has passages, scores and reasons of "
            "different lengths; mine it again"
        )
    twice = scalar(
        connection,
        f"select query_id from {lists} group by query_id having count(*) > 1 order by 1 limit 1",
    )
    if twice is not None:
        raise PackError(f"run {run!r} has two lists of query {twice}; run: lode check")
    longest = f"select coalesce(max(kept), 0) from {lists}"
    return number(connection, f"select count(*) from {lists}"), number(connection, longest)


def write_lists(connection: duck.Connection, parts: Parts, query_ids: Ids) -> None:
    """Write which queries have a list, and how long it is."""
    sql = f"select query_id, kept, positive_score from {SCRATCH}.lists order by query_id"
    with parts.write(LISTS, ("index", "count", "positive_score")) as (index, count, positive):
        end, lists = 0, 0
        for batch in stream(connection, sql):
            query_id, kept, score = (batch.column(place).to_numpy() for place in range(3))
            rows = known_rows(query_ids, query_id, "query").astype(np.int64)
            block = np.full(int(rows[-1]) + 1 - end, NONE, np.uint32)
            block[rows - end] = np.arange(lists, lists + len(rows), dtype=np.uint32)
            index.write(block)
            count.write(kept.astype(np.uint32))
            positive.write(to_halves(score, "scores of positives"))
            end, lists = int(rows[-1]) + 1, lists + len(rows)
        for first in range(end, len(query_ids), INDEX_BLOCK):
            index.write(np.full(min(INDEX_BLOCK, len(query_ids) - first), NONE, np.uint32))


def list_ids(connection: duck.Connection) -> Ids:
    """Return the query ids of the lists, ascending: 8 bytes for each 1,200 of the matrix."""
    sql = f"select query_id from {SCRATCH}.lists order by query_id"
    found = [batch.column(0).to_numpy() for batch in stream(connection, sql)]
    return np.concatenate(found) if found else np.empty(0, np.int64)


def matrix_blocks(
    connection: duck.Connection, run: str, width: int, lists: Ids, passage_ids: Ids
) -> Iterator[tuple[Rows, Halves]]:
    """Stream the kept candidates of the lists, in their order: rows [b, w] and scores [b, w]."""
    for first in range(0, len(lists), RANGE_LISTS):
        wanted = lists[first : first + RANGE_LISTS]
        sql = f"""
            select c.passage_ids, c.scores, c.filtered_by
            from {NOW}.{CANDIDATES} c semi join wanted w on c.query_id = w.id
            where c.run = {duck.quote(run)}
              and c.query_id between {int(wanted[0])} and {int(wanted[-1])}
            order by c.query_id
        """
        with registered(connection, "wanted", wanted):
            for batch in stream(connection, sql):
                yield _block(batch, width, passage_ids)


def _block(batch: pa.RecordBatch, width: int, passage_ids: Ids) -> tuple[Rows, Halves]:
    passages, scores, reasons = (batch.column(place) for place in range(3))
    kept = reasons.flatten().to_numpy(zero_copy_only=False) == 0
    lengths = np.diff(reasons.offsets.to_numpy())
    of_list = np.repeat(np.arange(len(batch)), lengths)[kept]
    counts = np.bincount(of_list, minlength=len(batch))
    rank = np.arange(len(of_list)) - np.repeat(np.cumsum(counts) - counts, counts)
    rows = np.full((len(batch), width), NONE, np.uint32)
    values = np.full((len(batch), width), np.nan, np.float16)
    wanted = passages.flatten().to_numpy(zero_copy_only=False)[kept]
    rows[of_list, rank] = known_rows(passage_ids, wanted, "passage")
    found = scores.flatten().to_numpy(zero_copy_only=False)[kept]
    values[of_list, rank] = to_halves(found, "scores of candidates")
    return rows, values
