"""The plan: which pairs are in which batch of which process, a pure function of the step.

A task has an endless sequence of draws; step s takes ``[s * B, (s + 1) * B)`` of it, and every step
takes from every task. A ``Mixture`` says which source a draw is of and the how-many-th of it, and
``Shuffles`` which row that is: epoch after epoch of the source, each row once in each. The number
of processes only decides how a batch is cut. So the state of training's data is one integer.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Literal, get_args

import numpy as np

from catalog.pack import Pack
from trainer.conflicts import identify, move_apart
from trainer.mixture import Mixture
from trainer.permutation import Ids, Nearness, Shuffles
from trainer.sources import SourceRows, list_sources, mixture_weights

Avoid = Literal["nothing", "repeats", "groups"]
BatchBy = Literal["task", "source"]

_EPOCH_SHIFT: Final = 16  # sources of a pack are 16-bit numbers


@dataclass(frozen=True)
class TaskBatches:
    """How the batches of a task are made; ``batch_size`` counts the rows of all processes.

    Sources are mixed in proportion to rows ** (1 / source_temperature), or by ``weights`` where
    there are any. ``batch_by`` source: all rows of a step are of one source, and the sources take
    turns by weight. ``avoid``: which rows a batch does not hold together where that can be had,
    the same pair (repeats), or also pairs of one query or one passage cluster (groups); what
    could not be had is for the loss to mask. ``processes``: how many processes have the task.
    ``shares_queries``: each of them has all rows of the batch, with other negatives of them.
    """

    batch_size: int
    weights: Mapping[str, float] = field(default_factory=dict)
    source_temperature: float = 1.0
    batch_by: BatchBy = "task"
    avoid: Avoid = "groups"
    near: Nearness | None = None  # None: every row of a source may come at any place
    processes: int | Literal["all"] = "all"
    shares_queries: bool = False

    def __post_init__(self) -> None:
        for name, value, allowed in (
            ("batch_by", self.batch_by, get_args(BatchBy)),
            ("avoid", self.avoid, get_args(Avoid)),
        ):
            if value not in allowed:
                raise ValueError(f"{name} is {value!r}; allowed are {', '.join(allowed)}")
        if self.batch_size < 1:
            raise ValueError(f"batch_size is {self.batch_size}; it must be at least 1")
        if not 1 <= self.source_temperature < float("inf"):
            raise ValueError(
                f"source_temperature is {self.source_temperature:g}; it must be at least 1 (in "
                "proportion to the rows), larger is more even"
            )
        if self.weights and self.source_temperature != 1:
            raise ValueError("both weights and source_temperature are set; set one of them")
        if self.processes != "all" and self.processes < 1:
            raise ValueError(f"processes is {self.processes}; give at least 1, or 'all'")


@dataclass(frozen=True)
class PlanSettings:
    """The plan of a run. Rows move apart only within ``look_ahead`` batches."""

    seed: int
    tasks: Mapping[str, TaskBatches]
    look_ahead: int = 8

    def __post_init__(self) -> None:
        if not self.tasks:
            raise ValueError("the plan has no task; give at least one with its batch_size")
        if self.look_ahead < 1:
            raise ValueError(f"look_ahead is {self.look_ahead} batches; it must be at least 1")


class Plan:
    """Rows of every task for every step and process, as positions of pairs in a pack.

    ``selection`` are the positions to train on, ascending (``Pack.select``); all without it.
    """

    def __init__(
        self,
        pack: Pack,
        settings: PlanSettings,
        processes: int = 1,
        selection: Ids | None = None,
    ) -> None:
        self.settings, self.processes = settings, processes
        self.spans = assign_processes(settings.tasks, processes)
        self._tasks = {
            name: _Task(pack, name, settings, list_sources(pack, name, selection))
            for name in settings.tasks
        }

    @property
    def num_rows(self) -> dict[str, int]:
        """How many rows each task has; steps of an epoch are these by the batch size."""
        return {name: task.num_rows for name, task in self._tasks.items()}

    def rows(self, step: int, process: int) -> dict[str, Ids]:
        """Return what a process has of a step: positions, for each task that it works on.

        The rows of a task's processes one after another are the batch; where it cannot be cut
        evenly, some have one row more than others.
        """
        self._check_step(step)
        if not 0 <= process < self.processes:
            raise ValueError(
                f"process {process} is asked for; the plan is for {self.processes}: "
                f"allowed are 0 to {self.processes - 1}"
            )
        return {
            name: self._tasks[name].rows(step, *self._cut(name, process - span.start, len(span)))
            for name, span in self.spans.items()
            if process in span
        }

    def batch(self, step: int) -> dict[str, Ids]:
        """Return the rows of a step for all processes together."""
        self._check_step(step)
        sizes = {name: task.batch_size for name, task in self.settings.tasks.items()}
        return {name: task.rows(step, 0, sizes[name]) for name, task in self._tasks.items()}

    def _cut(self, name: str, place: int, count: int) -> tuple[int, int]:
        task = self.settings.tasks[name]
        if task.shares_queries:
            return 0, task.batch_size
        return task.batch_size * place // count, task.batch_size * (place + 1) // count

    def _check_step(self, step: int) -> None:
        if step < 0:
            raise ValueError(f"step {step} is asked for; steps count from 0")


def assign_processes(tasks: Mapping[str, TaskBatches], processes: int) -> dict[str, range]:
    """Return the processes of each task: those with a number of their own follow each other."""
    spans, end = {}, 0
    for name, task in tasks.items():
        if task.processes == "all":
            spans[name] = range(processes)
        else:
            spans[name] = range(end, end + task.processes)
            end += task.processes
        if len(spans[name]) > task.batch_size and not task.shares_queries:
            raise ValueError(
                f"{name} has batch_size {task.batch_size} and {len(spans[name])} processes: give "
                "each at least one row, raise batch_size or lower processes"
            )
    idle = [p for p in range(processes) if not any(p in span for span in spans.values())]
    if end > processes or idle:
        counts = ", ".join(f"{name} {task.processes}" for name, task in tasks.items())
        raise ValueError(
            f"{processes} processes run and the tasks have: {counts}; the numbers must add up to "
            f"{processes}, or to less where a task has 'all'"
        )
    return spans


class _Task:
    """The batches of one task."""

    def __init__(self, pack: Pack, name: str, settings: PlanSettings, rows: SourceRows) -> None:
        own = settings.tasks[name]
        weights = mixture_weights(name, rows.sizes(), own.weights, own.source_temperature)
        self._pack, self._settings, self._look_ahead = pack, own, settings.look_ahead
        self._source_rows = rows.only(list(weights))
        sizes = self._source_rows.sizes()
        self.num_rows = sum(sizes.values())
        _check_sizes(name, own, sizes, weights)
        self._mixture = Mixture(list(weights.values()))
        names = [f"{name}/{source}" for source in sizes]
        self._shuffles = Shuffles(list(sizes.values()), names, settings.seed, own.near)
        self._blocks: dict[int, tuple[int, Ids]] = {}

    def rows(self, step: int, first: int, end: int) -> Ids:
        """Return the positions at ``[first, end)`` of the step's batch."""
        lane, number = self._lane(step)
        if self._settings.avoid == "nothing":
            start = number * self._settings.batch_size
            return self._draw(lane, np.arange(start + first, start + end))[0]
        block, place = divmod(number, self._look_ahead)
        return self._block(lane, block)[place, first:end]

    def _lane(self, step: int) -> tuple[int, int]:
        """Return which sequence of draws a step is of, and the how-many-th batch of it."""
        if self._settings.batch_by == "task":
            return 0, step
        sources, earlier = self._mixture.split(np.array([step]))
        return int(sources[0]), int(earlier[0])

    def _draw(self, lane: int, draws: Ids) -> tuple[Ids, Ids]:
        """Return the positions of a lane's draws, and their kinds: source and epoch."""
        if self._settings.batch_by == "task":
            sources, earlier = self._mixture.split(draws)
        else:
            sources, earlier = np.full_like(draws, lane), draws
        rows = self._shuffles.rows(sources, earlier)
        epochs = earlier // self._shuffles.sizes[sources]
        return self._source_rows.positions(sources, rows), epochs << _EPOCH_SHIFT | sources

    def _block(self, lane: int, block: int) -> Ids:
        """Return ``look_ahead`` batches with conflicts moved apart; the last block is kept.

        Rows change places only within one source and epoch, so an epoch still has each row once.
        """
        held = self._blocks.get(lane)
        if held is not None and held[0] == block:
            return held[1]
        size = self._settings.batch_size
        first = block * self._look_ahead * size
        positions, kinds = self._draw(lane, np.arange(first, first + self._look_ahead * size))
        if self._settings.avoid == "repeats":
            taken = move_apart(positions, positions, kinds, size)
        else:
            found = identify(self._pack, positions)
            taken = move_apart(found.query, found.cluster, kinds, size)
        batches = positions[taken].reshape(self._look_ahead, size)
        batches.flags.writeable = False  # callers get views of what is kept
        self._blocks[lane] = (block, batches)
        return batches


def _check_sizes(
    name: str, own: TaskBatches, sizes: Mapping[str, int], weights: Mapping[str, int]
) -> None:
    """Refuse batches that would have to hold a row twice."""
    total = sum(weights.values())
    for source, rows in sizes.items():
        share = 1.0 if own.batch_by == "source" else weights[source] / total
        if own.batch_size * share > rows:
            raise ValueError(
                f"{name}: a batch of {own.batch_size} takes {own.batch_size * share:.1f} rows of "
                f"source {source!r}, which has {rows}: it would hold a row twice; lower "
                "batch_size or the source's weight, or leave the source out"
            )
