"""A training run: from a snapshot and settings to checkpoints, metrics and events.

    train(RunPlace(Path("runs/a"), catalog, load_snapshot(catalog, "v1")), settings)

The same call again goes on from the newest checkpoint, with the same batches, losses and windows.
"""

import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Final

import numpy as np
import torch

from catalog.mining_runs import choose_run
from catalog.pack import NONE, Pack, PackSettings, build_pack
from catalog.pack.layout import Rows
from trainer import checkpoints, processes
from trainer.batches import Plan
from trainer.cards import write_card
from trainer.checkpoints import Progress
from trainer.cosines import normalize
from trainer.engine import NotFiniteError, lr_at, make_engine
from trainer.live_candidates import LiveCandidates
from trainer.metrics import MetricLog
from trainer.model import EmbeddingModel, seed_step
from trainer.negatives import Checked, DynamicNegatives
from trainer.run_folder import (
    RunPlace,
    check_folder,
    claim_folder,
    describe_run,
    record_end,
)
from trainer.run_log import RunLog
from trainer.run_record import find_record
from trainer.settings import ContrastiveTask, TrainSettings
from trainer.step import StepResult, Trained, train_step
from trainer.task_losses import TaskLosses
from trainer.updates import Update, UpdateMaker

PACKS: Final = "packs"
Say = Callable[[str], None]


def train(place: RunPlace, settings: TrainSettings, say: Say = lambda line: None) -> Path:
    """Train to the end, from wherever the run is; return the newest checkpoint."""
    with processes.joined(settings.engine):
        session = Session.open(place, settings, say)
        return session.run()


class Session:
    """One life of a run in one process: everything that the loop needs, opened."""

    def __init__(self, place: RunPlace, settings: TrainSettings, pack: Pack, say: Say) -> None:
        self.place, self.settings, self.pack, self.say = place, settings, pack, say
        self.record = describe_run(place, settings, pack)
        check_folder(place, self.record)
        self.process, self.processes = processes.rank(), processes.count()
        self.plan = Plan(pack, settings.plan(), self.processes)
        self.steps = settings.steps or count_steps(settings, self.plan)
        self.start = checkpoints.newest_checkpoint(place.folder)
        self.trained = self._load_model()
        self.engine = make_engine(settings.engine, self.trained, settings.optimizer)
        # What settings can get wrong has raised by now: the folder stays free for better ones.
        claim_folder(place, self.record)
        self.live: LiveCandidates | None = None
        self.negatives = self._make_negatives()
        model = self.trained.model
        self.maker = UpdateMaker(
            settings, pack, self.plan, model.tokenize,
            {side: model.prompt(side) for side in ("query", "passage")},
            self.process, self.negatives,
        )  # fmt: skip
        self.metrics = MetricLog(place.folder, place.name, place.catalog)
        self.events = RunLog(place.folder / "log", place.name, place.catalog, "train_events")
        self.done = 0
        self.counts: checkpoints.ProcessCounts = ()

    @classmethod
    def open(cls, place: RunPlace, settings: TrainSettings, say: Say) -> "Session":
        """Build or open the pack, load the model, and take up the newest checkpoint."""
        settings = replace(settings, precision=processes.choose_precision(settings.precision))
        wants_mined = settings.retrieval is not None and settings.retrieval.hard_negatives
        pack = open_pack(place, wants_mined, say)
        session = cls(place, settings, pack, say)
        session._take_up()
        return session

    def run(self) -> Path:
        """Make the steps that are left."""
        started, tokens = time.perf_counter(), 0
        for update in self._updates():
            step = update.step
            seed_step(self.settings.seed, step, self.process)
            lr = lr_at(step, self.steps, self.settings.optimizer)
            result = train_step(self.trained, self.engine, update, lr, cached=self.settings.cached)
            self.done = step + 1
            checked = self._observe(update)
            tokens += result.tokens
            if self.done % self.settings.log_every == 0 or checked or self.done == self.steps:
                elapsed = time.perf_counter() - started
                self._report(result, lr, tokens / max(elapsed, 1e-9), checked)
                started, tokens = time.perf_counter(), 0
            if self.done % self.settings.checkpoint_every == 0 or self.done == self.steps:
                self._save()
        newest = checkpoints.newest_checkpoint(self.place.folder)
        assert newest is not None
        self._finish()
        return newest

    def _updates(self) -> Iterator[Update]:
        """Yield the updates that are left, each made while the one before is computed.

        Past a check the negatives may be others, so none is made ahead of one.
        """
        with ThreadPoolExecutor(1) as ahead:
            coming: Future[Update] | None = None
            for step in range(self.done, self.steps):
                update = coming.result() if coming is not None else self.maker.make(step)
                coming = None
                if step + 1 < self.steps and not self._is_check(step + 1):
                    coming = ahead.submit(self.maker.make, step + 1)
                yield update

    def _is_check(self, done: int) -> bool:
        every = self.settings.negatives.check_every_steps
        return self.negatives is not None and done % every == 0

    def _observe(self, update: Update) -> Checked | None:
        if self.negatives is None:
            return None
        rows, scores = update.tasks.get("retrieval"), self.trained.losses.scores.get("retrieval")
        if rows is not None and scores is not None:
            own = np.where(rows.is_mined, scores.negatives, np.float32(np.nan))
            self.negatives.observe(self.done, rows.positions, own)
        checked = self.negatives.check(self.done)
        if checked is not None and self.process == 0:
            self.events.append(checked.events)
        return checked

    def _report(self, result: StepResult, lr: float, rate: float, checked: Checked | None) -> None:
        """Measure the step, and tell; ``rate`` is in tokens per second of this process."""
        values = {f"loss/{name}": value for name, value in result.losses.items()}
        values |= {"lr": lr, "gradient_norm": result.gradient_norm}
        values |= {"tokens_per_second": processes.totals([rate])[0], **self._mean_scores()}
        if checked is not None:
            values |= {f"negatives/{reason}": n for reason, n in checked.counts.items()}
        values = {name: float(value) for name, value in values.items() if not np.isnan(value)}
        if self.process == 0:
            self.metrics.append(self.done, values)
            self.say(progress_line(self.done, self.steps, values))

    def _mean_scores(self) -> dict[str, float]:
        """Return the mean scores of positives and own negatives over all processes; NaN: none."""
        names, sums = [], []
        for task, kind in self.settings.tasks.items():
            if isinstance(kind, ContrastiveTask):
                names += [f"positive_score/{task}", f"negative_score/{task}"]
                found = self.trained.losses.scores.get(task)
                both = (found.positives, found.negatives) if found else (None, None)
                sums += [number for scores in both for number in _sum(scores)]
        sums = processes.totals(sums)
        pairs = zip(names, sums[::2], sums[1::2], strict=True)
        return {name: total / count if count else float("nan") for name, total, count in pairs}

    def _save(self) -> None:
        progress = Progress(self.done, self.pack.manifest.key, self.counts)
        card = ""
        if self.process == 0:
            self.events.sync()
            self.metrics.sync()
            card = write_card(self.place, self.settings, self.pack, progress, self.steps)
        checkpoints.save_checkpoint(
            self.place.folder, progress, self.trained, self.engine, self.negatives, card
        )
        if self.process == 0:
            self._commit_logs()
            checkpoints.tidy_checkpoints(self.place.folder, self.settings.keep_checkpoints)

    def _commit_logs(self) -> None:
        self.events.commit(self.done)
        self.metrics.commit(self.done)

    def _take_up(self) -> None:
        """Go on from the newest checkpoint, or begin."""
        if self.start is not None:
            found = checkpoints.load_checkpoint(
                self.start, self.trained, self.engine, self.negatives, self.pack.manifest.key
            )
            self.done, self.counts = found.step, found.processes
            self.say(f"going on after step {found.step:,} of {self.steps:,}")
            if found.processes[-1][1] != self.processes:
                self.say(
                    f"the run had {found.processes[-1][1]} processes and has {self.processes} now: "
                    "the order of the data goes on, sums are rounded otherwise"
                )
        self.counts = checkpoints.note_processes(self.counts, self.done, self.processes)
        if self.process == 0:
            checkpoints.tidy_checkpoints(self.place.folder, self.settings.keep_checkpoints)
            self.events.begin(self.done)
            self.metrics.begin(self.done)

    def _load_model(self) -> Trained:
        model = self.settings.model
        if self.start is not None:
            # The folder has the head and the prompts already.
            model = replace(model, base=str(self.start), head_width=None, pooling=None)
        loaded = EmbeddingModel(
            model, self.settings.seed, self.settings.precision, self.settings.batch_tokens
        )
        if max(self.settings.widths, default=1) > loaded.width:
            raise ValueError(
                f"widths go up to {max(self.settings.widths)}, the model's vectors are "
                f"{loaded.width} wide; leave the greater ones out, or set head_width in [model]"
            )
        loaded.task_prompts = self.settings.task_prompts()
        groups = processes.task_groups(self.plan.spans)
        losses = TaskLosses(self.settings, self.processes, groups)
        return Trained(loaded, losses).to(processes.device())

    def _make_negatives(self) -> DynamicNegatives | None:
        task = self.settings.retrieval
        if task is not None and task.distillation and not self.pack.has_candidates:
            raise ValueError(
                f"distillation learns from the scores of mined candidates, and snapshot "
                f"{self.place.snapshot.name} has none: lode mine it, or set distillation = 0"
            )
        if task is None or not task.hard_negatives or not self.pack.has_candidates:
            return None
        if self.settings.live and self.process == 0:
            self.live = LiveCandidates(
                self.place.catalog, self.pack, self.place.snapshot, self.place.folder / "live"
            )
        return DynamicNegatives(
            self.pack, self.settings.negatives, self.place.name,
            gather=processes.gather_bytes, score=self._score, live=self.live,
        )  # fmt: skip

    @torch.no_grad()
    def _score(self, queries: Rows, passages: Rows) -> np.ndarray:
        """Score passages [m, k] of queries [m] by the model as it is now."""
        model = self.trained.model
        flat = np.where(passages == NONE, passages[:, :1], passages).reshape(-1)
        unique, places = np.unique(flat, return_inverse=True)
        sides = {"query": queries, "passage": unique}
        own = self.settings.task_prompts()
        prompts = {
            "query": own.get("retrieval", model.prompt("query")),
            "passage": own.get("retrieval-document", model.prompt("passage")),
        }
        model.eval()
        query_MD, passage_UD = (
            normalize(model(model.tokenize(
                [prompts[side] + text for text in self.pack.texts(side, rows)]
            ))) for side, rows in sides.items()
        )  # fmt: skip
        model.train()
        lists_MKD = passage_UD[torch.from_numpy(places).to(passage_UD.device)].view(
            *passages.shape, -1
        )
        scores = (lists_MKD @ query_MD[:, :, None])[..., 0].float().cpu().numpy()
        return processes.from_first(scores)

    def _finish(self) -> None:
        """Close what is open, and record the run in the catalog, once."""
        if self.live is not None:
            self.live.close()
        if self.process == 0:
            self._commit_logs()  # the last checkpoint may be of a life that ended right after it
            self.events.close()
            self.metrics.close()
            record_end(self.place, self.record, self.steps)


def open_pack(place: RunPlace, wants_mined: bool, say: Say) -> Pack:
    """Build the snapshot's pack, or open it where it is there already."""
    began = find_record(place.folder)
    mined: str | None = None
    if began is not None and place.candidates_run is None:
        mined = began["candidates_run"]  # the newest may be another by now
    elif wants_mined:
        with place.catalog.reader() as connection:
            chosen = choose_run(connection, place.snapshot, place.candidates_run)
        mined = chosen.run_id if chosen else None
    folder = place.pack_folder or pack_folder(place, mined)
    say(f"pack {folder}" + (f" with candidates of {mined}" if mined else " without candidates"))
    return build_pack(place.catalog, place.snapshot, folder, PackSettings(candidates_run=mined))


def progress_line(done: int, steps: int, values: dict[str, float]) -> str:
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
    replaced = sum(value for name, value in values.items() if name == "negatives/replaced")
    return line + (f"  replaced {replaced:,.0f}" if replaced else "")


def count_steps(settings: TrainSettings, plan: Plan) -> int:
    """Count the steps of the epochs of the task that takes longest."""
    turns = len(plan.num_rows) if settings.tasks_per_update == "one" else 1
    return turns * max(
        1,
        *(
            round(settings.epochs * rows / settings.tasks[name].batch)
            for name, rows in plan.num_rows.items()
        ),
    )


def pack_folder(place: RunPlace, mined: str | None) -> Path:
    """Return where the pack of a run is, with the candidates of a mining run or without."""
    work = Path(os.environ.get("LODE_PACKS") or place.catalog.location.work / PACKS)
    return work / f"{place.snapshot.name}-{mined or 'plain'}"


def _sum(scores: np.ndarray | None) -> tuple[float, float]:
    """Return the sum of scores and how many there are; NaN is none."""
    if scores is None:
        return 0.0, 0.0
    there = scores[~np.isnan(scores)]
    return float(there.sum(dtype=np.float64)), float(there.size)


__all__ = ["NotFiniteError", "RunPlace", "Session", "train"]
