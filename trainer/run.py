"""A training run: from a snapshot and settings to checkpoints, metrics and events.

    train(RunPlace(Path("runs/a"), catalog, load_snapshot(catalog, "v1")), settings)

The same call again goes on from the newest checkpoint, with the same batches, losses and windows.
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from catalog.pack import Pack
from trainer import processes
from trainer.batches import Plan
from trainer.cards import write_card
from trainer.engine import NotFiniteError, make_engine
from trainer.live_candidates import LiveCandidates
from trainer.live_scores import LiveScores
from trainer.model import EmbeddingModel
from trainer.negatives import Checked, DynamicNegatives
from trainer.run_folder import RunPlace
from trainer.run_life import RunLife, Say, Stepped, made_ahead
from trainer.run_log import RunLog
from trainer.run_pack import open_pack
from trainer.run_record import TRAIN
from trainer.settings import ContrastiveTask, TrainSettings
from trainer.step import StepResult, Trained, train_step
from trainer.task_losses import TaskLosses
from trainer.updates import Update, UpdateMaker


def train(place: RunPlace, settings: TrainSettings, say: Say = lambda line: None) -> Path:
    """Train to the end, from wherever the run is; return the newest checkpoint."""
    with processes.joined(settings.engine):
        return Session.open(place, settings, say).run()


class Session:
    """One life of a run in one process: everything that a step needs, opened."""

    def __init__(self, place: RunPlace, settings: TrainSettings, pack: Pack, say: Say) -> None:
        self.place, self.settings, self.pack = place, settings, pack
        self.life = RunLife(place, settings, pack, TRAIN, say)
        self.plan = Plan(pack, settings.plan(), self.life.processes)
        self.steps = settings.steps or count_steps(settings, self.plan)
        self.trained = self._load_model()
        self.engine = make_engine(settings.engine, self.trained, settings.optimizer)
        self.life.claim()
        self.live: LiveCandidates | None = None
        self.negatives = self._make_negatives()
        model = self.trained.model
        self.maker = UpdateMaker(
            settings, pack, self.plan, model.tokenize,
            {side: model.prompt(side) for side in ("query", "passage")},
            self.life.process, self.negatives,
        )  # fmt: skip
        self.events = RunLog(place.folder / "log", place.name, place.catalog, "train_events")
        self.life.take_up(
            self.steps, self.trained, self.engine,
            lambda progress: write_card(place, settings, pack, progress, self.steps),
            self.negatives, self.events,
        )  # fmt: skip

    @classmethod
    def open(cls, place: RunPlace, settings: TrainSettings, say: Say) -> "Session":
        """Build or open the pack, load the model, and take up the newest checkpoint."""
        settings = replace(settings, precision=processes.choose_precision(settings.precision))
        wants_mined = settings.retrieval is not None and settings.retrieval.hard_negatives
        return cls(place, settings, open_pack(place, wants_mined, say), say)

    def run(self) -> Path:
        """Make the steps that are left."""
        newest = self.life.run(self._updates(), self._make_step)
        if self.live is not None:
            self.live.close()
        return newest

    def _updates(self) -> Iterator[Update]:
        """Yield the updates that are left.

        Past a check the negatives may be others, so none is made ahead of one.
        """
        every = self.settings.negatives.check_every_steps
        return made_ahead(
            self.maker.make, self.life.done, self.steps,
            lambda step: self.negatives is None or step % every != 0,
        )  # fmt: skip

    def _make_step(self, update: Update, step: int, lr: float) -> Stepped:
        result = train_step(self.trained, self.engine, update, lr, cached=self.settings.cached)
        checked = self._observe(update, step + 1)
        return Stepped(
            result.tokens, lambda: self._measure(result, checked), is_told=checked is not None
        )

    def _observe(self, update: Update, done: int) -> Checked | None:
        """Give the negatives their scores, and let them check at the steps where they do."""
        if self.negatives is None:
            return None
        rows, scores = update.tasks.get("retrieval"), self.trained.losses.scores.get("retrieval")
        if rows is not None and scores is not None:
            own = np.where(rows.is_mined, scores.negatives, np.float32(np.nan))
            self.negatives.observe(done, rows.positions, own)
        checked = self.negatives.check(done)
        if checked is not None and self.life.process == 0:
            self.events.append(checked.events)
        return checked

    def _measure(self, result: StepResult, checked: Checked | None) -> Mapping[str, float]:
        values = {f"loss/{name}": value for name, value in result.losses.items()}
        values |= {"gradient_norm": result.gradient_norm, **self._mean_scores()}
        if checked is not None:
            values |= {f"negatives/{reason}": n for reason, n in checked.counts.items()}
        return values

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

    def _load_model(self) -> Trained:
        model = self.settings.model
        if self.life.start is not None:
            # The folder has the head and the prompts already.
            model = replace(model, base=str(self.life.start), head_width=None, pooling=None)
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
        losses = TaskLosses(self.settings, self.life.processes, groups)
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
        if self.settings.live and self.life.process == 0:
            self.live = LiveCandidates(
                self.place.catalog, self.pack, self.place.snapshot, self.place.folder / "live"
            )
        return DynamicNegatives(
            self.pack, self.settings.negatives, self.place.name,
            gather=processes.gather_bytes, live=self.live,
            score=LiveScores(self.trained.model, self.pack, self.settings.task_prompts()),
        )  # fmt: skip


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


def _sum(scores: np.ndarray | None) -> tuple[float, float]:
    """Return the sum of scores and how many there are; NaN is none."""
    if scores is None:
        return 0.0, 0.0
    there = scores[~np.isnan(scores)]
    return float(there.sum(dtype=np.float64)), float(there.size)


__all__ = ["NotFiniteError", "RunPlace", "Session", "train"]
