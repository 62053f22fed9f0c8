"""Texts by row on disk: what workers read instead of asking the lake."""

from collections.abc import Iterator
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from catalog import duck
from catalog.records import sync_file

# Rows of a record batch: a row is found by division, and a batch of long texts is 10 MB.
BATCH_TEXTS: Final = 8192
_SCHEMA: Final = pa.schema([pa.field("text", pa.large_string())])
_COLUMNS: Final = {"query": "query", "passage": "positive"}


class TextFile:
    """A memory-mapped Arrow file with one text a row."""

    def __init__(self, path: Path) -> None:
        self.reader = pa.ipc.open_file(pa.memory_map(str(path)))

    def take(self, rows: npt.NDArray[np.int64]) -> list[str]:
        """Return the texts of rows, in their order."""
        texts = np.empty(len(rows), object)
        for batch in np.unique(rows // BATCH_TEXTS):
            chosen = rows // BATCH_TEXTS == batch
            column = self.reader.get_batch(int(batch)).column(0)
            texts[chosen] = column.take(pa.array(rows[chosen] % BATCH_TEXTS)).to_pylist()
        return list(texts)

    def __iter__(self) -> Iterator[str]:
        for batch in range(self.reader.num_record_batches):
            yield from self.reader.get_batch(batch).column(0).to_pylist()


def write_texts(
    connection: duck.Connection, side: str, ids: npt.NDArray[np.int64], path: Path
) -> None:
    """Write the texts of ascending ids in their order; the file is there whole or not at all."""
    aside = path.with_name(f".{path.name}.tmp")
    with pa.ipc.new_file(aside, _SCHEMA) as writer:
        for start in range(0, len(ids), BATCH_TEXTS):
            wanted = ids[start : start + BATCH_TEXTS]
            # Texts of neighboring ids lie in neighboring row groups: the range prunes the others.
            rows = connection.execute(
                f"select {_COLUMNS[side]} as text from pairs "
                "where pair_id between ? and ? and list_contains(?, pair_id) order by pair_id",
                [int(wanted[0]), int(wanted[-1]), wanted.tolist()],
            ).to_arrow_table()
            texts = rows["text"].cast(pa.large_string()).combine_chunks()
            assert len(texts) == len(wanted), "an id of a text is an id of a pair"
            writer.write_batch(pa.record_batch([texts], schema=_SCHEMA))
    sync_file(aside)
    aside.rename(path)
