"""A run of pre-training: RetroMAE on the plain passages of a snapshot.

    pretrain(RunPlace(Path("runs/pre"), catalog, load_snapshot(catalog, "v1")), settings)

The same call again goes on from the newest checkpoint, with the same passages, masks and losses.
Its checkpoints are ordinary encoders: decoder and prediction head stay in ``training/``.
"""

import math
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from torch import nn

from catalog.pack import Pack, PackSettings, build_pack
from trainer import checkpoints, processes
from trainer.cards import write_pretraining_card
from trainer.checkpoints import Progress
from trainer.engine import Engine, NotFiniteError, lr_at, make_engine
from trainer.masked_texts import MaskedTexts, Masker
from trainer.metrics import MetricLog
from trainer.model import EmbeddingModel, seed_step
from trainer.model_export import save_model
from trainer.permutation import Ids, Nearness, Shuffles
from trainer.pretrain_settings import PretrainSettings
from trainer.retromae import RetroMae
from trainer.run import Say, pack_folder, progress_line
from trainer.run_folder import RunPlace, check_folder, claim_folder, describe_run, record_end
from trainer.run_record import PRETRAIN


def pretrain(place: RunPlace, settings: PretrainSettings, say: Say = lambda line: None) -> Path:
    """Pre-train to the end, from wherever the run is; return the newest checkpoint."""
    with processes.joined(settings.engine):
        settings = replace(settings, precision=processes.choose_precision(settings.precision))
        return Pretraining(place, settings, open_plain_pack(place, say), say).run()


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
    """One life of a run in one process: everything that the loop needs, opened."""

    def __init__(self, place: RunPlace, settings: PretrainSettings, pack: Pack, say: Say) -> None:
        self.place, self.settings, self.pack, self.say = place, settings, pack, say
        self.record = {**describe_run(place, settings, pack), "kind": PRETRAIN}
        check_folder(place, self.record)
        self.process, self.processes = processes.rank(), processes.count()
        passages = pack.num_texts("passage")
        self.plan = PassagePlan(passages, settings)
        self.steps = settings.count_steps(passages)
        if self.processes > settings.batch:
            raise ValueError(
                f"batch is {settings.batch} and there are {self.processes} processes; give each at "
                "least one passage"
            )
        self.start = checkpoints.newest_checkpoint(place.folder)
        self.trained = self._load_model()
        model = self.trained.model
        self.masker = Masker(model.tokenizer, model.folder.max_tokens, settings.mask, settings.seed)
        self.engine = make_engine(settings.engine, self.trained, settings.optimizer)
        # What settings can get wrong has raised by now: the folder stays free for better ones.
        claim_folder(place, self.record)
        self.metrics = MetricLog(place.folder, place.name, place.catalog)
        self.done = 0
        self.counts: checkpoints.ProcessCounts = ()
        self._take_up()

    def run(self) -> Path:
        """Make the steps that are left."""
        started, tokens = time.perf_counter(), 0
        for step, masked in self._batches():
            seed_step(self.settings.seed, step, self.process)
            lr = lr_at(step, self.steps, self.settings.optimizer)
            result = pretrain_step(self.trained, self.engine, masked, lr)
            self.done = step + 1
            tokens += result.tokens
            if self.done % self.settings.log_every == 0 or self.done == self.steps:
                elapsed = time.perf_counter() - started
                self._report(result, lr, tokens / max(elapsed, 1e-9))
                started, tokens = time.perf_counter(), 0
            if self.done % self.settings.checkpoint_every == 0 or self.done == self.steps:
                self._save()
        newest = checkpoints.newest_checkpoint(self.place.folder)
        assert newest is not None
        self._finish()
        return newest

    def _batches(self) -> Iterator[tuple[int, MaskedTexts]]:
        """Yield the steps that are left with their texts, each made while the one before runs."""
        with ThreadPoolExecutor(1) as ahead:
            coming = ahead.submit(self._make, self.done)
            for step in range(self.done, self.steps):
                masked = coming.result()
                if step + 1 < self.steps:
                    coming = ahead.submit(self._make, step + 1)
                yield step, masked

    def _make(self, step: int) -> MaskedTexts:
        rows = self.plan.rows(step, self.process, self.processes)
        return self.masker.mask(self.pack.texts("passage", rows), rows, step)

    def _report(self, result: StepResult, lr: float, rate: float) -> None:
        """Measure the step, and tell; ``rate`` is in tokens per second of this process."""
        values = {"loss/encoder": result.encoder, "loss/decoder": result.decoder, "lr": lr}
        values["gradient_norm"] = result.gradient_norm
        values["tokens_per_second"] = processes.totals([rate])[0]
        if self.process == 0:
            self.metrics.append(self.done, values)
            self.say(progress_line(self.done, self.steps, values))

    def _save(self) -> None:
        progress = Progress(self.done, self.pack.manifest.key, self.counts)
        card = ""
        if self.process == 0:
            self.metrics.sync()
            card = write_pretraining_card(
                self.place, self.settings, self.pack, progress, self.steps
            )
        checkpoints.save_checkpoint(
            self.place.folder, progress, self.trained, self.engine, None, card
        )
        if self.process == 0:
            self.metrics.commit(self.done)
            checkpoints.tidy_checkpoints(self.place.folder, self.settings.keep_checkpoints)

    def _take_up(self) -> None:
        """Go on from the newest checkpoint, or begin."""
        if self.start is not None:
            found = checkpoints.load_checkpoint(
                self.start, self.trained, self.engine, None, self.pack.manifest.key
            )
            self.done, self.counts = found.step, found.processes
            self.say(f"going on after step {found.step:,} of {self.steps:,}")
        elif not self.trained.losses.has_published_head:
            self.say(f"{self.settings.model.base} has no prediction head; a new one is trained")
        self.counts = checkpoints.note_processes(self.counts, self.done, self.processes)
        if self.process == 0:
            checkpoints.tidy_checkpoints(self.place.folder, self.settings.keep_checkpoints)
            self.metrics.begin(self.done)

    def _load_model(self) -> Pretrained:
        settings, model = self.settings, self.settings.model
        if self.start is not None:
            model = replace(model, base=str(self.start), pooling=None)
        loaded = EmbeddingModel(model, settings.seed, settings.precision, settings.batch_tokens)
        return Pretrained(loaded, RetroMae(loaded, settings.seed)).to(processes.device())

    def _finish(self) -> None:
        """Close what is open, and record the run in the catalog, once."""
        if self.process == 0:
            self.metrics.commit(self.done)  # the last checkpoint may be of a life that ended then
            self.metrics.close()
            record_end(self.place, self.record, self.steps)


def open_plain_pack(place: RunPlace, say: Say) -> Pack:
    """Build the pack of a snapshot without candidates, or open it where it is there already."""
    folder = place.pack_folder or pack_folder(place, None)
    say(f"pack {folder}")
    return build_pack(place.catalog, place.snapshot, folder, PackSettings())
