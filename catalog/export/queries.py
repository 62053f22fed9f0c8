"""Queries of an export: the pairs of one query gathered, with the negatives that it gets."""

import itertools
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from catalog.export.negatives import NegativeSettings

Row = dict[str, Any]


class Negative(NamedTuple):
    """A text that does not answer the query, with the miner's score of it if it was mined."""

    text: str
    score: float | None = None


@dataclass(frozen=True)
class Query:
    """A query: its pairs by pair_id, those of them that answer it, and its negatives."""

    pairs: list[Row]
    positives: list[Row]
    negatives: list[Negative]


def gather_queries(
    rows: Iterator[Row], settings: NegativeSettings | None, counts: Counter[str]
) -> Iterator[Query]:
    """Gather rows of ``export_queries.sql`` into queries.

    Without settings a query gets every negative that came with its pairs. Queries with fewer than
    the settings ask for are counted as ``short``.
    """
    for _, group in itertools.groupby(rows, key=lambda row: row["query_id"]):
        members = list(group)
        pairs = [row for row in members if row["preference"] is None]
        mined = [row for row in members if row["preference"] is not None]
        positives = [pair for pair in pairs if is_positive(pair)]
        negatives = choose_negatives(pairs, mined, settings)
        if positives and settings is not None and len(negatives) < settings.n:
            counts["short"] += 1
        yield Query(pairs, positives, negatives)


def is_positive(pair: Row) -> bool:
    """Say whether a pair's passage answers its query.

    As in mining, a label of 0 says that it does not. The label of an sts pair is a grade of
    similarity, and no answer at all.
    """
    label = pair["label"]
    return label is None or (label > 0 and pair["task"] != "sts")


def choose_negatives(
    pairs: list[Row], mined: list[Row], settings: NegativeSettings | None
) -> list[Negative]:
    """Return given negatives in their order, then mined ones in the order of their ranks.

    No text is there twice, and none is a positive. ``mined`` comes in the order of preference.
    """
    positives = {pair["positive"] for pair in pairs if is_positive(pair)}
    given = dict.fromkeys(_given(pairs)) if settings is None or settings.keeps_given else {}
    chosen = {text: Negative(text) for text in given if text not in positives}
    if settings is None:
        return list(chosen.values())
    chosen = dict(itertools.islice(chosen.items(), settings.n))
    ranks = dict.fromkeys(chosen, -1)
    for row in mined:
        text = row["positive"]
        if text in chosen and chosen[text].score is None:
            chosen[text] = Negative(text, row["score"])  # given, and found by the miner too
        elif len(chosen) < settings.n and text not in chosen and text not in positives:
            chosen[text] = Negative(text, row["score"])
            ranks[text] = row["rank"]
    # Stable: the given ones share a rank and stay in their order.
    return sorted(chosen.values(), key=lambda negative: ranks[negative.text])


def _given(pairs: list[Row]) -> Iterator[str]:
    for pair in pairs:
        yield from (text for text in pair["negatives"] or () if text is not None)
    yield from (pair["positive"] for pair in pairs if _is_judged_irrelevant(pair))


def _is_judged_irrelevant(pair: Row) -> bool:
    return pair["task"] != "sts" and pair["label"] is not None and pair["label"] <= 0
