"""Given negatives: texts that came with a pair. A ragged column of passage rows, one run a pair.

The catalog stores them in the pair, without an id. One that some passage of the pack has to the
letter is that passage; the others are passages of their own after those with an id, each text once.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from catalog import duck
from catalog.pack.contents import RANGE_TEXTS, SCRATCH, number, registered, stream
from catalog.pack.layout import Ids, Integers, Manifest, Rows
from catalog.pack.mapped import MappedFile
from catalog.pack.pairs import known_rows
from catalog.pack.parts import Parts

PART: Final = "negatives"


@dataclass(frozen=True)
class Given:
    """How many negatives the pairs have, and how many texts among them have no id."""

    negatives: int
    unnamed: int


def gather_given(connection: duck.Connection, passage_ids: Ids) -> Given:
    """Write ``given``: every given negative as a passage id or as a number among the unnamed."""
    connection.execute(
        f"""
        create table {SCRATCH}.given_texts as
        -- 128 bits, as everywhere: 64 collide with 1.5 % at 750 million texts.
        select task, pair_id, place, md5_number(text) as hash from (
          select
            k.task,
            k.pair_id,
            unnest(p.negatives) as text,
            generate_subscripts(p.negatives, 1) as place
          from {SCRATCH}.kept k join lake.pairs p using (pair_id)
          where k.is_pair and len(p.negatives) > 0
        ) where text is not null
        """
    )
    negatives = number(connection, f"select count(*) from {SCRATCH}.given_texts")
    if negatives == 0:
        return Given(0, 0)
    with registered(connection, "wanted", passage_ids):
        connection.execute(
            f"""
            create table {SCRATCH}.named as
            select md5_number(p.positive) as hash, min(p.pair_id) as id
            from lake.pairs p semi join wanted w on p.pair_id = w.id
            where md5_number(p.positive) in (select hash from {SCRATCH}.given_texts)
            group by hash
            """
        )
    connection.execute(
        f"""
        create table {SCRATCH}.unnamed as
        select row_number() over (order by pair_id, place) - 1 as number, pair_id, place, hash
        from (
          select hash, pair_id, place from {SCRATCH}.given_texts
          qualify row_number() over (partition by hash order by pair_id, place) = 1
        ) anti join {SCRATCH}.named using (hash)
        """
    )
    return Given(negatives, number(connection, f"select count(*) from {SCRATCH}.unnamed"))


def unnamed_texts(connection: duck.Connection, first: int, end: int) -> Iterator[pa.Array]:
    """Stream the texts ``[first, end)`` of the unnamed, in order."""
    for start in range(first, end, RANGE_TEXTS):
        stop = min(start + RANGE_TEXTS, end)
        numbers = f"u.number >= {start} and u.number < {stop}"
        bounds = connection.execute(
            f"select min(pair_id), max(pair_id) from {SCRATCH}.unnamed u where {numbers}"
        ).fetchone()
        assert bounds is not None
        sql = f"""
            select p.negatives[u.place] as text
            from {SCRATCH}.unnamed u join lake.pairs p using (pair_id)
            where {numbers} and p.pair_id between {bounds[0]} and {bounds[1]}
            order by u.number
        """
        for batch in stream(connection, sql):
            yield batch.column(0)


def write_negatives(connection: duck.Connection, parts: Parts, passage_ids: Ids) -> None:
    """Write where each pair's negatives begin, and their passage rows."""
    with parts.write(PART, ("offsets", "passage")) as (offsets, passage):
        offsets.write(np.zeros(1, np.uint64))
        end = 0
        for counts in _counts(connection):
            ends = end + np.cumsum(counts)
            offsets.write(ends.astype(np.uint64))
            end = int(ends[-1])
        for rows in _rows(connection, passage_ids):
            passage.write(rows)


def _counts(connection: duck.Connection) -> Iterator[npt.NDArray[np.int64]]:
    sql = f"""
        with counts as (
          select pair_id, count(*) as negatives from {SCRATCH}.given_texts group by pair_id
        )
        select coalesce(c.negatives, 0) as negatives
        from {SCRATCH}.kept k left join counts c using (pair_id)
        where k.is_pair order by k.task, k.pair_id
    """
    for batch in stream(connection, sql):
        yield batch.column(0).to_numpy()


def _rows(connection: duck.Connection, passage_ids: Ids) -> Iterator[Rows]:
    sql = f"""
        select coalesce(n.id, -1) as id, coalesce(u.number, 0) as number
        from {SCRATCH}.given_texts g
        left join {SCRATCH}.named n using (hash)
        left join {SCRATCH}.unnamed u using (hash)
        order by g.task, g.pair_id, g.place
    """
    for batch in stream(connection, sql):
        ids, numbers = batch.column(0).to_numpy(), batch.column(1).to_numpy()
        rows = (len(passage_ids) + numbers).astype(np.uint32)
        is_named = ids >= 0
        rows[is_named] = known_rows(passage_ids, ids[is_named], "passage")
        yield rows


class NegativeLists:
    """The given negatives of a pack's pairs."""

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        self._is_empty = manifest.counts.negatives == 0
        if not self._is_empty:
            self._offsets = MappedFile(folder / f"{PART}.offsets").array(np.uint64)
            self._passage = MappedFile(folder / f"{PART}.passage").array(np.uint32)

    def of(self, positions: Integers) -> tuple[Rows, npt.NDArray[np.int64]]:
        """Return the rows of several pairs' negatives and the n + 1 offsets into them."""
        if self._is_empty or len(positions) == 0:
            return np.empty(0, np.uint32), np.zeros(len(positions) + 1, np.int64)
        places = np.asarray(positions).astype(np.int64)
        starts = self._offsets[places].astype(np.int64)
        counts = self._offsets[places + 1].astype(np.int64) - starts
        offsets = np.concatenate(([0], np.cumsum(counts)))
        within = np.arange(offsets[-1]) - np.repeat(offsets[:-1], counts)
        return self._passage[np.repeat(starts, counts) + within], offsets
