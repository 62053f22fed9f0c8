"""Files that the steps of a deduplication leave for each other until the job is committed."""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from catalog.records import process_name, sync_file
from curation.duplicates.pairs import Ids, Pairs, unique_pairs
from curation.texts import CodePoints, Offsets, Texts, kernel

Bound = tuple[int, int]  # a pair (a, b); a stretch of pairs is from one to before the next
SMALLEST: Bound = (-1, -1)
LARGEST: Bound = ((1 << 63) - 1, (1 << 63) - 1)


def save_array(path: Path, array: npt.NDArray[Any]) -> None:
    """Write an array so that it is there whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.stem}.{process_name()}.tmp.npy")
    np.save(aside, array)
    sync_file(aside)
    aside.rename(path)


def map_array(path: Path) -> npt.NDArray[Any]:
    """Map an array into memory: its pages are read when they are used."""
    return np.asarray(np.load(path, mmap_mode="r"))


@dataclass(frozen=True)
class PairRuns:
    """Sorted lists of pairs, several for each task of a stage; a pair can be in several."""

    folder: Path
    stage: str

    def save(self, task: int, runs: Iterator[Pairs]) -> int:
        """Write the lists of a task one by one; return how many pairs they hold."""
        pairs = 0
        for number, run in enumerate(runs):
            save_array(self.folder / f"{self.stage}-{task:05d}-{number:05d}.npy", run)
            pairs += len(run)
        return pairs

    def open(self) -> list[Pairs]:
        """Map all lists."""
        return [map_array(p) for p in sorted(self.folder.glob(f"{self.stage}-?????-?????.npy"))]

    def between(self, first: Bound, end: Bound) -> Pairs:
        """Return the distinct pairs of a stretch."""
        stretches = []
        for run in self.open():
            low, high = _lower_bound(run, *first), _lower_bound(run, *end)
            if low < high:
                stretches.append(np.array(run[low:high]))
        return unique_pairs(stretches)

    def cut(self, most: int, *beside: "PairRuns") -> list[tuple[Bound, Bound]]:
        """Cut pairs, also those of other stages, into stretches of about ``most``.

        A pair that is in several lists counts as several.
        """
        runs = [run for stage in (self, *beside) for run in stage.open() if len(run)]
        total = sum(len(run) for run in runs)
        parts = -(-total // most)
        if parts < 2:
            return [(SMALLEST, LARGEST)] if total else []
        # Every 1,000th pair of a list: a stretch is off by at most as many in each list.
        step = max(1, min(1000, most // 10))
        sample = np.concatenate([run[::step] for run in runs])
        sample = sample[np.lexsort((sample[:, 1], sample[:, 0]))]
        rows = [len(sample) * part // parts for part in range(1, parts)]
        bounds = [SMALLEST, *((int(a), int(b)) for a, b in sample[rows]), LARGEST]
        return [(low, high) for low, high in itertools.pairwise(bounds) if low < high]


@dataclass(frozen=True)
class TextFiles:
    """Normalised texts by id, written by several tasks and read at random."""

    folder: Path

    def save(self, task: int, part: int, ids: Ids, texts: Texts) -> None:
        """Write a part of what a task collected; each id is in one part."""
        order = np.argsort(ids)
        bounds = np.zeros(len(ids) + 1, np.int64)
        np.cumsum(texts.lengths[order], out=bounds[1:])
        codes = np.empty(len(texts.codepoints), np.uint32)
        _copy(texts.codepoints, texts.offsets[order], np.arange(len(ids)), bounds, codes)
        name = f"texts-{task:05d}-{part:05d}"
        for kind, array in (("offsets", bounds), ("codes", codes), ("ids", ids[order])):
            save_array(self.folder / f"{name}-{kind}.npy", array)

    def open(self) -> "TextReader":
        """Map all texts."""
        parts = []
        for path in sorted(self.folder.glob("texts-?????-?????-ids.npy")):
            stem = path.name.removesuffix("ids.npy")
            offsets, codes = (self.folder / f"{stem}{kind}.npy" for kind in ("offsets", "codes"))
            parts.append((map_array(path), map_array(offsets), map_array(codes)))
        return TextReader(parts)


@dataclass(frozen=True, eq=False)
class TextReader:
    """Texts that are mapped: a list of (ids, offsets, code points), none of them empty."""

    parts: Sequence[tuple[Ids, Offsets, CodePoints]]

    def fetch(self, ids: Ids) -> Texts:
        """Return the texts of ids, which ascend and are all there."""
        lengths = np.full(len(ids), -1, np.int64)
        found = []
        for part_ids, offsets, codes in self.parts:
            low, high = np.searchsorted(ids, [part_ids[0], part_ids[-1] + 1])
            wanted = ids[low:high]
            places = np.searchsorted(part_ids, wanted)
            hits = np.flatnonzero(part_ids[places] == wanted)
            starts = offsets[places[hits]]
            lengths[low + hits] = offsets[places[hits] + 1] - starts
            found.append((low + hits, starts, codes))
        if (lengths < 0).any():
            raise AssertionError(f"no text was collected for pair {ids[lengths < 0][0]}")
        bounds = np.zeros(len(ids) + 1, np.int64)
        np.cumsum(lengths, out=bounds[1:])
        out = np.empty(int(bounds[-1]), np.uint32)
        for rows, starts, codes in found:
            _copy(codes, starts, rows, bounds, out)
        return Texts(out, bounds, np.ones(len(ids), np.bool_))


@kernel
def _copy(codes: CodePoints, starts: Offsets, rows: Ids, bounds: Offsets, out: CodePoints) -> None:
    """Copy the text that begins at starts[i] to its place as row rows[i]."""
    for at in range(len(rows)):
        first = bounds[rows[at]]
        for step in range(bounds[rows[at] + 1] - first):
            out[first + step] = codes[starts[at] + step]


@kernel
def _lower_bound(pairs: Pairs, a: int, b: int) -> int:
    """Return the row of the first pair that is not before (a, b)."""
    low, high = 0, len(pairs)
    while low < high:
        middle = (low + high) // 2
        if pairs[middle, 0] < a or (pairs[middle, 0] == a and pairs[middle, 1] < b):
            low = middle + 1
        else:
            high = middle
    return low
