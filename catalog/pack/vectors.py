"""Teacher embeddings in a pack: rows of float16 beside the texts that have an id."""

from pathlib import Path
from typing import Final, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from catalog.pack.layout import Halves, Manifest, PackError, shard_part, shard_ranges
from catalog.pack.mapped import MappedFile

COLUMN: Final = "float16"


class VectorSource(Protocol):
    """Whatever has a vector for the text of every key; ``key`` names what decides the vectors."""

    key: str
    width: int

    def lookup(self, side: str, keys: pa.Array) -> Halves:
        """Return the vectors of texts (keys are ``pa.uuid()``), n x width, in their order."""


def vectors_part(side: str) -> str:
    """Name the parts that hold a side's vectors."""
    return f"{side}-vectors"


class VectorRows:
    """The embeddings of one side, memory-mapped."""

    def __init__(self, folder: Path, manifest: Manifest, side: str) -> None:
        counts = manifest.counts
        self.folder, self.width = folder, counts.vector_width
        self.count = counts.queries if side == "query" else counts.named_passages
        self.per_shard = manifest.settings["texts_per_shard"]
        self.shards: list[Halves] = []
        if self.width:
            parts = range(len(shard_ranges(self.count, self.per_shard)))
            names = [f"{shard_part(vectors_part(side), shard)}.{COLUMN}" for shard in parts]
            self.shards = [
                MappedFile(folder / name).array(np.float16).reshape(-1, self.width)
                for name in names
            ]

    def read(self, rows: npt.NDArray[np.int64]) -> Halves:
        """Copy the vectors of rows; NaN for rows without an id."""
        if not self.width:
            raise PackError(
                f"the pack {self.folder} has no teacher embeddings; build one with: "
                "lode pack --vectors MODEL"
            )
        found = np.full((len(rows), self.width), np.nan, np.float16)
        shards = rows // self.per_shard
        for shard in np.unique(shards[rows < self.count]):
            chosen = np.flatnonzero((shards == shard) & (rows < self.count))
            found[chosen] = self.shards[shard][rows[chosen] - shard * self.per_shard]
        return found
