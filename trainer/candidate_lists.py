"""The candidates of queries as a run sees them: the pack's, those mined since, and exclusions."""

import io
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from catalog.pack import NONE, Pack
from catalog.pack.layout import Ids, Integers, Rows
from catalog.pack.windows import window_firsts
from trainer.negative_rules import Mask

Arrays = dict[str, npt.NDArray[Any]]
PACK: Final = -1  # the place of the pack's own list among the runs


@dataclass(frozen=True)
class Refreshed:
    """Lists that were mined during the run, as rows of the pack.

    ``queries`` [r] are ascending; ``lists`` [r, w] are passages in order of rank, NONE after the
    last; ``run`` [r] is each list's place in ``runs``, the ids of the jobs that mined them.
    """

    queries: Rows
    lists: Rows
    run: npt.NDArray[np.int32]
    runs: tuple[str, ...]

    @classmethod
    def empty(cls) -> "Refreshed":
        """Return no lists."""
        return cls(np.empty(0, np.uint32), np.empty((0, 0), np.uint32), np.empty(0, np.int32), ())

    def replaced_by(self, newer: "Refreshed") -> "Refreshed":
        """Return these lists with those of ``newer`` in their place."""
        kept = ~np.isin(self.queries, newer.queries)
        runs = self.runs + tuple(run for run in newer.runs if run not in self.runs)
        place = np.array([runs.index(run) for run in newer.runs], np.int32)
        width = max(self.lists.shape[1], newer.lists.shape[1])
        queries = np.concatenate([self.queries[kept], newer.queries])
        order = np.argsort(queries)
        lists = np.concatenate([_widen(self.lists[kept], width), _widen(newer.lists, width)])
        run = np.concatenate([self.run[kept], place[newer.run]])
        return Refreshed(queries[order], lists[order], run[order], runs)

    def places(self, query_rows: Integers) -> Ids:
        """Find the queries' lists; -1 where a query has none of these."""
        if len(self.queries) == 0:
            return np.full(len(query_rows), -1, np.int64)
        # In the type of what is searched: numpy would convert all of it otherwise.
        wanted = np.asarray(query_rows).astype(np.uint32)
        found = np.minimum(np.searchsorted(self.queries, wanted), len(self.queries) - 1)
        return np.where(self.queries[found] == wanted, found, -1)


@dataclass(frozen=True)
class Exclusions:
    """What a policy that was revised during the run no longer keeps, ascending.

    ``pairs`` are positions of the pack, ``passages`` rows whose every pair went.
    """

    policy_version: int
    pairs: Ids
    passages: Rows


@dataclass(frozen=True)
class Update:
    """What changed in the lake, found at ``lake_version``; exclusions None: no other policy."""

    lake_version: int
    refreshed: Refreshed = field(default_factory=Refreshed.empty)
    exclusions: Exclusions | None = None

    def is_empty(self) -> bool:
        """Say whether there is nothing to apply."""
        return len(self.refreshed.queries) == 0 and self.exclusions is None

    def to_arrays(self) -> Arrays:
        """Write the update as plain arrays."""
        arrays: Arrays = {
            "lake_version": np.array(self.lake_version),
            "queries": self.refreshed.queries,
            "lists": self.refreshed.lists,
            "run": self.refreshed.run,
            "runs": to_bytes(list(self.refreshed.runs)),
        }
        if self.exclusions is not None:
            arrays["policy_version"] = np.array(self.exclusions.policy_version)
            arrays["pairs"] = self.exclusions.pairs
            arrays["passages"] = self.exclusions.passages
        return arrays

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, npt.NDArray[Any]]) -> "Update":
        """Read what ``to_arrays`` wrote."""
        runs = tuple(from_bytes(arrays["runs"]))
        refreshed = Refreshed(arrays["queries"], arrays["lists"], arrays["run"], runs)
        exclusions = None
        if "policy_version" in arrays:
            version = int(arrays["policy_version"])
            exclusions = Exclusions(version, arrays["pairs"], arrays["passages"])
        return cls(int(arrays["lake_version"]), refreshed, exclusions)


class CandidateLists:
    """The kept candidates of a pack's queries, with what came to them during the run."""

    def __init__(self, pack: Pack) -> None:
        self.pack = pack
        self.refreshed = Refreshed.empty()
        self.exclusions: Exclusions | None = None

    def apply(self, update: Update) -> None:
        """Put refreshed lists in the place of older ones, and exclusions in that of earlier."""
        if len(update.refreshed.queries):
            self.refreshed = self.refreshed.replaced_by(update.refreshed)
        if update.exclusions is not None:
            self.exclusions = update.exclusions

    def counts(self, query_rows: Integers) -> Ids:
        """Count every query's candidates; 0 where it was not mined."""
        found = np.maximum(self.pack.candidates.counts(query_rows), 0)
        places = self.refreshed.places(query_rows)
        own = places >= 0
        if own.any():
            found[own] = (self.refreshed.lists[places[own]] != NONE).sum(axis=1)
        return found

    def window(self, query_rows: Integers, i: Ids, n: int) -> Rows:
        """Return each query's i-th window of n candidates [b, n], filled with NONE."""
        rows, _ = self.pack.window(query_rows, i, n)
        firsts = window_firsts(i, n, len(query_rows))
        self._overlay(rows, query_rows, firsts[:, None] + np.arange(n))
        return rows

    def take(self, query_rows: Integers, ranks: Ids) -> Rows:
        """Return the candidates at ranks [b, k], counted from 0; NONE beyond the list and at -1."""
        rows = self.pack.candidates.at(query_rows, np.maximum(ranks, 0))
        self._overlay(rows, query_rows, ranks)
        rows[ranks < 0] = NONE
        return rows

    def _overlay(self, rows: Rows, query_rows: Integers, ranks: Ids) -> None:
        """Put the candidates of refreshed lists in the place of the pack's."""
        places = self.refreshed.places(query_rows)
        own = np.flatnonzero(places >= 0)
        if len(own):
            lists = _widen(self.refreshed.lists[places[own]], self.refreshed.lists.shape[1] + 1)
            within = np.minimum(np.maximum(ranks[own], 0), lists.shape[1] - 1)
            rows[own] = np.take_along_axis(lists, within, axis=1)

    def is_excluded(self, passage_rows: Rows) -> Mask:
        """Say which passages may not be negatives any more."""
        if self.exclusions is None:
            return np.zeros(passage_rows.shape, np.bool_)
        return _is_in(passage_rows, self.exclusions.passages)

    def is_pair_excluded(self, positions: Integers) -> Mask:
        """Say which pairs may not be trained on any more."""
        if self.exclusions is None:
            return np.zeros(len(positions), np.bool_)
        return _is_in(positions, self.exclusions.pairs)

    def run_of(self, query_rows: Integers) -> list[str]:
        """Name the mining run whose list each query uses."""
        names = [*self.refreshed.runs, str(self.pack.manifest.settings["candidates_run"])]
        places = self.refreshed.places(query_rows)
        run = np.full(len(places), PACK)
        run[places >= 0] = self.refreshed.run[places[places >= 0]]
        return [names[number] for number in run]

    def to_arrays(self) -> Arrays:
        """Write what came during the run as plain arrays."""
        return Update(0, self.refreshed, self.exclusions).to_arrays()

    def load_arrays(self, arrays: Mapping[str, npt.NDArray[Any]]) -> None:
        """Take up what ``to_arrays`` wrote."""
        saved = Update.from_arrays(arrays)
        self.refreshed, self.exclusions = saved.refreshed, saved.exclusions


def to_bytes(content: object) -> npt.NDArray[np.uint8]:
    """Write plain data as an array of bytes, for files that hold arrays only."""
    return np.frombuffer(json.dumps(content, sort_keys=True).encode(), np.uint8)


def from_bytes(array: npt.NDArray[Any]) -> Any:
    """Read what ``to_bytes`` wrote."""
    return json.loads(array.tobytes())


def pack_arrays(arrays: Arrays) -> bytes:
    """Write arrays as the bytes of an .npz file."""
    stream = io.BytesIO()
    np.savez(stream, **arrays)  # type: ignore[arg-type]
    return stream.getvalue()


def unpack_arrays(content: bytes) -> Arrays:
    """Read the bytes of an .npz file; nothing in it is executed."""
    with np.load(io.BytesIO(content), allow_pickle=False) as file:
        return {name: file[name] for name in file.files}


def _widen(lists: Rows, width: int) -> Rows:
    wider: Rows = np.pad(lists, ((0, 0), (0, width - lists.shape[1])), constant_values=NONE)
    return wider


def _is_in(values: Integers, ascending: npt.NDArray[Any]) -> Mask:
    if len(ascending) == 0:
        return np.zeros(values.shape, np.bool_)
    wanted = np.asarray(values).astype(ascending.dtype)
    places = np.minimum(np.searchsorted(ascending, wanted), len(ascending) - 1)
    found: Mask = ascending[places] == wanted
    return found
