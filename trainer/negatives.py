"""Dynamic hard negatives: which passages a query is trained against, and when they change.

    negatives = DynamicNegatives(pack, NegativeSettings.published("v1"), "a")
    chosen = negatives.choose(pairs.query[positions])        # rows [b, n] and which are there
    ...                                                      # the forward pass gives scores [b, n]
    negatives.observe(step, positions, scores)
    checked = negatives.check(step)                          # after the last step of an interval

All processes hold the same state. Between two checks it does not change, so batches may be chosen
ahead up to the next check, and not beyond it.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from catalog.pack import NONE, Pack, PackError
from catalog.pack.layout import Ids, Integers, Rows
from catalog.records import sync_file, sync_folder, writing
from catalog.schema import TRAIN_EVENTS
from trainer.candidate_lists import (
    Arrays,
    CandidateLists,
    Exclusions,
    Update,
    from_bytes,
    pack_arrays,
    to_bytes,
    unpack_arrays,
)
from trainer.negative_rules import NEVER, Mask, NegativeSettings, Scores
from trainer.negative_state import MAX_RANKS, NegativeState, draw_ranks
from trainer.observations import Gather, Notebook, Observed, alone, make_notes
from trainer.replacements import (
    PAIR_EXCLUDED,
    REFRESHED,
    Decisions,
    Score,
    replace_rescored,
    replace_singly,
    replace_windows,
)
from trainer.train_events import Decided, make_events

DRAWN_QUERIES = 65_536  # at a time


class Chosen(NamedTuple):
    """Hard negatives of a batch: passage rows [b, n], NONE where ``mask`` [b, n] is false."""

    rows: Rows
    mask: Mask


@dataclass(frozen=True)
class Checked:
    """What a check found and did, the same on every process.

    ``events`` are rows of ``train_events``; one process writes them.
    """

    events: pa.Table
    queries: int  # seen since the last check
    mean_score: float  # of their newest observations; NaN: none
    counts: dict[str, int]  # decisions by reason


class LiveSource(Protocol):
    """Where changes of the lake come from; see ``trainer.live_candidates``."""

    def take(self, step: int) -> Update | None:
        """Return what was found since the last call."""

    def look(self, step: int, list_marked: Callable[[], tuple[Ids, Sequence[str]]]) -> None:
        """Begin to look for what is new, also for queries whose lists have ended."""


class DynamicNegatives:
    """The hard negatives of a run. ``live`` belongs to one process; None: nothing is looked up.

    ``gather`` gives bytes to all processes and is called at the same checks by each of them;
    ``score`` is needed by the rule ``rescored`` only.
    """

    def __init__(
        self,
        pack: Pack,
        settings: NegativeSettings,
        run: str,
        *,
        gather: Gather = alone,
        score: Score | None = None,
        live: LiveSource | None = None,
    ) -> None:
        if pack.candidates.width > MAX_RANKS:
            raise PackError(
                f"the pack {pack.folder} has lists of {pack.candidates.width:,} candidates; hard "
                f"negatives use at most {MAX_RANKS:,}: mine with a smaller depth"
            )
        if settings.rule == "rescored" and score is None:
            raise ValueError(
                "the rule 'rescored' scores candidates again: give it a function score"
            )
        self.pack, self.settings, self.run = pack, settings, run
        self.lists = CandidateLists(pack)
        self.state = NegativeState.start(pack.num_texts("query"), settings)
        self._draw(np.arange(pack.num_texts("query")))
        self._score, self._live = score, live
        self._pairs = pack.pairs()
        self._notes = Notebook(settings.num_negatives, gather)

    def choose(self, query_rows: Integers) -> Chosen:
        """Choose the hard negatives of a batch of queries, as the last check left them."""
        rows = self.state.negatives(self.lists, query_rows, self.settings.num_negatives)
        rows[self.lists.is_excluded(rows)] = NONE
        return Chosen(rows, rows != NONE)

    def is_excluded(self, positions: Integers) -> Mask:
        """Say which pairs of a batch a revised policy no longer keeps: train on the others."""
        return self.lists.is_pair_excluded(positions)

    def observe(self, step: int, positions: Integers, scores: Scores) -> None:
        """Note the scores [b, n] of the chosen negatives of pairs (positions of the pack).

        NaN where there was no negative, or where another process scored it.
        """
        n = self.settings.num_negatives
        scores = np.asarray(scores, np.float32)
        if scores.shape != (len(positions), n):
            raise ValueError(
                f"scores are of shape {scores.shape}; wanted are {n} for each of "
                f"{len(positions)} pairs, NaN where there is no negative"
            )
        self._notes.write(make_notes(step, self._pairs.query[positions], positions, scores))

    def check(self, step: int) -> Checked | None:
        """Decide after a step what is replaced; None where the step ends no interval."""
        if step % self.settings.check_every_steps:
            return None
        update = self._exchange(step)
        seen = self._notes.take(per_negative=self.settings.rule == "v2")
        decided = [decisions for decisions in self._decide(seen) if len(decisions.queries)]
        events = [self._event(step, decisions) for decisions in decided]
        if update is not None:
            events += self._apply(step, update)
        if self._live is not None:
            self._live.look(step, self._list_marked)
        table = pa.Table.from_batches(events, TRAIN_EVENTS)
        counts = Counter(table["reason"].to_pylist())
        scores = seen.last[~np.isnan(seen.last)]
        mean = float(scores.mean(dtype=np.float64)) if len(scores) else float("nan")
        return Checked(table, len(seen), mean, dict(counts))

    def exhausted_queries(self) -> Ids:
        """Return the ids of the queries that wait for a new list."""
        return np.asarray(self.pack.ids("query")[np.flatnonzero(self.state.exhausted)])

    def state_dict(self, step: int) -> Arrays:
        """Return everything that a run needs to go on; all processes call it at the same step."""
        self._notes.gather(step)
        return {
            "identity": to_bytes(self._identity()),
            "notes": self._notes.to_array(),
            **{f"state_{name}": column for name, column in self.state.to_arrays().items()},
            **{f"lists_{name}": column for name, column in self.lists.to_arrays().items()},
        }

    def load_state_dict(self, arrays: Arrays) -> None:
        """Go on from ``state_dict``, with the same pack and settings."""
        saved, own = from_bytes(arrays["identity"]), self._identity()
        differing = [
            f"{name} was {saved.get(name)!r}, is {own[name]!r}"
            for name in own
            if saved.get(name) != own[name]
        ]
        if differing:
            raise ValueError(
                f"saved negatives are of another run: {'; '.join(differing)}; resume with the "
                "pack and the settings that the run began with"
            )
        self.state.load_arrays(_without_prefix("state_", arrays))
        self.lists.load_arrays(_without_prefix("lists_", arrays))
        self._notes.load_array(arrays["notes"])

    def _identity(self) -> dict[str, Any]:
        settings = {f"setting {name}": value for name, value in asdict(self.settings).items()}
        candidates_run = self.pack.manifest.settings["candidates_run"]
        return {"pack": self.pack.manifest.key, "candidates_run": candidates_run, **settings}

    def _exchange(self, step: int) -> Update | None:
        """Gather all notes, and hear from the process that asks the lake what it has found."""
        own = None if self._live is None else self._live.take(step)
        found = self._notes.gather(step, b"" if own is None else pack_arrays(own.to_arrays()))
        return Update.from_arrays(unpack_arrays(found)) if found else None

    def _list_marked(self) -> tuple[Ids, Sequence[str]]:
        rows = np.flatnonzero(self.state.exhausted)
        return np.asarray(self.pack.ids("query")[rows]), self.lists.run_of(rows)

    def _decide(self, seen: Observed) -> Iterable[Decisions]:
        rule = self.settings.rule
        self.state.record(seen, is_second_needed=rule != "v2")
        if rule in NEVER:
            return []
        if rule == "v1":
            return replace_windows(self.state, self.lists, seen, self.settings)
        if rule == "v2":
            return replace_singly(self.state, self.lists, seen, self.settings)
        assert self._score is not None
        positives = self._pairs.passage[seen.pairs]
        return replace_rescored(self.state, self.lists, seen, self.settings, positives, self._score)

    def _draw(self, queries: Ids) -> None:
        """Give queries that have begun anew their drawn places, where the rule draws any."""
        if self.settings.rule != "sampled":
            return
        for start in range(0, len(queries), DRAWN_QUERIES):
            rows = queries[start : start + DRAWN_QUERIES]
            ids, counts = self.pack.ids("query")[rows], self.lists.counts(rows)
            self.state.ranks[rows] = draw_ranks(ids, counts, self.settings)

    def _apply(self, step: int, update: Update) -> Iterator[pa.RecordBatch]:
        before = self.lists.exclusions
        self.lists.apply(update)
        queries = update.refreshed.queries.astype(np.int64)
        self.state.restart(queries)
        self._draw(queries)
        yield self._plain_event(step, REFRESHED, self.pack.ids("query")[queries], queries)
        if update.exclusions is not None:
            gone = _newly_excluded(before, update.exclusions)
            rows = self._pairs.query[gone].astype(np.int64)
            yield self._plain_event(step, PAIR_EXCLUDED, self._pairs.pair_id[gone], rows)

    def _event(self, step: int, of: Decisions) -> pa.RecordBatch:
        pair_ids, query_ids = self._pairs.pair_id[of.pairs], self.pack.ids("query")[of.queries]
        decided = Decided(of.reason, pair_ids, query_ids, of.window, of.rank, of.s0, of.s)
        return make_events(self.run, step, decided)

    def _plain_event(self, step: int, reason: str, pair_ids: Ids, queries: Ids) -> pa.RecordBatch:
        """Make events of what came from the lake: no scores had a part in it."""
        query_ids, window = self.pack.ids("query")[queries], self.state.window[queries]
        nothing = np.full(len(queries), np.nan, np.float32)
        rank = np.full(len(queries), -1)
        decided = Decided(reason, pair_ids, query_ids, window, rank, nothing, nothing)
        return make_events(self.run, step, decided)


def save_negatives(path: Path, arrays: Arrays) -> None:
    """Write a state beside a checkpoint's other files, whole or not at all."""
    aside = path.with_name(f".{path.name}.tmp")
    with writing(path.parent):
        aside.write_bytes(pack_arrays(arrays))
        sync_file(aside)
        aside.rename(path)
        sync_folder(path.parent)


def load_negatives(path: Path) -> Arrays:
    """Read what ``save_negatives`` wrote."""
    return unpack_arrays(path.read_bytes())


def _newly_excluded(before: Exclusions | None, now: Exclusions) -> Ids:
    return now.pairs if before is None else np.setdiff1d(now.pairs, before.pairs)


def _without_prefix(prefix: str, arrays: Arrays) -> dict[str, npt.NDArray[Any]]:
    return {
        name.removeprefix(prefix): column
        for name, column in arrays.items()
        if name.startswith(prefix)
    }
