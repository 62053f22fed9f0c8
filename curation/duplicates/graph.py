"""The graph of edges on disk: each text's neighbors, the most similar first.

It is sorted by DuckDB within its memory limit and mapped by those who follow it.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from catalog import duck
from curation.duplicates.neighbors import propose
from curation.duplicates.pairs import Ids, Pairs, unpack_pairs
from curation.duplicates.scratch import map_array, save_array

# Rows that are in memory at a time while the graph is built.
_BATCH_ROWS: Final = 1_000_000
# Texts whose proposals are made at a time: at most neighbors ** 2 x 8 bytes each.
_TEXTS: Final = 20_000


@dataclass(frozen=True)
class EdgeGraph:
    """Arrays in a folder: ids ascend, text i has neighbors others[bounds[i]:bounds[i + 1]]."""

    folder: Path

    def build(self, connection: duck.Connection, edges: str) -> int:
        """Write the graph of a relation (a_id, b_id, jaccard); return the number of texts."""
        self.folder.mkdir(parents=True, exist_ok=True)
        degrees = connection.execute(
            f"select id, count(*) as degree from (select unnest([a_id, b_id]) as id from {edges}) "
            "group by id order by id"
        ).to_arrow_table()
        ids = degrees["id"].to_numpy()
        bounds = np.zeros(len(ids) + 1, np.int64)
        np.cumsum(degrees["degree"].to_numpy(), out=bounds[1:])
        path = self.folder / "others.npy"
        shape = (int(bounds[-1]),)
        if shape[0] == 0:
            save_array(path, np.empty(0, np.int64))
        else:
            others = np.lib.format.open_memmap(path, "w+", np.int64, shape)
            put = 0
            for batch in _sorted_neighbors(connection, edges):
                others[put : put + len(batch)] = np.searchsorted(ids, batch)
                put += len(batch)
            others.flush()
        save_array(self.folder / "ids.npy", ids)
        save_array(self.folder / "bounds.npy", bounds)
        return len(ids)

    def is_built(self) -> bool:
        """Say whether the graph is there whole."""
        return (self.folder / "bounds.npy").exists()

    def rows_from(self, new_from: int) -> tuple[int, int]:
        """Return the rows (begin, end) of texts whose id is at least new_from."""
        ids = map_array(self.folder / "ids.npy")
        return int(np.searchsorted(ids, new_from)), len(ids)

    def propose(self, begin: int, end: int, neighbors: int) -> Iterator[Pairs]:
        """Propose pairs for a range of texts, in lists."""
        ids, bounds, others = (
            map_array(self.folder / f"{n}.npy") for n in ("ids", "bounds", "others")
        )
        for first in range(begin, end, _TEXTS):
            packed = propose(bounds, others, first, min(first + _TEXTS, end), neighbors)
            if len(packed):
                yield unpack_pairs(packed, ids)


def _sorted_neighbors(connection: duck.Connection, edges: str) -> Iterator[Ids]:
    batches = connection.execute(
        f"with both_ways as (\n"
        f"  select a_id as id, b_id as other, jaccard from {edges}\n"
        f"  union all select b_id, a_id, jaccard from {edges}\n"
        f") select other from both_ways order by id, jaccard desc, other"
    ).to_arrow_reader(_BATCH_ROWS)
    for batch in batches:
        yield batch["other"].to_numpy()
