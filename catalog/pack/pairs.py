"""The pairs of a pack as columns of numbers: written in one pass, read as views."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from catalog import duck
from catalog.pack.contents import SCRATCH, stream
from catalog.pack.layout import NONE, Halves, Ids, Manifest, PackError, Rows, find_rows
from catalog.pack.mapped import MappedFile
from catalog.pack.parts import Parts

PART: Final = "pairs"
CLUSTERS: Final = "clusters"
DTYPES: Final[dict[str, npt.DTypeLike]] = {
    "pair_id": np.int64,
    "query": np.uint32,
    "passage": np.uint32,
    "label": np.float32,
    "source": np.uint16,
    "score": np.float16,
}
BLOCK: Final = 1 << 20


@dataclass(frozen=True)
class Pairs:
    """Pairs as columns, views into the pack; ``first`` is the position of the first of them."""

    first: int
    pair_id: Ids
    query: Rows
    passage: Rows
    label: npt.NDArray[np.float32]  # NaN: none
    source: npt.NDArray[np.uint16]  # place in the manifest's sources
    score: Halves | None  # teacher score, NaN: none; None where the pack was built without

    def __len__(self) -> int:
        """Count the pairs."""
        return len(self.pair_id)

    def slice(self, first: int, end: int) -> "Pairs":
        """View the pairs ``[first, end)`` of these."""
        part = slice(first, end)
        return Pairs(
            self.first + first,
            self.pair_id[part],
            self.query[part],
            self.passage[part],
            self.label[part],
            self.source[part],
            None if self.score is None else self.score[part],
        )


def open_pairs(folder: Path, manifest: Manifest) -> Pairs:
    """Map the columns of all pairs."""

    def column(name: str) -> npt.NDArray[Any]:
        return MappedFile(folder / f"{PART}.{name}").array(DTYPES[name])

    return Pairs(
        first=0,
        pair_id=column("pair_id"),
        query=column("query"),
        passage=column("passage"),
        label=column("label"),
        source=column("source"),
        score=column("score") if f"{PART}.score" in manifest.files else None,
    )


def write_pairs(
    connection: duck.Connection,
    parts: Parts,
    ids: dict[str, Ids],
    sources: list[str],
    *,
    has_scores: bool,
    advance: Callable[[int], None],
) -> None:
    """Write the columns of all pairs, ordered by task and pair id."""
    names = tuple(name for name in DTYPES if name != "score" or has_scores)
    code_of = pa.table({"source": pa.array(sources, pa.string()), "code": range(len(sources))})
    sql = f"""
        select k.pair_id, k.query_id, k.passage_id, k.label, c.code, k.score
        from {SCRATCH}.kept k join source_codes c using (source)
        where k.is_pair order by k.task, k.pair_id
    """
    connection.register("source_codes", code_of)
    with parts.write(PART, names) as files:
        for batch in stream(connection, sql):
            columns = _columns(batch, ids)
            for name, file in zip(names, files, strict=True):
                file.write(np.ascontiguousarray(columns[name], DTYPES[name]))
            advance(len(batch))
    connection.unregister("source_codes")


def count_scored(folder: Path) -> int:
    """Count the pairs that have a teacher score."""
    score: Halves = MappedFile(folder / f"{PART}.score").array(np.float16)
    blocks = range(0, len(score), BLOCK)
    return sum(int(np.count_nonzero(~np.isnan(score[at : at + BLOCK]))) for at in blocks)


def _columns(batch: pa.RecordBatch, ids: dict[str, Ids]) -> dict[str, npt.NDArray[Any]]:
    pair_id, query_id, passage_id, label, source, score = (
        batch.column(place).to_numpy(zero_copy_only=False) for place in range(6)
    )
    return {
        "pair_id": pair_id,
        "query": known_rows(ids["query"], query_id, "query"),
        "passage": known_rows(ids["passage"], passage_id, "passage"),
        "label": label,
        "source": source,
        "score": to_halves(score, "teacher scores"),
    }


def known_rows(ids: Ids, wanted: Ids, what: str) -> Rows:
    """Find rows of ids that the pack must have."""
    rows = find_rows(ids, wanted)
    if len(rows) and rows.max() == NONE:
        raise PackError(f"{what} {wanted[rows == NONE][0]} has no text; run: lode check")
    return rows


def to_halves(scores: npt.NDArray[np.floating], what: str) -> Halves:
    """Store scores in 16 bits, refusing those that would become infinite."""
    limit = float(np.finfo(np.float16).max)
    wide = np.abs(scores[np.isfinite(scores)])
    if wide.size and wide.max() > limit:
        raise PackError(f"{what} reach {wide.max():g}; a pack stores at most {limit:g} (float16)")
    return scores.astype(np.float16)


def write_clusters(connection: duck.Connection, parts: Parts, ids: Ids, count: int) -> None:
    """Write the smallest row of every passage's near-duplicate cluster: its own where it is alone.

    Passages are of one cluster exactly where these numbers are equal.
    """
    with parts.write(CLUSTERS, ("first",)) as (file,):
        end = 0
        for rows, firsts in _clustered(connection, ids):
            block_end = int(rows[-1]) + 1
            block = np.arange(end, block_end, dtype=np.uint32)
            block[rows - end] = firsts
            file.write(block)
            end = block_end
        for first in range(end, count, BLOCK):
            file.write(np.arange(first, min(first + BLOCK, count), dtype=np.uint32))


def _clustered(connection: duck.Connection, ids: Ids) -> Iterator[tuple[Ids, Rows]]:
    """Stream (row, smallest row of its cluster) of passages that share a cluster, by row."""
    connection.register("passage_ids", pa.table({"id": pa.array(ids, pa.int64())}))
    sql = """
        select text_id, min(text_id) over (partition by cluster_id) as first_id
        from (
          select distinct d.text_id, d.cluster_id
          from lake.duplicates d semi join passage_ids i on i.id = d.text_id
          where d.kind = 'near'
        )
        order by text_id
    """
    for batch in stream(connection, sql):
        text_id, first_id = batch.column(0).to_numpy(), batch.column(1).to_numpy()
        rows = known_rows(ids, text_id, "passage").astype(np.int64)
        yield rows, known_rows(ids, first_id, "passage")
    connection.unregister("passage_ids")
