"""All sets of one evaluation, read from their files before any model is loaded."""

from dataclasses import dataclass

from trainer.eval_labelled import LabelledSet, read_labelled
from trainer.eval_paths import KINDS, SetPaths
from trainer.eval_sets import CollectionSet, PairSet, read_collections, read_pair_sets


@dataclass(frozen=True)
class EvaluationSets:
    """What a model is evaluated on."""

    pairs: list[PairSet]
    collections: list[CollectionSet]
    classified: list[LabelledSet]
    clustered: list[LabelledSet]


def read_sets(paths: SetPaths) -> EvaluationSets:
    """Read everything; ValueError for a damaged set, two of one name, or none at all."""
    if not paths.all:
        raise ValueError(f"no evaluation set was given; give some of {', '.join(KINDS)}")
    return EvaluationSets(
        read_pair_sets(paths.sts),
        read_collections(paths.retrieval),
        read_labelled(paths.classification),
        read_labelled(paths.clustering),
    )
