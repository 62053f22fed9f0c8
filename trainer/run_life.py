"""One life of a run in one process: from the newest checkpoint, step by step, to the end.

Training, pre-training and the training of a reranker live it alike; they differ in what a step is:

    life = RunLife(place, settings, pack, TRAIN, say)   # the folder is free, or holds this run
    ...                                                 # load the model from life.start, if there
    life.claim()                                        # settings have raised what they can by now
    life.take_up(steps, trained, engine, write_card)
    life.run(made_ahead(make, life.done, steps), make_step)
"""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np

from catalog.pack import Pack
from trainer import checkpoints, processes
from trainer.checkpoints import Progress, Savable
from trainer.engine import Engine, lr_at
from trainer.metrics import MetricLog
from trainer.model import seed_step
from trainer.negatives import DynamicNegatives
from trainer.run_folder import RunPlace, check_folder, claim_folder, describe_run, record_end
from trainer.run_log import RunLog
from trainer.run_settings import RunSettings

Say = Callable[[str], None]
Made = TypeVar("Made")


@dataclass(frozen=True)
class Stepped:
    """What a step has made: tokens of this process, and what it measured, for when it is told.

    ``measure`` may ask the other processes: all call it at the same steps. ``is_told`` tells of
    the step even between two reports.
    """

    tokens: int
    measure: Callable[[], Mapping[str, float]]
    is_told: bool = False


class RunLife:
    """The loop around the steps: what is told, saved, committed and taken up again."""

    def __init__(
        self, place: RunPlace, settings: RunSettings, pack: Pack, kind: str, say: Say
    ) -> None:
        self.place, self.settings, self.pack, self.say = place, settings, pack, say
        self.record = describe_run(place, settings, pack, kind)
        check_folder(place, self.record)
        self.process, self.processes = processes.rank(), processes.count()
        self.start = checkpoints.newest_checkpoint(place.folder)
        self.steps = self.done = 0

    def claim(self) -> None:
        """Take the folder; before this, settings that raise leave it free for better ones."""
        claim_folder(self.place, self.record)

    def take_up(
        self,
        steps: int,
        trained: Savable,
        engine: Engine,
        write_card: Callable[[Progress], str],
        negatives: DynamicNegatives | None = None,
        events: RunLog | None = None,
    ) -> None:
        """Go on from the newest checkpoint, or begin."""
        self.steps, self.trained, self.engine = steps, trained, engine
        self.write_card, self.negatives = write_card, negatives
        place = self.place
        metrics = MetricLog(place.folder, place.name, place.catalog)
        self.metrics = metrics
        self.logs: Sequence[MetricLog | RunLog] = [metrics] if events is None else [events, metrics]
        self.counts: checkpoints.ProcessCounts = ()
        if self.start is not None:
            self._load(self.start)
        self.counts = checkpoints.note_processes(self.counts, self.done, self.processes)
        if self.process == 0:
            checkpoints.tidy_checkpoints(place.folder, self.settings.keep_checkpoints)
            for log in self.logs:
                log.begin(self.done)

    def run(
        self, updates: Iterable[Made], make_step: Callable[[Made, int, float], Stepped]
    ) -> Path:
        """Make the steps that are left; return the newest checkpoint.

        ``make_step`` is given an update, its step, counted from 0, and its learning rate.
        """
        started, tokens = time.perf_counter(), 0
        for step, update in enumerate(updates, self.done):
            seed_step(self.settings.seed, step, self.process)
            lr = lr_at(step, self.steps, self.settings.optimizer)
            stepped = make_step(update, step, lr)
            self.done = step + 1
            tokens += stepped.tokens
            if stepped.is_told or self._is_turn(self.settings.log_every):
                elapsed = time.perf_counter() - started
                self._report(stepped, lr, tokens / max(elapsed, 1e-9))
                started, tokens = time.perf_counter(), 0
            if self._is_turn(self.settings.checkpoint_every):
                self._save()
        self._finish()
        newest = checkpoints.newest_checkpoint(self.place.folder)
        assert newest is not None
        return newest

    def _is_turn(self, every: int) -> bool:
        return self.done % every == 0 or self.done == self.steps

    def _report(self, stepped: Stepped, lr: float, rate: float) -> None:
        """Measure the step, and tell; ``rate`` is in tokens per second of this process."""
        values = dict(stepped.measure()) | {"lr": lr}
        values["tokens_per_second"] = processes.totals([rate])[0]
        values = {name: float(value) for name, value in values.items() if not np.isnan(value)}
        if self.process == 0:
            self.metrics.append(self.done, values)
            self.say(progress_line(self.done, self.steps, values))

    def _save(self) -> None:
        progress = Progress(self.done, self.pack.manifest.key, self.counts)
        card = ""
        if self.process == 0:
            for log in self.logs:
                log.sync()
            card = self.write_card(progress)
        checkpoints.save_checkpoint(
            self.place.folder, progress, self.trained, self.engine, self.negatives, card
        )
        if self.process == 0:
            self._commit_logs()
            checkpoints.tidy_checkpoints(self.place.folder, self.settings.keep_checkpoints)

    def _commit_logs(self) -> None:
        for log in self.logs:
            log.commit(self.done)

    def _load(self, start: Path) -> None:
        found = checkpoints.load_checkpoint(
            start, self.trained, self.engine, self.negatives, self.pack.manifest.key
        )
        self.done, self.counts = found.step, found.processes
        self.say(f"going on after step {found.step:,} of {self.steps:,}")
        before = found.processes[-1][1]
        if before != self.processes:
            self.say(
                f"the run had {before} processes and has {self.processes} now: the order of the "
                "data goes on, sums are rounded otherwise"
            )

    def _finish(self) -> None:
        """Close what is open, and record the run in the catalog, once."""
        if self.process == 0:
            self._commit_logs()  # the last checkpoint may be of a life that ended right after it
            for log in self.logs:
                log.close()
            record_end(self.place, self.record, self.steps)


def made_ahead(
    make: Callable[[int], Made],
    first: int,
    end: int,
    may_be_ahead: Callable[[int], bool] = lambda step: True,
) -> Iterator[Made]:
    """Yield what is made of the steps [first, end), each made while the one before is computed.

    A step that may not be made ahead is made when the one before it is over.
    """
    with ThreadPoolExecutor(1) as ahead:
        coming: Future[Made] | None = None
        for step in range(first, end):
            made = coming.result() if coming is not None else make(step)
            coming = None
            if step + 1 < end and may_be_ahead(step + 1):
                coming = ahead.submit(make, step + 1)
            yield made


def progress_line(done: int, steps: int, values: Mapping[str, float]) -> str:
    """Write one line about a step, for people."""
    losses = "  ".join(
        f"{name.removeprefix('loss/')} {value:.4f}"
        for name, value in values.items()
        if name.startswith("loss/")
    )
    line = f"step {done:>7,}/{steps:,}  {losses}  lr {values['lr']:.2e}"
    line += f"  {values['tokens_per_second']:,.0f} tokens/s"
    if "negative_score/retrieval" in values:
        line += f"  S {values['negative_score/retrieval']:.3f}"
    if "positive_first/rerank" in values:
        line += f"  positive first {values['positive_first/rerank']:.2f}"
    replaced = values.get("negatives/replaced", 0)
    return line + (f"  replaced {replaced:,.0f}" if replaced else "")
