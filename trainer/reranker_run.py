"""A reranker's run: from a mined snapshot to checkpoints that CrossEncoder loads, and metrics.

    train_reranker(RunPlace(Path("runs/r"), catalog, load_snapshot(catalog, "v1")), settings)

The same call again goes on from the newest checkpoint, with the same lists and losses.
"""

import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from catalog.errors import CatalogError
from catalog.pack import Pack
from catalog.pack.layout import Ids
from trainer import checkpoints, processes
from trainer.batches import Plan
from trainer.checkpoints import Progress
from trainer.engine import lr_at, make_engine
from trainer.metrics import MetricLog
from trainer.model import seed_step
from trainer.reranker import Reranker
from trainer.reranker_card import write_reranker_card
from trainer.reranker_settings import TASK, RerankSettings
from trainer.reranker_step import RerankResult, rerank_step
from trainer.reranker_updates import RerankUpdate, RerankUpdateMaker, trainable_pairs
from trainer.run import Say, open_pack, progress_line
from trainer.run_folder import (
    RunPlace,
    check_folder,
    claim_folder,
    describe_run,
    record_end,
)
from trainer.run_record import RERANK


def train_reranker(place: RunPlace, settings: RerankSettings, say: Say = lambda line: None) -> Path:
    """Train to the end, from wherever the run is; return the newest checkpoint."""
    with processes.joined(settings.engine):
        precision = processes.choose_precision(settings.precision)
        settings = replace(settings, precision=precision)
        pack = open_pack(place, True, say)
        return RerankSession(place, settings, pack, say).run()


class RerankSession:
    """One life of a reranker's run in one process: everything that the loop needs, opened."""

    def __init__(self, place: RunPlace, settings: RerankSettings, pack: Pack, say: Say) -> None:
        self.place, self.settings, self.pack, self.say = place, settings, pack, say
        self.record = {**describe_run(place, settings, pack), "kind": RERANK}
        check_folder(place, self.record)
        self.process, self.processes = processes.rank(), processes.count()
        self.plan = Plan(pack, settings.plan(), self.processes, find_pairs(place, settings, pack))
        rows = self.plan.num_rows[TASK]
        self.steps = settings.steps or max(1, round(settings.epochs * rows / settings.batch))
        self.start = checkpoints.newest_checkpoint(place.folder)
        base = settings.base if self.start is None else str(self.start)
        self.model = Reranker(base, settings.max_tokens, settings.seed, settings.precision)
        self.model.to(processes.device())
        self.engine = make_engine(settings.engine, self.model, settings.optimizer)
        # What settings can get wrong has raised by now: the folder stays free for better ones.
        claim_folder(place, self.record)
        self.maker = RerankUpdateMaker(settings, pack, self.plan, self.model.tokenize, self.process)
        self.metrics = MetricLog(place.folder, place.name, place.catalog)
        self.done = 0
        self.counts: checkpoints.ProcessCounts = ()
        self._take_up()

    def run(self) -> Path:
        """Make the steps that are left."""
        started, tokens = time.perf_counter(), 0
        for update in self._updates():
            step = update.step
            seed_step(self.settings.seed, step, self.process)
            lr = lr_at(step, self.steps, self.settings.optimizer)
            result = rerank_step(self.model, self.engine, update, lr, self.settings)
            self.done = step + 1
            tokens += result.tokens
            is_last = self.done == self.steps
            if self.done % self.settings.log_every == 0 or is_last:
                elapsed = time.perf_counter() - started
                self._report(result, lr, tokens / max(elapsed, 1e-9))
                started, tokens = time.perf_counter(), 0
            if self.done % self.settings.checkpoint_every == 0 or is_last:
                self._save()
        newest = checkpoints.newest_checkpoint(self.place.folder)
        assert newest is not None
        self._finish()
        return newest

    def _updates(self) -> Iterator[RerankUpdate]:
        """Yield the updates that are left, each made while the one before is computed."""
        with ThreadPoolExecutor(1) as ahead:
            coming: Future[RerankUpdate] | None = None
            for step in range(self.done, self.steps):
                update = coming.result() if coming is not None else self.maker.make(step)
                coming = ahead.submit(self.maker.make, step + 1) if step + 1 < self.steps else None
                yield update

    def _report(self, result: RerankResult, lr: float, rate: float) -> None:
        """Tell of the step; ``rate`` is in tokens per second of this process."""
        values = {**result.values, "lr": lr, "gradient_norm": result.gradient_norm}
        values["tokens_per_second"] = processes.totals([rate])[0]
        if self.process == 0:
            self.metrics.append(self.done, values)
            first = values["positive_first/rerank"]
            self.say(f"{progress_line(self.done, self.steps, values)}  positive first {first:.2f}")

    def _save(self) -> None:
        progress = Progress(self.done, self.pack.manifest.key, self.counts)
        card = ""
        if self.process == 0:
            self.metrics.sync()
            card = write_reranker_card(self.place, self.settings, self.pack, progress, self.steps)
        checkpoints.save_checkpoint(
            self.place.folder, progress, self.model, self.engine, None, card
        )
        if self.process == 0:
            self.metrics.commit(self.done)
            checkpoints.tidy_checkpoints(self.place.folder, self.settings.keep_checkpoints)

    def _take_up(self) -> None:
        """Go on from the newest checkpoint, or begin."""
        if self.start is not None:
            key = self.pack.manifest.key
            found = checkpoints.load_checkpoint(self.start, self.model, self.engine, None, key)
            self.done, self.counts = found.step, found.processes
            self.say(f"going on after step {found.step:,} of {self.steps:,}")
        self.counts = checkpoints.note_processes(self.counts, self.done, self.processes)
        if self.process == 0:
            checkpoints.tidy_checkpoints(self.place.folder, self.settings.keep_checkpoints)
            self.metrics.begin(self.done)

    def _finish(self) -> None:
        """Close what is open, and record the run in the catalog, once."""
        if self.process == 0:
            # The last checkpoint may be of a life that ended right after it.
            self.metrics.commit(self.done)
            self.metrics.close()
            record_end(self.place, self.record, self.steps)


def find_pairs(place: RunPlace, settings: RerankSettings, pack: Pack) -> Ids:
    """Return the pairs to train on; CatalogError where there is nothing to rank."""
    if TASK not in pack.manifest.tasks:
        raise CatalogError(f"snapshot {place.snapshot.name} has no pair of {TASK} to rerank")
    if not pack.has_candidates:
        raise CatalogError(
            f"a reranker learns from mined candidates, and snapshot {place.snapshot.name} has "
            f"none; first: lode mine {place.snapshot.name}"
        )
    found = trainable_pairs(pack, settings)
    if not len(found):
        raise CatalogError(
            f"no query of snapshot {place.snapshot.name} has a kept candidate at ranks "
            f"{list(settings.candidate_ranks)}; lower candidate_ranks, or mine deeper"
        )
    return found
