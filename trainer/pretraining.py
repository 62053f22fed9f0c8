"""A run of pre-training: RetroMAE on the plain passages of a snapshot.

    pretrain(RunPlace(Path("runs/pre"), catalog, load_snapshot(catalog, "v1")), settings)

The same call again goes on from the newest checkpoint, with the same passages, masks and losses.
Its checkpoints are ordinary encoders: decoder and prediction head stay in ``training/``.
"""

import math
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from torch import nn

from catalog.pack import Pack
from trainer import processes
from trainer.cards import write_pretraining_card
from trainer.engine import Engine, NotFiniteError, make_engine
from trainer.masked_texts import MaskedTexts, Masker
from trainer.model import EmbeddingModel
from trainer.model_export import save_model
from trainer.permutation import Ids, Nearness, Shuffles
from trainer.pretrain_settings import PretrainSettings
from trainer.retromae import RetroMae
from trainer.run_folder import RunPlace
from trainer.run_life import RunLife, Say, Stepped, made_ahead
from trainer.run_pack import open_pack
from trainer.run_record import PRETRAIN


def pretrain(place: RunPlace, settings: PretrainSettings, say: Say = lambda line: None) -> Path:
    """Pre-train to the end, from wherever the run is; return the newest checkpoint."""
    with processes.joined(settings.engine):
        settings = replace(settings, precision=processes.choose_precision(settings.precision))
        return Pretraining(place, settings, open_pack(place, False, say), say).run()


class Pretrained(nn.Module):
    """What is trained: the encoder, and RetroMAE's decoder and prediction head."""

    def __init__(self, model: EmbeddingModel, losses: RetroMae) -> None:
        super().__init__()
        self.model, self.losses = model, losses

    def save_model(self, folder: Path, card: str) -> None:
        """Write the encoder alone: the decoder stays with the state of the training."""
        save_model(self.model, folder, card)


@dataclass(frozen=True)
class StepResult:
    """What a step says of itself: losses over all processes, and the norm of the gradient."""

    encoder: float  # mean over masked tokens; NaN where none was masked
    decoder: float  # mean over all tokens of the passages
    gradient_norm: float
    tokens: int  # of this process

    def values(self) -> dict[str, float]:
        """Return what is measured, by the names of metrics."""
        losses = {"loss/encoder": self.encoder, "loss/decoder": self.decoder}
        return {**losses, "gradient_norm": self.gradient_norm}


def pretrain_step(
    trained: Pretrained, engine: Engine, masked: MaskedTexts, lr: float
) -> StepResult:
    """Make one update; raise NotFiniteError, and change nothing, where a loss is no number.

    Losses are sums over tokens, so micro-batches go backward one by one, and what they are divided
    by counts the tokens of all processes: the gradient is that of one big batch.
    """
    model = trained.model
    num_masked, num_tokens = processes.totals(
        [float(masked.is_masked.sum()), float(masked.is_content.sum())]
    )
    num_masked, num_tokens = max(num_masked, 1.0), max(num_tokens, 1.0)
    encoder_sum = decoder_sum = 0.0
    with engine.accumulating():
        for rows in model.micro_batches(masked.texts):
            sums = trained.losses(model, masked.take(rows))
            loss = sums.encoder / num_masked + sums.decoder / num_tokens
            engine.backward(loss * processes.count())
            encoder_sum += float(sums.encoder.detach())
            decoder_sum += float(sums.decoder.detach())
    encoder, decoder = processes.totals([encoder_sum / num_masked, decoder_sum / num_tokens])
    if not math.isfinite(encoder + decoder):
        raise NotFiniteError(
            f"the losses are {encoder} (encoder) and {decoder} (decoder); the last checkpoint is "
            "good: lower lr, or train in float32"
        )
    return StepResult(encoder, decoder, engine.step(lr), len(masked.texts.tokens))


class PassagePlan:
    """Which passages of a pack are in which batch of which process; its state is the step alone."""

    def __init__(self, passages: int, settings: PretrainSettings) -> None:
        if settings.batch > passages:
            raise ValueError(
                f"batch is {settings.batch} and the snapshot has {passages} passages: a batch "
                "would hold one twice; lower batch"
            )
        self.batch = settings.batch
        near = Nearness() if settings.nearby else None
        self.shuffles = Shuffles([passages], ["passages"], settings.seed, near)

    def rows(self, step: int, process: int, count: int) -> Ids:
        """Return the passages of a process in a step; those of all processes are the batch."""
        first, end = (self.batch * place // count for place in (process, process + 1))
        positions = step * self.batch + np.arange(first, end)
        return self.shuffles.rows(np.zeros_like(positions), positions)


class Pretraining:
    """One life of a run in one process: everything that a step needs, opened."""

    def __init__(self, place: RunPlace, settings: PretrainSettings, pack: Pack, say: Say) -> None:
        self.settings, self.pack = settings, pack
        self.life = life = RunLife(place, settings, pack, PRETRAIN, say)
        passages = pack.num_texts("passage")
        self.plan = PassagePlan(passages, settings)
        self.steps = settings.count_steps(passages)
        if life.processes > settings.batch:
            raise ValueError(
                f"batch is {settings.batch} and there are {life.processes} processes; give each at "
                "least one passage"
            )
        self.trained = self._load_model(life.start)
        model = self.trained.model
        self.masker = Masker(model.tokenizer, model.folder.max_tokens, settings.mask, settings.seed)
        self.engine = make_engine(settings.engine, self.trained, settings.optimizer)
        life.claim()
        if life.start is None and not self.trained.losses.has_published_head:
            say(f"{settings.model.base} has no prediction head; a new one is trained")
        life.take_up(
            self.steps, self.trained, self.engine,
            lambda progress: write_pretraining_card(place, settings, pack, progress, self.steps),
        )  # fmt: skip

    def run(self) -> Path:
        """Make the steps that are left."""
        return self.life.run(made_ahead(self._make, self.life.done, self.steps), self._make_step)

    def _make(self, step: int) -> MaskedTexts:
        rows = self.plan.rows(step, self.life.process, self.life.processes)
        return self.masker.mask(self.pack.texts("passage", rows), rows, step)

    def _make_step(self, masked: MaskedTexts, step: int, lr: float) -> Stepped:
        result = pretrain_step(self.trained, self.engine, masked, lr)
        return Stepped(result.tokens, result.values)

    def _load_model(self, start: Path | None) -> Pretrained:
        settings, model = self.settings, self.settings.model
        if start is not None:
            model = replace(model, base=str(start), pooling=None)
        loaded = EmbeddingModel(model, settings.seed, settings.precision, settings.batch_tokens)
        return Pretrained(loaded, RetroMae(loaded, settings.seed)).to(processes.device())
