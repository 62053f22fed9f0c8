"""The stages of a recipe: each does its work, resumable by itself, and says what it made."""

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from catalog.contamination import snapshot_contamination
from catalog.errors import CatalogError
from catalog.evaluation_sets import read_evaluation_sets
from catalog.executors import ExecutorSettings
from catalog.lake import Catalog
from catalog.policies import Condition, Policy
from catalog.policy_commit import commit_policy
from catalog.report import funnel_text, gather_stages
from catalog.snapshots import Snapshot, create_snapshot, load_snapshot
from catalog.terminal import Bars
from curation.curate import curate, pending
from curation.decontaminate import decontaminate
from mining.embed import embed
from mining.encoder import SIDES, EncoderSettings
from mining.mine import mine
from mining.relevance import RelevanceSettings
from mining.score import score
from recipes.journal import Journal
from recipes.plan import LATER, RecipePlan
from trainer.eval_records import commit_results
from trainer.eval_reranked import evaluate_two_stages, two_stage_lines
from trainer.evaluation import evaluate_model, print_results
from trainer.model import ModelSettings
from trainer.new_model import make_model
from trainer.pretraining import pretrain
from trainer.reranker_run import train_reranker
from trainer.run import RunPlace, train
from trainer.settings import TrainSettings

SNAPSHOT: Final = "snapshot"
MODEL: Final = "model"
MINING_RUN: Final = "mining_run"
RUN: Final = "run"  # the training run of the newest model
RERANKER: Final = "reranker"


@dataclass(frozen=True)
class Bench:
    """What every stage works with: the plan, the catalog, the run's folder, and what there is."""

    plan: RecipePlan
    catalog: Catalog
    folder: Path
    journal: Journal
    executor: ExecutorSettings
    say: Callable[[str], None]

    @property
    def name(self) -> str:
        """The run's name, which its snapshots and training runs begin with."""
        return self.folder.resolve().name

    def snapshot(self) -> Snapshot:
        """Return the newest snapshot of the run."""
        name = self.journal.newest(SNAPSHOT)
        assert name is not None
        return load_snapshot(self.catalog, name)

    def newest_model(self) -> str | None:
        """Return the newest model of the run or its base; None before [new_model] has run."""
        return self.journal.newest(MODEL) or self.plan.base

    def model(self) -> str:
        """Return the newest model of the run, or the base that it begins with."""
        found = self.newest_model()
        assert found is not None
        return found

    def encoder(self) -> str:
        """Return the model that searches: the newest, or who mined where none is trained."""
        section = self.plan.mine
        trains = self.plan.general or self.plan.train
        named = section.model if section is not None and not trains else None
        return named or self.model()


Made = Mapping[str, str]


def run_curate(bench: Bench) -> Made:
    """Find texts of the evaluation sets, measure, find duplicates, apply the policy; name it."""
    recipe = bench.plan.curate
    if bench.plan.evaluation_sets:
        sets = read_evaluation_sets(bench.plan.evaluation_sets)
        with Bars({}) as bars:
            found = decontaminate(bench.catalog, sets, bench.executor, bars, recipe.name)
        bench.say(f"{found.found:,} texts of {len(sets)} evaluation sets found in the pairs")
    with Bars(pending(bench.catalog, recipe)) as bars:
        curate(bench.catalog, recipe, bench.executor, bars)
    bench.say(funnel_text(gather_stages(bench.catalog)))
    return {SNAPSHOT: _take_snapshot(bench, bench.name, recipe.policy)}


def run_score(bench: Bench) -> Made:
    """Score every kept pair and keep those that reach the score."""
    section = bench.plan.score
    assert section is not None
    before = bench.snapshot()
    with Bars({}) as bars:
        scored = score(bench.catalog, before, section.encoder(), bench.executor, bars)
    tasks = ", ".join(f"'{task}'" for task in section.tasks)
    low = Condition(
        "low_score", "score", f"score('{scored.model}') >= {section.min_score}",
        where=f"task in ({tasks})", source=f"recipe {bench.plan.name}",
    )  # fmt: skip
    policy = before.policy
    scoring = replace(policy, name=f"{policy.name}-scored", conditions=(*policy.conditions, low))
    commit_policy(bench.catalog, scoring)
    return {SNAPSHOT: _take_snapshot(bench, f"{bench.name}-scored", scoring)}


def run_new_model(bench: Bench) -> Made:
    """Make a model with random weights and a tokenizer of the snapshot."""
    assert bench.plan.new_model is not None
    folder = bench.folder / "new-model"
    _clear_unfinished(folder)
    return {MODEL: str(make_model(bench.catalog, bench.snapshot(), folder, bench.plan.new_model))}


def run_pretrain(bench: Bench) -> Made:
    """Pre-train the base, or the new model, with RetroMAE on the snapshot's passages."""
    settings = bench.plan.pretrain
    assert settings is not None
    settings = replace(settings, model=_begun_with(bench, settings.model))
    name = f"{bench.name}-pretrain"
    place = RunPlace(bench.folder / name, bench.catalog, bench.snapshot())
    return {MODEL: str(pretrain(place, settings, bench.say)), RUN: name}


def run_general(bench: Bench) -> Made:
    """Train on weak pairs with large batches, before there are hard negatives."""
    assert bench.plan.general is not None
    return _train(bench, "general", bench.plan.general)


def run_mine(bench: Bench) -> Made:
    """Mine hard negatives with the newest model, or with the one that the section names."""
    section = bench.plan.mine
    assert section is not None
    encoder = EncoderSettings(section.model or bench.model())
    snapshot = bench.snapshot()
    with Bars({}) as bars:
        for side in SIDES:
            embed(bench.catalog, snapshot, encoder, side, bench.executor, bars)
        mined = mine(bench.catalog, snapshot, section.mining(), encoder, bench.executor, bars)
    bench.say(mined.summary())
    return {MINING_RUN: mined.run}


def run_train(bench: Bench) -> Made:
    """Fine-tune the newest model."""
    assert bench.plan.train is not None
    return _train(bench, "train", bench.plan.train)


def run_rerank(bench: Bench) -> Made:
    """Train a reranker on the mined candidates."""
    settings = bench.plan.rerank
    assert settings is not None
    if settings.base == LATER:
        settings = replace(settings, base=bench.model())
    name = f"{bench.name}-rerank"
    place = RunPlace(
        bench.folder / name, bench.catalog, bench.snapshot(), bench.journal.newest(MINING_RUN)
    )
    return {RERANKER: str(train_reranker(place, settings, bench.say))}


def run_evaluate(bench: Bench) -> Made:
    """Evaluate what the run has trained, and keep the results in the catalog.

    A model goes through mteb; a reranker is the second stage of its searches, or of those of the
    model that mined.
    """
    section = bench.plan.evaluate
    if section is None or section.is_empty:
        bench.say("no evaluation sets were given (--benchmark, --sts, --retrieval): left out")
        return {}
    output = bench.folder / "evaluation"
    paths = section.paths()
    held = snapshot_contamination(bench.catalog, bench.snapshot())
    if bench.plan.trains_embedding:
        with Bars({}) as bars:
            encoder = EncoderSettings(bench.model())
            results = evaluate_model(encoder, paths, output, progress=bars)
        print_results(results, held)
        commit_results(bench.catalog, results, bench.journal.newest(RUN), held)
    if bench.plan.rerank is not None and paths.retrieval:
        _evaluate_reranked(bench, list(paths.retrieval))
    return {"evaluation": str(output)}


RUNNERS: Final[Mapping[str, Callable[[Bench], Made]]] = {
    "curate": run_curate, "score": run_score, "new_model": run_new_model,
    "pretrain": run_pretrain, "general": run_general, "mine": run_mine, "train": run_train,
    "rerank": run_rerank, "evaluate": run_evaluate,
}  # fmt: skip


def _train(bench: Bench, stage: str, settings: TrainSettings) -> Made:
    name = f"{bench.name}-{stage}"
    settings = replace(settings, model=_begun_with(bench, settings.model))
    place = RunPlace(
        bench.folder / name, bench.catalog, bench.snapshot(), bench.journal.newest(MINING_RUN)
    )
    return {MODEL: str(train(place, settings, bench.say)), RUN: name}


def _begun_with(bench: Bench, model: ModelSettings) -> ModelSettings:
    """Return the settings of a model that begins where the run is."""
    return replace(model, base=bench.model())


def _evaluate_reranked(bench: Bench, retrieval: list[Path]) -> None:
    reranker = bench.journal.newest(RERANKER)
    assert reranker is not None
    assert bench.plan.evaluate is not None
    encoder, second = EncoderSettings(bench.encoder()), RelevanceSettings(reranker)
    depth = bench.plan.evaluate.rerank_depth
    results = list(evaluate_two_stages(encoder, second, retrieval, depth))
    for line in two_stage_lines(results):
        bench.say(line)
    commit_results(bench.catalog, [found for found, _ in results], bench.journal.newest(RUN))
    commit_results(bench.catalog, [after for _, after in results], f"{bench.name}-rerank")


def _take_snapshot(bench: Bench, name: str, policy: Policy) -> str:
    """Name what a policy keeps; a run that was killed after that finds its own snapshot."""
    snapshot = create_snapshot(bench.catalog, name, policy.name)
    bench.say(f"snapshot {name}: {snapshot.kept:,} of {snapshot.pairs:,} pairs")
    if not snapshot.kept:
        raise CatalogError(
            f"policy {policy.name!r} keeps no pair of {bench.catalog.location.url}; see why with: "
            'lode sql "select * from rejections order by pairs desc"'
        )
    return name


def _clear_unfinished(folder: Path) -> None:
    """Remove what a killed run left of a folder that is made in one go."""
    if folder.exists():
        shutil.rmtree(folder)
