"""Sets on this machine as mteb's own task classes: nothing is downloaded.

This module imports mteb, which takes seconds: import it where something is evaluated.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from datasets import Dataset, DatasetDict
from mteb.abstasks import (
    AbsTask,
    AbsTaskClassification,
    AbsTaskClustering,
    AbsTaskPairClassification,
    AbsTaskRetrieval,
    AbsTaskSTS,
)
from mteb.abstasks.task_metadata import TaskMetadata

from mining.retrieval_eval import Collection
from trainer.eval_files import EvaluationSets
from trainer.eval_labelled import TEST, TRAIN, LabelledSet
from trainer.eval_published import find_published
from trainer.eval_sets import CollectionSet, Kind, PairSet

SPLIT: Final = TEST
SUBSET: Final = "default"  # mteb's word for the only subset
# What mteb calls them, and the main score that C-MTEB publishes of each.
STS: Final = ("STS", "cosine_spearman")
PAIR_CLASSIFICATION: Final = ("PairClassification", "max_accuracy")
RETRIEVAL: Final = ("Retrieval", "ndcg_at_10")
CLASSIFICATION: Final = ("Classification", "accuracy")
CLUSTERING: Final = ("Clustering", "v_measure")
# C-MTEB's tasks cluster so many texts of a set.
MAX_CLUSTERED: Final = 2048
# Languages are only recorded; a set is Chinese where this share of its characters is Han.
HAN_SHARE: Final = 0.2
LANGUAGE_SAMPLE: Final = 200


@dataclass(frozen=True)
class LocalTask:
    """A task with the sets that are its splits: (name of the set, split, samples)."""

    task: AbsTask
    splits: tuple[tuple[str, str, int], ...]


class LocalSts(AbsTaskSTS):
    """STS whose pairs are given; mteb has nothing to load, and so nothing to unload."""

    def __init__(self, metadata: TaskMetadata, splits: Mapping[str, PairSet]) -> None:
        self.metadata = metadata
        super().__init__()
        self.dataset = {SUBSET: {split: _pairs(own, "score") for split, own in splits.items()}}
        self.data_loaded = True


class LocalPairClassification(AbsTaskPairClassification):
    """Pair classification whose pairs are given."""

    def __init__(self, metadata: TaskMetadata, splits: Mapping[str, PairSet]) -> None:
        self.metadata = metadata
        super().__init__()
        column = self.label_column_name
        self.dataset = {SUBSET: {split: _pairs(own, column) for split, own in splits.items()}}
        self.data_loaded = True


class LocalRetrieval(AbsTaskRetrieval):
    """Retrieval in a given collection; titles are in its passages already."""

    def __init__(self, metadata: TaskMetadata, found: Collection) -> None:
        self.metadata = metadata
        super().__init__()
        split: Any = {
            "corpus": Dataset.from_dict({"id": found.passage_ids, "text": found.passages}),
            "queries": Dataset.from_dict({"id": found.query_ids, "text": found.queries}),
            "relevant_docs": _judgments(found),
            "top_ranked": None,
        }
        self.dataset = {SUBSET: {SPLIT: split}}
        self.data_loaded = True


class LocalClassification(AbsTaskClassification):
    """Classification of given texts: mteb's ten regressions on eight texts a class."""

    def __init__(self, metadata: TaskMetadata, own: LabelledSet) -> None:
        self.metadata = metadata
        super().__init__()
        train = Dataset.from_dict({"text": own.train_texts, "label": own.train_labels})
        test = Dataset.from_dict({"text": own.texts, "label": own.labels})
        self.dataset = {SUBSET: DatasetDict({TRAIN: train, TEST: test})}
        self.data_loaded = True


class LocalClustering(AbsTaskClustering):
    """Clustering of given texts."""

    max_fraction_of_documents_to_embed = None
    max_document_to_embed = MAX_CLUSTERED

    def __init__(self, metadata: TaskMetadata, own: LabelledSet) -> None:
        self.metadata = metadata
        super().__init__()
        test = Dataset.from_dict({"sentences": own.texts, "labels": own.labels})
        self.dataset = {SUBSET: DatasetDict({TEST: test})}
        self.data_loaded = True


MakeTask = Callable[[TaskMetadata, Mapping[str, PairSet]], AbsTask]
PAIR_TASKS: Final[dict[Kind, tuple[MakeTask, tuple[str, str]]]] = {
    "sts": (LocalSts, STS),
    "pair-classification": (LocalPairClassification, PAIR_CLASSIFICATION),
}


def make_tasks(sets: EvaluationSets) -> Iterator[LocalTask]:
    """Yield the tasks of all sets: splits of one published task together, then the others."""
    yield from _pair_tasks(sets.pairs)
    yield from map(_retrieval_task, sets.collections)
    for own in sets.classified:
        classification = _describe_labelled(own, own.name, CLASSIFICATION)
        yield LocalTask(
            LocalClassification(classification, own), ((own.name, TEST, len(own.texts)),)
        )
    for own in sets.clustered:
        name = f"{own.name}.clustering"
        clustering = _describe_labelled(own, name, CLUSTERING)
        samples = min(MAX_CLUSTERED, len(own.texts))
        yield LocalTask(LocalClustering(clustering, own), ((name, TEST, samples),))


def _pair_tasks(pairs: Sequence[PairSet]) -> Iterator[LocalTask]:
    published = find_published(list(pairs))
    known: dict[str, tuple[Any, dict[str, PairSet]]] = {}
    for one in pairs:
        if one.name in published:
            task, split = published[one.name]
            known.setdefault(task.metadata.name, (task, {}))[1][split] = one
    for task, splits in known.values():
        yield _pair_task(task.metadata, splits)
    for one in pairs:
        if one.name not in published:
            texts = one.firsts[:LANGUAGE_SAMPLE]
            metadata = _describe(one.name, one.revision, PAIR_TASKS[one.kind][1], texts)
            yield _pair_task(metadata, {SPLIT: one})


def _retrieval_task(found: CollectionSet) -> LocalTask:
    texts = found.collection.queries[:LANGUAGE_SAMPLE]
    metadata = _describe(found.name, found.revision, RETRIEVAL, texts)
    task = LocalRetrieval(metadata, found.collection)
    return LocalTask(task, ((found.name, SPLIT, len(found.collection.queries)),))


def _describe_labelled(own: LabelledSet, name: str, kind: tuple[Any, str]) -> TaskMetadata:
    return _describe(name, own.revision, kind, own.texts[:LANGUAGE_SAMPLE])


def _pair_task(metadata: TaskMetadata, splits: Mapping[str, PairSet]) -> LocalTask:
    kind = next(iter(splits.values())).kind
    task = PAIR_TASKS[kind][0](metadata, splits)
    task.filter_eval_splits(list(splits))
    named = ((own.name, split, len(own.targets)) for split, own in splits.items())
    return LocalTask(task, tuple(named))


def _describe(
    name: str, revision: str, kind: tuple[Any, str], texts: Sequence[str]
) -> TaskMetadata:
    """Write the metadata of a set that mteb does not know."""
    type, main_score = kind
    return TaskMetadata(
        name=name,
        description=f"{name}, a set of this machine",
        dataset={"path": f"local/{name}", "revision": revision},
        type=type,
        category="t2t",
        eval_splits=[SPLIT],
        eval_langs=[_language(texts)],
        main_score=main_score,
    )


def _language(texts: Sequence[str]) -> str:
    joined = "".join(texts)
    han = sum("\u4e00" <= character <= "\u9fff" for character in joined)
    return "cmn-Hans" if han >= HAN_SHARE * len(joined) else "eng-Latn"


def _pairs(pairs: PairSet, column: str) -> Dataset:
    targets = pairs.targets if column == "score" else [int(label) for label in pairs.targets]
    return Dataset.from_dict(
        {"sentence1": pairs.firsts, "sentence2": pairs.seconds, column: targets}
    )


def _judgments(found: Collection) -> dict[str, dict[str, int]]:
    """Return {query id: {passage id: grade}}; trec_eval counts in whole grades."""
    judged: dict[str, dict[str, int]] = {}
    rows = found.judgments
    for query, passage, grade in zip(rows.queries, rows.passages, rows.grades, strict=True):
        own = judged.setdefault(found.query_ids[query], {})
        own[found.passage_ids[passage]] = int(grade)
    return judged
