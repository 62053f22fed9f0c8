"""Retrieval in two stages, search and reranker, as results for the table ``evaluations``."""

import time
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from mining.encoder import Encoder, EncoderSettings
from mining.model_files import digest_files, find_folder, short_name
from mining.relevance import Relevance, RelevanceSettings
from mining.reranking import DEPTH, evaluate_reranked
from mining.retrieval_eval import BM25, Searcher, bm25_searcher, encoder_searcher
from trainer.eval_sets import read_collections
from trainer.evaluation import Result

RETRIEVAL: Final = "Retrieval"
MAIN: Final = "ndcg_at_10"


def evaluate_two_stages(
    search: EncoderSettings,
    reranker: RelevanceSettings,
    folders: Sequence[Path],
    depth: int = DEPTH,
) -> Iterator[tuple[Result, Result]]:
    """Yield every collection's result of the search alone, and of what was reranked.

    The second one's model is named SEARCH+RERANKER; metrics are named as mteb does. All
    collections are read before a model is loaded.
    """
    if not folders:
        raise ValueError("no collection is named; give folders with corpus, queries and qrels")
    if depth < 1:
        raise ValueError(f"the depth of reranking is {depth}; it must be at least 1")
    sets = read_collections(folders)
    second = Relevance(reranker)
    path = find_folder(reranker.model)
    own = short_name(path, reranker.model), digest_files(path, [])
    find, name, revision = _first_stage(search)
    for each in sets:
        began = time.monotonic()
        before, after = evaluate_reranked(each.collection, find, second, depth)
        seconds = time.monotonic() - began
        samples = len(each.collection.queries)
        both = f"{name}+{own[0]}", f"{revision}+{own[1]}@{depth}"
        yield (
            _result(each.name, (name, revision), before, samples, seconds),
            _result(each.name, both, after, samples, seconds),
        )


def two_stage_lines(results: Sequence[tuple[Result, Result]]) -> Iterator[str]:
    """Write a line for each collection's search, and one for what was reranked."""
    for place, pair in enumerate(results):
        for stage, result in zip(("found", "reranked"), pair, strict=True):
            if not place and stage == "found":
                yield f"{'collection':<24}{'':<10}" + "".join(f"{n:>15}" for n in result.metrics)
            values = "".join(f"{value:>15.4f}" for value in result.metrics.values())
            yield f"{result.set_name:<24}{stage:<10}{values}"


def _first_stage(search: EncoderSettings) -> tuple[Searcher, str, str]:
    if search.model == BM25:
        return bm25_searcher(), BM25, "default"
    encoder = Encoder.load(search)
    return encoder_searcher(encoder), encoder.name, encoder.revision


def _result(
    name: str, model: tuple[str, str], found: Mapping[str, float], samples: int, seconds: float
) -> Result:
    metrics = {metric.replace("@", "_at_"): value for metric, value in found.items()}
    return Result(
        name, RETRIEVAL, name, "test", *model, metrics, MAIN, samples, seconds, datetime.now(UTC)
    )
