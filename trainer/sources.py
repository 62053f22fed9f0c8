"""Sources: which rows of a task are of which source, without a list of them, and their weights."""

import difflib
from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np

from catalog.pack import Pack
from trainer.mixture import SCALE, whole_weights
from trainer.permutation import Ids

BLOCK: Final = 1 << 22


class SourceRows:
    """The rows of each source of a task, as runs: a source file is one, so there are few.

    Run i is of source ``source[i]`` and covers the pack's positions ``[begin[i], end[i])``, or
    these places of ``selection``. Runs are ordered by source.
    """

    def __init__(
        self, names: Sequence[str], source: Ids, begin: Ids, end: Ids, selection: Ids | None
    ) -> None:
        self._names, self._selection = tuple(names), selection
        self._source, self._begin, self._end = source, begin, end
        self._totals = np.cumsum(end - begin)  # rows up to the end of each run
        counts = np.zeros(len(names), np.int64)
        np.add.at(counts, source, end - begin)
        self._counts = counts
        self._firsts = np.cumsum(counts) - counts

    def sizes(self) -> dict[str, int]:
        """Return the number of rows of each source."""
        return dict(zip(self._names, self._counts.tolist(), strict=True))

    def only(self, names: Sequence[str]) -> "SourceRows":
        """Keep some of the sources, in their order here."""
        kept = [place for place, name in enumerate(self._names) if name in names]
        runs = np.isin(self._source, kept)
        source = np.searchsorted(kept, self._source[runs])
        return SourceRows(
            [self._names[place] for place in kept],
            source, self._begin[runs], self._end[runs], self._selection,
        )  # fmt: skip

    def positions(self, sources: Ids, rows: Ids) -> Ids:
        """Return the positions in the pack of the given rows of the given sources."""
        wanted = self._firsts[sources] + rows
        run = np.searchsorted(self._totals, wanted, side="right")
        places: Ids = self._end[run] - (self._totals[run] - wanted)
        return places if self._selection is None else np.asarray(self._selection[places], np.int64)


def list_sources(pack: Pack, task: str, selection: Ids | None = None) -> SourceRows:
    """Find the runs of each source among a task's pairs, or among the selected ones."""
    pairs = pack.pairs(task)
    first, end = pairs.first, pairs.first + len(pairs)
    chosen = None
    if selection is not None:
        _check_selection(selection, len(pack))
        first, end = np.searchsorted(selection, [first, end]).tolist()
        chosen = np.asarray(selection)
    column = pack.pairs().source
    begins, codes = [], []
    last = -1
    for start in range(first, end, BLOCK):
        places = slice(start, min(start + BLOCK, end))
        sources = column[places] if chosen is None else column[chosen[places]]
        is_first = np.concatenate(([sources[0] != last], sources[1:] != sources[:-1]))
        changes = np.flatnonzero(is_first)
        begins.append(start + changes)
        codes.append(sources[changes])
        last = int(sources[-1])
    if not begins:
        raise ValueError(
            f"no pair of task {task!r} is selected; select some or leave the task out of the plan"
        )
    begin = np.concatenate(begins)
    known, source = np.unique(np.concatenate(codes), return_inverse=True)
    order = np.argsort(source, kind="stable")
    ends = np.append(begin[1:], end)
    names = [pack.manifest.sources[code] for code in known]
    return SourceRows(names, source[order], begin[order], ends[order], chosen)


def mixture_weights(
    task: str, sizes: Mapping[str, int], weights: Mapping[str, float], temperature: float
) -> dict[str, int]:
    """Return the sources to mix with their weights, as whole numbers.

    Without ``weights`` a source counts rows ** (1 / temperature): at 1, all sources end their
    epochs together.
    """
    if not weights:
        if temperature == 1:
            return dict(zip(sizes, whole_weights(list(sizes.values())), strict=True))
        powers = np.array([size ** (1 / temperature) for size in sizes.values()])
        whole = np.maximum(1, np.rint(powers * (SCALE / powers.sum()))).astype(np.int64)
        return dict(zip(sizes, whole.tolist(), strict=True))
    _check_weights(task, sizes, weights)
    used = {source: weights[source] for source in sizes if weights[source] > 0}
    return dict(zip(used, whole_weights(list(used.values())), strict=True))


def _check_weights(task: str, sizes: Mapping[str, int], weights: Mapping[str, float]) -> None:
    for source, weight in weights.items():
        if source not in sizes:
            close = difflib.get_close_matches(source, list(sizes), n=1)
            hint = f"did you mean {close[0]!r}? " if close else ""
            raise ValueError(
                f"weights of {task}: there are no rows of source {source!r}; {hint}its sources "
                f"are {', '.join(sizes)}"
            )
        if not 0 <= weight < float("inf"):
            raise ValueError(
                f"weights of {task}: {source!r} has {weight:g}; a weight is a number from 0"
            )
    missing = [source for source in sizes if source not in weights]
    if missing:
        raise ValueError(
            f"weights of {task}: {', '.join(missing)} has none; give each source one, 0 to leave "
            "it out"
        )
    if not any(weights.values()):
        raise ValueError(f"weights of {task}: all are 0; give at least one source more")


def _check_selection(selection: Ids, pairs: int) -> None:
    for start in range(0, len(selection), BLOCK):
        part = selection[max(start - 1, 0) : start + BLOCK]
        if not (part[1:] > part[:-1]).all():
            raise ValueError("the selection is not ascending; sort it, each position once")
    if len(selection) and not 0 <= selection[0] <= selection[-1] < pairs:
        raise ValueError(
            f"the selection has positions {selection[0]} to {selection[-1]}; the pack has "
            f"0 to {pairs - 1}"
        )
