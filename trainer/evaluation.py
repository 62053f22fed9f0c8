"""Evaluate an encoder with mteb on sets of this machine, of all kinds of tasks of C-MTEB but one.

    sets = SetPaths(sts=[Path("eval/sts")], retrieval=[Path("eval/retrieval/cmrc2018")])
    results = evaluate_model(EncoderSettings("runs/a/checkpoint"), sets)
    print_results(results)

The numbers are mteb's own; nothing is downloaded, and no set is read from elsewhere. mteb is
imported when the first set is evaluated, because that takes seconds.
"""

import math
import random
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import torch

from catalog.contamination import SetContamination
from catalog.terminal import say
from mining.encoder import Encoder, EncoderSettings, Side
from mining.search_plan import SearchSettings
from trainer.eval_files import read_sets
from trainer.eval_paths import SetPaths

if TYPE_CHECKING:
    from trainer.eval_tasks import LocalTask

# What is kept and shown of each kind of task, besides its main score; mteb's JSON has all.
METRICS: Final = {
    "STS": ("cosine_spearman", "cosine_pearson", "spearman"),
    "PairClassification": ("max_accuracy", "cosine_accuracy", "cosine_ap"),
    "Retrieval": ("ndcg_at_10", "mrr_at_10", "map_at_10", "recall_at_10", "recall_at_100"),
    "Classification": ("accuracy", "f1", "f1_weighted"),
    "Clustering": ("v_measure", "v_measure_std", "ami"),
}


@dataclass(frozen=True)
class EvaluationSettings:
    """How a model is evaluated.

    ``organization`` stands before the model's name in mteb's files. ``pair_side`` is the side as
    which both sentences of a pair are encoded: models with an instruction for queries, such as
    BGE's, publish STS without it, while E5 asks for ``query``.
    """

    organization: str = "lode"
    pair_side: Side = "passage"
    search: SearchSettings | None = None


@dataclass(frozen=True)
class Result:
    """A model's metrics on one set.

    ``task`` is mteb's name where the set is a split of a published task, else the set's own.
    """

    set_name: str
    kind: str  # mteb's type of task
    task: str
    split: str
    model: str
    revision: str
    metrics: dict[str, float]
    main_metric: str
    samples: int  # pairs, or queries
    seconds: float  # of the task with all of its splits
    created_at: datetime

    @property
    def main_score(self) -> float:
        """The metric that stands for the task."""
        return self.metrics[self.main_metric]


def evaluate_model(
    model: Encoder | EncoderSettings,
    sets: SetPaths,
    output: Path | None = None,
    settings: EvaluationSettings | None = None,
    progress: Callable[[str, int], None] | None = None,
) -> list[Result]:
    """Return results set by set: published splits, other pairs, collections, labelled texts.

    All sets are read, and refused where they are damaged, before the model is loaded. ``output``
    gets mteb's own JSON, as ``results/ORGANIZATION__MODEL/REVISION/TASK.json``; what an earlier
    evaluation wrote there for the same task is replaced. ``progress`` is told ("evaluate", sets
    that are done).
    """
    settings = settings or EvaluationSettings()
    found_sets = read_sets(sets)
    results: list[Result] = []
    with _random_state_kept():
        mteb = import_mteb()
        from trainer.eval_model import EvaluatedEncoder
        from trainer.eval_tasks import make_tasks

        encoder = Encoder.load(model) if isinstance(model, EncoderSettings) else model
        evaluated = EvaluatedEncoder(
            encoder, settings.organization, settings.pair_side, settings.search
        )
        for local in make_tasks(found_sets):
            found = _run(mteb, evaluated, local, output)
            results += _results(local, found, encoder)
            if progress is not None:
                progress("evaluate", len(results))
    return results


def import_mteb() -> ModuleType:
    """Import mteb, or say which extra brings it."""
    try:
        import mteb
    except ImportError as error:
        raise ValueError(
            f"evaluation needs mteb ({error}): pip install 'lode-engine[eval]'"
        ) from None
    return mteb


def print_results(
    results: Sequence[Result], held: Sequence[SetContamination] | None = None
) -> None:
    """Print a table a kind of task, main metric first.

    ``held`` says how much of each set the model was trained on; None: that is not known.
    """
    for kind, metrics in METRICS.items():
        own = [result for result in results if result.kind == kind]
        if not own:
            continue
        width = max(len(_label(result)) for result in own) + 2
        say(
            f"{kind:<{width}}{'samples':>9}"
            + "".join(f"{name:>17}" for name in metrics)
            + (f"{'texts trained on':>18}" if held is not None else "")
        )
        for result in own:
            values = "".join(f"{result.metrics[name]:>17.4f}" for name in metrics)
            seen = "" if held is None else f"{_seen(result, held):>18}"
            say(f"{_label(result):<{width}}{result.samples:>9,}{values}{seen}")
        means = (sum(r.metrics[name] for r in own) / len(own) for name in metrics)
        say(f"{'mean':<{width}}{'':>9}" + "".join(f"{mean:>17.4f}" for mean in means))


def find_contamination(result: Result, held: Sequence[SetContamination]) -> SetContamination | None:
    """Return what the training snapshot holds of a result's set; None: it was not compared.

    Sets of one file are compared as one: those of FILE.DATASET are looked up as FILE.
    """
    by_name = {one.name: one for one in held}
    parts = result.set_name.split(".")
    names = (".".join(parts[:end]) for end in range(len(parts), 0, -1))
    return next((by_name[name] for name in names if name in by_name), None)


def _seen(result: Result, held: Sequence[SetContamination]) -> str:
    found = find_contamination(result, held)
    return "not compared" if found is None else f"{found.places:,}"


@contextmanager
def _random_state_kept() -> Iterator[None]:
    """Put the generators back: mteb seeds them all, and a training run may go on after this."""
    state, numpy_state = random.getstate(), np.random.get_state()  # noqa: NPY002
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        try:
            yield
        finally:
            random.setstate(state)
            np.random.set_state(numpy_state)  # noqa: NPY002


def _label(result: Result) -> str:
    is_published = result.task != result.set_name
    return f"{result.set_name} ({result.task} {result.split})" if is_published else result.task


def _run(mteb: ModuleType, model: Any, local: "LocalTask", output: Path | None) -> Any:
    """Let mteb evaluate one task; return its TaskResult."""
    with warnings.catch_warnings():
        # A small split lacks some of the classes: their precision or recall counts as 0.
        warnings.filterwarnings("ignore", message=".* is ill-defined and being set to 0.0")
        found = mteb.evaluate(
            model,
            local.task,
            co2_tracker=False,
            cache=None if output is None else mteb.ResultCache(cache_path=output),
            overwrite_strategy="always",
            show_progress_bar=False,
        )
    return found.task_results[0]


def _results(local: "LocalTask", found: Any, encoder: Encoder) -> Iterator[Result]:
    metadata = local.task.metadata
    for set_name, split, samples in local.splits:
        scores = found.scores[split][0]
        names = dict.fromkeys((*METRICS[metadata.type], metadata.main_score))
        metrics = {name: float(scores[name]) for name in names}
        _check(metrics, set_name)
        yield Result(
            set_name, metadata.type, metadata.name, split, encoder.name, encoder.revision,
            metrics, metadata.main_score, samples, found.evaluation_time, datetime.now(UTC),
        )  # fmt: skip


def _check(metrics: dict[str, float], set_name: str) -> None:
    """Refuse a metric that is not a number: the model gives all pairs of the set one score."""
    bad = [name for name, value in metrics.items() if not math.isfinite(value)]
    if bad:
        raise ValueError(
            f"{set_name}: {', '.join(bad)} is not a number, because the model gives every pair the "
            "same similarity; it is not trained, or it cannot read these texts"
        )
