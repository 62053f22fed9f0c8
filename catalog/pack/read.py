"""A pack, opened for reading: texts, pairs, windows and selections by row number."""

from collections.abc import Callable, Collection
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from catalog.pack.candidates import CandidateLists
from catalog.pack.instructions import QueryInstructions
from catalog.pack.layout import (
    NONE,
    SIDES,
    Halves,
    Ids,
    Integers,
    Manifest,
    PackDamagedError,
    PackError,
    Rows,
    checked_rows,
    find_rows,
    read_manifest,
)
from catalog.pack.mapped import MappedFile
from catalog.pack.negatives import NegativeLists
from catalog.pack.pairs import CLUSTERS, Pairs, open_pairs
from catalog.pack.texts import TextStore
from catalog.pack.vectors import VectorRows
from catalog.pack.verification import find_damage
from catalog.pack.windows import Window

Condition = Callable[[Pairs], npt.NDArray[np.bool_]]
SELECT_BLOCK: Final = 1 << 22


class Pack:
    """A snapshot laid out for random access. Cheap to open; processes share its memory."""

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        self.folder, self.manifest = folder, manifest
        self._ids: dict[str, Ids] = {
            side: MappedFile(folder / f"{side}.ids").array(np.int64) for side in SIDES
        }
        self._vectors = {side: VectorRows(folder, manifest, side) for side in SIDES}
        self._texts = {side: TextStore.open(folder, manifest, side) for side in SIDES}
        self._instructions = QueryInstructions(folder, manifest)
        self._pairs = open_pairs(folder, manifest)
        self._negatives = NegativeLists(folder, manifest)
        self.has_candidates = manifest.settings["candidates_run"] is not None
        self._candidates = CandidateLists(folder, manifest) if self.has_candidates else None
        self.clusters: Rows = MappedFile(folder / f"{CLUSTERS}.first").array(np.uint32)

    @classmethod
    def open(cls, folder: Path | str, *, digest: str | None = None, verify: bool = False) -> "Pack":
        """Open a pack; ``digest`` is that of the snapshot that it must be of.

        Sizes are always checked, checksums at the first opening on this machine, or with
        ``verify``. A pack with damage is refused (PackDamagedError): building it again repairs it.
        """
        folder = Path(folder).resolve()
        manifest = read_manifest(folder)
        if digest is not None and manifest.digest != digest:
            raise PackError(
                f"the pack {folder} is of snapshot {manifest.snapshot!r} with digest "
                f"{manifest.digest}, wanted is digest {digest}; build a pack of that snapshot in "
                "another folder"
            )
        damaged = find_damage(folder, manifest, everything=verify)
        if damaged:
            raise PackDamagedError(folder, damaged)
        return cls(folder, manifest)

    def __reduce__(self) -> tuple[Callable[[Path], "Pack"], tuple[Path]]:
        """Travel to another process as a folder's name."""
        return Pack.open, (self.folder,)

    def __len__(self) -> int:
        """Count the pairs."""
        return len(self._pairs)

    def texts(self, side: str, rows: Integers) -> list[str]:
        """Read the texts of rows (side: query or passage), announcing all of them first.

        Texts with one normal form share a row: the text is as its smallest pair id has it.
        """
        return self._texts[_side(side)].read(rows)

    def prompted_texts(self, side: str, rows: Integers, prompt: str) -> list[str]:
        """Read the texts of rows, each behind its own instruction, or behind ``prompt``."""
        texts = self.texts(side, rows)
        own = self._instructions.of(rows) if side == "query" else None
        if own is None:
            return [prompt + text for text in texts]
        prompts = (prompt if mine is None else mine for mine in own)
        return [before + text for before, text in zip(prompts, texts, strict=True)]

    def vectors(self, side: str, rows: Integers) -> Halves:
        """Read the teacher embeddings of rows [b, width]; NaN for given negatives without an id."""
        return self._vectors[_side(side)].read(checked_rows(rows, self.num_texts(side), side))

    def num_texts(self, side: str) -> int:
        """Count the texts of a side."""
        return self._texts[_side(side)].count

    def ids(self, side: str) -> Ids:
        """View the ids of a side's rows, ascending; given negatives may follow without an id."""
        return self._ids[_side(side)]

    def rows(self, side: str, ids: npt.ArrayLike) -> Rows:
        """Find the rows of query or passage ids; NONE where the pack has no such text."""
        return find_rows(self._ids[_side(side)], np.asarray(ids, np.int64))

    def pairs(self, task: str | None = None) -> Pairs:
        """View the pairs of a task, or all, as columns."""
        if task is None:
            return self._pairs
        if task not in self.manifest.tasks:
            known = ", ".join(self.manifest.tasks) or "none"
            raise PackError(f"the pack has no pairs of task {task!r}; it has: {known}")
        return self._pairs.slice(*self.manifest.tasks[task])

    def positions(self, pair_ids: npt.ArrayLike) -> Ids:
        """Find the positions of pairs by id; -1 where the pack has no such pair."""
        wanted = np.asarray(pair_ids, np.int64)
        found = np.full(len(wanted), -1, np.int64)
        for first, end in self.manifest.tasks.values():
            rows = find_rows(self._pairs.pair_id[first:end], wanted)
            found[rows != NONE] = rows[rows != NONE].astype(np.int64) + first
        return found

    def negatives(self, positions: Integers) -> tuple[Rows, Ids]:
        """Return the passage rows of pairs' given negatives and the n + 1 offsets into them."""
        return self._negatives.of(checked_rows(positions, len(self), "pair"))

    def source_code(self, source: str) -> int:
        """Return the number that stands for a source in the pairs."""
        if source not in self.manifest.sources:
            known = ", ".join(self.manifest.sources) or "none"
            raise PackError(f"the pack has no pairs of source {source!r}; it has: {known}")
        return self.manifest.sources.index(source)

    @property
    def candidates(self) -> CandidateLists:
        """The candidate lists; raise where the pack was built without a mining run."""
        if self._candidates is None:
            raise PackError(
                f"the pack {self.folder} has no candidates; build one with a mining run "
                "(candidates_run)"
            )
        return self._candidates

    def window(self, query_rows: Integers, i: int | Integers, n: int) -> Window:
        """Return kept candidates at [(i - 1) * n + 10, i * n + 10): rows [b, n] and counts [b].

        ``i`` is one number or one for each query. See ``catalog.pack.windows`` for short lists.
        """
        return self.candidates.window(query_rows, i, n)

    def window_scores(self, query_rows: Integers, i: int | Integers, n: int) -> Halves:
        """Return the miner's scores of the same window [b, n]; NaN where there is no candidate."""
        return self.candidates.window_scores(query_rows, i, n)

    def query_window(self, query_id: int, i: int, n: int) -> list[int]:
        """Return one query's window as passage ids, best first."""
        row = self.rows("query", [query_id])
        if row[0] == NONE:
            raise PackError(f"the pack {self.folder} has no query {query_id}")
        rows, counts = self.window(row, i, n)
        found: list[int] = self._ids["passage"][rows[0, : counts[0]]].tolist()
        return found

    def select(
        self,
        task: str | None = None,
        where: Condition | npt.NDArray[np.bool_] | None = None,
        without: Collection[int] | npt.NDArray[np.int64] = (),
    ) -> Ids:
        """Return the positions of the pairs that are wanted: a selection is a vector, not a pack.

        ``where`` is a mask over the task's pairs, or a function that makes one of their columns
        (block by block); ``without`` are pair ids to leave out.
        """
        pairs = self.pairs(task)
        if where is None:
            chosen = np.arange(pairs.first, pairs.first + len(pairs))
        else:
            chosen = pairs.first + np.flatnonzero(_mask(pairs, where))
        if len(without):
            excluded = self.positions(np.fromiter(without, np.int64, len(without)))
            chosen = chosen[~np.isin(chosen, excluded)]
        return chosen


def _mask(pairs: Pairs, where: Condition | npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    if callable(where):
        starts = range(0, len(pairs), SELECT_BLOCK)
        blocks = [where(pairs.slice(s, min(s + SELECT_BLOCK, len(pairs)))) for s in starts]
        mask = np.concatenate(blocks) if blocks else np.zeros(0, np.bool_)
    else:
        mask = np.asarray(where)
    if mask.dtype != np.bool_ or mask.shape != (len(pairs),):
        raise ValueError(
            f"the condition gives {mask.dtype} of shape {mask.shape}; wanted is one bool for each "
            f"of {len(pairs):,} pairs"
        )
    return mask


def _side(side: str) -> str:
    if side not in SIDES:
        raise ValueError(f"side is {side!r}; allowed are {' and '.join(SIDES)}")
    return side
