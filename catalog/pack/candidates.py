"""The candidate lists of a pack's queries: windows of them, straight from the mapped matrix."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from catalog.pack.layout import (
    CANDIDATES,
    NONE,
    Halves,
    Integers,
    Manifest,
    Rows,
    checked_rows,
    shard_part,
    shard_ranges,
)
from catalog.pack.mapped import MappedFile, announce
from catalog.pack.mined import LISTS
from catalog.pack.texts import shard_groups
from catalog.pack.windows import Window, window_firsts


@dataclass(frozen=True)
class _Places:
    """Where the wanted candidates of a batch are: a list, its first position, how many of n."""

    lists: npt.NDArray[np.int64]
    firsts: npt.NDArray[np.int64]
    counts: npt.NDArray[np.int64]
    n: int


class CandidateLists:
    """The kept candidates of every query that was mined."""

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        self.width = manifest.counts.width
        self._queries, self._lists = manifest.counts.queries, manifest.counts.lists
        self._per_shard = manifest.settings["lists_per_shard"]
        parts = [
            folder / shard_part(CANDIDATES, shard)
            for shard in range(len(shard_ranges(self._lists, self._per_shard)))
        ]
        self._row_files = [MappedFile(part.with_suffix(".passage")) for part in parts]
        self._score_files = [MappedFile(part.with_suffix(".score")) for part in parts]
        self._index_file = MappedFile(folder / f"{LISTS}.index")
        self.index: Rows = self._index_file.array(np.uint32)
        self.count: Rows = MappedFile(folder / f"{LISTS}.count").array(np.uint32)
        scores = MappedFile(folder / f"{LISTS}.positive_score")
        self.positive_score: Halves = scores.array(np.float16)

    def counts(self, query_rows: Integers) -> npt.NDArray[np.int64]:
        """Count every query's kept candidates; -1 where it was not mined."""
        lists = self._lists_of(query_rows)
        found = np.full(len(lists), -1, np.int64)
        found[lists >= 0] = self.count[lists[lists >= 0]]
        return found

    def positive_scores(self, query_rows: Integers) -> npt.NDArray[np.float32]:
        """Return the miner's score of every query's lowest positive; NaN where there is none."""
        lists = self._lists_of(query_rows)
        found = np.full(len(lists), np.nan, np.float32)
        found[lists >= 0] = self.positive_score[lists[lists >= 0]]
        return found

    def window(self, query_rows: Integers, i: int | Integers, n: int) -> Window:
        """Return the i-th window of every query, filled with NONE."""
        places = self._window_places(query_rows, i, n)
        return Window(self._gather(self._row_files, np.uint32, NONE, places), places.counts)

    def window_scores(self, query_rows: Integers, i: int | Integers, n: int) -> Halves:
        """Return the miner's scores of the i-th window of every query, filled with NaN."""
        places = self._window_places(query_rows, i, n)
        return self._gather(self._score_files, np.float16, np.nan, places)

    def at(self, query_rows: Integers, ranks: npt.NDArray[np.int64]) -> Rows:
        """Return the kept candidates at ranks [b, k], from 0; NONE after the end of a list."""
        places = self._places(np.repeat(query_rows, ranks.shape[1]), ranks.ravel(), 1)
        return self._gather(self._row_files, np.uint32, NONE, places).reshape(ranks.shape)

    def best(self, query_rows: Integers, n: int) -> tuple[Rows, Halves]:
        """Return the first n kept candidates of every query and their scores, filled likewise."""
        places = self._places(query_rows, np.zeros(len(query_rows), np.int64), n)
        rows = self._gather(self._row_files, np.uint32, NONE, places)
        return rows, self._gather(self._score_files, np.float16, np.nan, places)

    def _window_places(self, query_rows: Integers, i: int | Integers, n: int) -> _Places:
        return self._places(query_rows, window_firsts(i, n, len(query_rows)), n)

    def _places(self, query_rows: Integers, firsts: npt.NDArray[np.int64], n: int) -> _Places:
        lists = self._lists_of(query_rows)
        is_mined = lists >= 0
        counts = np.zeros(len(lists), np.int64)
        counts[is_mined] = self.count[lists[is_mined]]
        return _Places(lists, firsts, np.clip(counts - firsts, 0, n), n)

    def _lists_of(self, query_rows: Integers) -> npt.NDArray[np.int64]:
        rows = checked_rows(query_rows, self._queries, "query")
        item = self.index.itemsize
        announce([self._index_file], np.zeros_like(rows), rows * item, (rows + 1) * item)
        lists = self.index[rows].astype(np.int64)
        lists[lists == NONE] = -1
        return lists

    def _gather(
        self, files: Sequence[MappedFile], dtype: npt.DTypeLike, fill: float, places: _Places
    ) -> npt.NDArray:
        found = np.full((len(places.lists), places.n), fill, dtype)
        some = np.flatnonzero(places.counts)
        shard, local = np.divmod(places.lists[some], self._per_shard)
        first = local * self.width + places.firsts[some]
        item = found.itemsize
        announce(files, shard, first * item, (first + places.counts[some]) * item)
        within = np.arange(places.n)
        is_there = within < places.counts[some, None]
        for number, members in shard_groups(shard):
            here = is_there[members]
            block = np.full(here.shape, fill, dtype)
            block[here] = files[number].array(dtype)[(first[members, None] + within)[here]]
            found[some[members]] = block
        return found
