"""A batch of pairs as signals see it: each view of it is made once, when it is first asked for."""

from functools import cached_property
from typing import Final, Literal

import numpy as np
import pyarrow as pa

from curation.texts import Flags, Texts, decode, normalize

Side = Literal["query", "passage", "pair"]
COLUMNS: Final = {"query": "query", "passage": "positive"}


class PairBatch:
    """The rows of a batch with the schema of the pairs table, side by side.

    A row's positive is called passage here: a row without a query is nobody's positive.
    """

    def __init__(self, rows: pa.RecordBatch | pa.Table) -> None:
        """Take a batch; of query, positive and url it needs the columns that are used."""
        self._rows = rows

    def __len__(self) -> int:
        """Count the rows."""
        return int(self._rows.num_rows)

    def column(self, name: str) -> pa.Array | pa.ChunkedArray:
        """Give an Arrow column of the batch; ValueError names the columns that there are."""
        if not self.has(name):
            raise ValueError(f"no column {name!r} in the batch: it has {self._rows.schema.names}")
        return self._rows.column(name)

    def has(self, name: str) -> bool:
        """Say whether the batch has a column."""
        return name in self._rows.schema.names

    @cached_property
    def query(self) -> Texts:
        """Give the queries as code points."""
        return decode(self.column("query"))

    @cached_property
    def passage(self) -> Texts:
        """Give the passages as code points."""
        return decode(self.column("positive"))

    @cached_property
    def normalized_query(self) -> Texts:
        """Give the queries as their keys see them."""
        return normalize(self.query)

    @cached_property
    def normalized_passage(self) -> Texts:
        """Give the passages as their keys see them."""
        return normalize(self.passage)

    def texts(self, side: Side) -> Texts:
        """Give one side as code points."""
        return self.query if side == "query" else self.passage

    def normalized(self, side: Side) -> Texts:
        """Give one side as its keys see it."""
        return self.normalized_query if side == "query" else self.normalized_passage

    def strings(self, side: Side, rows: np.ndarray) -> list[str]:
        """Give the texts of some rows, which are not null, as Python strings."""
        texts = self.texts(side)
        return [texts.text(int(row)) for row in rows]

    def valid(self, side: Side) -> Flags:
        """Say which rows a signal of this side can have a value in; a pair needs both sides."""
        if side == "pair":
            return self.query.valid & self.passage.valid
        return self.texts(side).valid
