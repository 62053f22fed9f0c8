"""Scores of hard negatives as the forward pass gave them, gathered from all processes.

Every process notes what it sees; at a check all notes are put together, so that each process
then holds, and decides from, the same numbers. The order of notes does not count.
"""

import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from catalog.pack.layout import Ids, Integers
from trainer.negative_rules import Scores

Gather = Callable[[bytes], Sequence[bytes]]
"""Give bytes to all processes; return those of every process, in the order of process ranks."""

Notes = npt.NDArray[np.void]


def alone(payload: bytes) -> Sequence[bytes]:
    """Gather in a run of one process."""
    return [payload]


def note_type(num_negatives: int) -> np.dtype[np.void]:
    """Describe a note: a pair of the pack, seen at a step with these scores; NaN: not seen."""
    numbers = [(name, "<u4") for name in ("query", "step", "pair")]
    return np.dtype([*numbers, ("scores", "<f4", (num_negatives,))])


def make_notes(step: int, queries: Integers, pairs: Integers, scores_BN: Scores) -> Notes:
    """Note one batch; scores [b, n]."""
    notes = np.empty(len(pairs), note_type(scores_BN.shape[1]))
    notes["query"], notes["step"], notes["pair"] = queries, step, pairs
    notes["scores"] = scores_BN
    return notes


def join_notes(parts: Sequence[Notes], num_negatives: int) -> Notes:
    """Put notes together, one a query and step, ordered by query and step.

    A query that a step has several times (other positives; other negatives on other processes)
    becomes one observation: of each negative the first score, of the lowest pair.
    """
    notes = np.concatenate([np.empty(0, note_type(num_negatives)), *parts])
    notes = notes[np.lexsort((notes["pair"], notes["step"], notes["query"]))]
    same = (notes["query"][1:] == notes["query"][:-1]) & (notes["step"][1:] == notes["step"][:-1])
    starts = np.flatnonzero(np.concatenate([np.ones(min(len(notes), 1), np.bool_), ~same]))
    joined = notes[starts]
    joined["scores"] = _first_and_last(notes["scores"], starts)[0]
    return joined


class Notebook:
    """The notes since the last check: this process's own, and those gathered before."""

    def __init__(self, num_negatives: int, gather: Gather) -> None:
        self.num_negatives = num_negatives
        self._gather = gather
        self._own: list[Notes] = []
        self._gathered = np.empty(0, note_type(num_negatives))

    def write(self, notes: Notes) -> None:
        """Add notes of this process."""
        self._own.append(notes)

    def gather(self, step: int, message: bytes = b"") -> bytes:
        """Put the notes of all processes together; return the first message that is not empty."""
        own = b"".join(part.tobytes() for part in self._own)
        head = struct.pack("<QQ", step, len(own))
        parts, found = [self._gathered], b""
        for payload in self._gather(head + own + message):
            there, size = struct.unpack_from("<QQ", payload)
            if there != step:
                raise RuntimeError(
                    f"negatives are gathered at step {step} here and at {there} on another "
                    "process; every process must make the same steps"
                )
            notes = payload[len(head) : len(head) + size]
            parts.append(np.frombuffer(notes, note_type(self.num_negatives)))
            found = found or payload[len(head) + size :]
        self._gathered, self._own = join_notes(parts, self.num_negatives), []
        return found

    def take(self, *, per_negative: bool) -> "Observed":
        """Sum up what was gathered, and begin an empty page."""
        seen = summarize(self._gathered, per_negative=per_negative)
        self._gathered = self._gathered[:0]
        return seen

    def to_array(self) -> npt.NDArray[np.uint8]:
        """Return what was gathered as bytes."""
        return np.frombuffer(self._gathered.tobytes(), np.uint8)

    def load_array(self, array: npt.NDArray[np.uint8]) -> None:
        """Take up what ``to_array`` gave."""
        self._gathered = np.frombuffer(array.tobytes(), note_type(self.num_negatives))
        self._own = []


@dataclass(frozen=True)
class Observed:
    """What was seen of some queries since the last check; k is 1 (means) or num_negatives.

    ``pairs`` and ``steps`` are of each query's last observation. ``first`` and ``last`` [m, k] are
    its scores, NaN where nothing was seen; ``several`` says where they are of different steps.
    """

    queries: Ids
    pairs: Ids
    steps: Ids
    first: Scores
    last: Scores
    several: npt.NDArray[np.bool_]

    def __len__(self) -> int:
        """Count the queries."""
        return len(self.queries)


def summarize(notes: Notes, *, per_negative: bool) -> Observed:
    """Sum up joined notes by query: the scores of each negative, or their means."""
    values = notes["scores"] if per_negative else _means(notes["scores"])[:, None]
    is_start = np.ones(len(notes), np.bool_)
    is_start[1:] = notes["query"][1:] != notes["query"][:-1]
    starts = np.flatnonzero(is_start)
    ends = np.concatenate([starts[1:], [len(notes)]])[: len(starts)] - 1
    first, last, several = _first_and_last(values, starts)
    return Observed(
        queries=notes["query"][starts].astype(np.int64),
        pairs=notes["pair"][ends].astype(np.int64),
        steps=notes["step"][ends].astype(np.int64),
        first=first,
        last=last,
        several=several,
    )


def _means(scores: Scores) -> Scores:
    seen = ~np.isnan(scores)
    total = np.where(seen, scores, 0).sum(axis=1, dtype=np.float64)
    counts = seen.sum(axis=1)
    means = np.full(len(scores), np.nan, np.float32)
    means[counts > 0] = total[counts > 0] / counts[counts > 0]
    return means


def _first_and_last(
    values: Scores, starts: npt.NDArray[np.int64]
) -> tuple[Scores, Scores, npt.NDArray[np.bool_]]:
    """Return of every group and column the first and the last number, and whether they differ."""
    if len(values) == 0:
        return values, values, np.zeros(values.shape, np.bool_)
    place = np.arange(len(values))[:, None]
    missing = np.isnan(values)
    first = np.minimum.reduceat(np.where(missing, len(values), place), starts, axis=0)
    last = np.maximum.reduceat(np.where(missing, -1, place), starts, axis=0)
    columns = np.arange(values.shape[1])
    is_there = last >= 0
    nothing = np.float32(np.nan)
    return (
        np.where(is_there, values[np.minimum(first, len(values) - 1), columns], nothing),
        np.where(is_there, values[last, columns], nothing),
        is_there & (first < last),
    )
