"""A reranker's run: from a mined snapshot to checkpoints that CrossEncoder loads, and metrics.

    train_reranker(RunPlace(Path("runs/r"), catalog, load_snapshot(catalog, "v1")), settings)

The same call again goes on from the newest checkpoint, with the same lists and losses.
"""

from dataclasses import replace
from pathlib import Path

from catalog.errors import CatalogError
from catalog.pack import Pack
from catalog.pack.layout import Ids
from trainer import processes
from trainer.batches import Plan
from trainer.engine import make_engine
from trainer.reranker import Reranker
from trainer.reranker_card import write_reranker_card
from trainer.reranker_settings import TASK, RerankSettings
from trainer.reranker_step import rerank_step
from trainer.reranker_updates import RerankUpdate, RerankUpdateMaker, trainable_pairs
from trainer.run_folder import RunPlace
from trainer.run_life import RunLife, Say, Stepped, made_ahead
from trainer.run_pack import open_pack
from trainer.run_record import RERANK


def train_reranker(place: RunPlace, settings: RerankSettings, say: Say = lambda line: None) -> Path:
    """Train to the end, from wherever the run is; return the newest checkpoint."""
    with processes.joined(settings.engine):
        precision = processes.choose_precision(settings.precision)
        settings = replace(settings, precision=precision)
        pack = open_pack(place, True, say)
        return RerankSession(place, settings, pack, say).run()


class RerankSession:
    """One life of a reranker's run in one process: everything that a step needs, opened."""

    def __init__(self, place: RunPlace, settings: RerankSettings, pack: Pack, say: Say) -> None:
        self.settings = settings
        self.life = life = RunLife(place, settings, pack, RERANK, say)
        plan = Plan(pack, settings.plan(), life.processes, find_pairs(place, settings, pack))
        rows = plan.num_rows[TASK]
        self.steps = settings.steps or max(1, round(settings.epochs * rows / settings.batch))
        base = settings.base if life.start is None else str(life.start)
        self.model = Reranker(base, settings.max_tokens, settings.seed, settings.precision)
        self.model.to(processes.device())
        self.engine = make_engine(settings.engine, self.model, settings.optimizer)
        life.claim()
        self.maker = RerankUpdateMaker(settings, pack, plan, self.model.tokenize, life.process)
        life.take_up(
            self.steps, self.model, self.engine,
            lambda progress: write_reranker_card(place, settings, pack, progress, self.steps),
        )  # fmt: skip

    def run(self) -> Path:
        """Make the steps that are left."""
        updates = made_ahead(self.maker.make, self.life.done, self.steps)
        return self.life.run(updates, self._make_step)

    def _make_step(self, update: RerankUpdate, step: int, lr: float) -> Stepped:
        result = rerank_step(self.model, self.engine, update, lr, self.settings)
        values = {**result.values, "gradient_norm": result.gradient_norm}
        return Stepped(result.tokens, lambda: values)


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
