"""The steps of a deduplication that run as tasks: find pairs, collect texts, compare, propose more.

A step carries plain values and paths; what it leaves for the next is in the job's scratch folder, what
it leaves for the lake are edges. All of it depends on the task alone.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from datatrove.pipeline.base import PipelineStep

from catalog.jobs import JobOutput
from curation.duplicates.buckets import bucket_pairs
from curation.duplicates.edges import edge_table, verify
from curation.duplicates.idset import IdSet
from curation.duplicates.neighbors import BAND, NEIGHBOR
from curation.duplicates.pairs import Ids, Pairs, subtract
from curation.duplicates.scratch import Bound, PairRuns, TextFiles
from curation.duplicates.settings import DuplicateSettings
from curation.minhash import Hashes
from curation.texts import Flags, decode, normalize

FIND, COLLECT, COMPARE, PROPOSE, COMPARE_MORE = (
    "near-find",
    "near-collect",
    "near-compare",
    "near-propose",
    "near-compare-more",
)
# Rows that are decoded and normalised at a time.
_BATCH_ROWS = 16_384


@dataclass(frozen=True)
class RowGroup:
    """A row group of a Parquet file of the lake."""

    path: str
    number: int
    rows: int

    def read(self, columns: Sequence[str]) -> pa.Table:
        """Read some columns."""
        return pq.ParquetFile(self.path).read_row_group(self.number, columns=list(columns))


@dataclass(frozen=True)
class Band:
    """What a task looks for buckets in: one part of the keys of one band."""

    band: int
    part: int
    parts: int

    def covers(self, keys: Hashes) -> Flags:
        """Say which keys are of this part; keys are uniform, so parts are of one size."""
        return keys % np.uint64(self.parts) == np.uint64(self.part)
