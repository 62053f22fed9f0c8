"""Figures of a classifier on labelled rows, and the baselines that stand beside them."""

import math
from collections import Counter
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
from scipy.stats import rankdata

from curation.classifiers.classifier import Scores
from curation.classifiers.labelled import Labelled
from curation.signals.words import WordLists
from curation.texts import Flags, Texts, encode, from_strings, normalize

THRESHOLD: Final = 0.5
KEYWORDS: Final = 200
# Keywords are learned from the first characters of so many rows: a baseline must not take longer
# than what it is compared with.
KEYWORD_ROWS: Final = 20_000
KEYWORD_CHARS: Final = 100
KEYWORD_TEXTS: Final = 3  # a string of fewer positive texts is chance


@dataclass(frozen=True)
class Figures:
    """What a classifier does on labelled rows; a text is called positive from a threshold on."""

    name: str
    rows: int
    positives: int
    threshold: float
    precision: float
    recall: float
    f1: float
    accuracy: float
    auc: float


def figures(name: str, scores: Scores, positive: Flags, threshold: float = THRESHOLD) -> Figures:
    """Compare scores with the truth; a precision of nothing called positive is 0."""
    called = scores >= threshold
    right = int((called & positive).sum())
    precision = right / max(int(called.sum()), 1)
    recall = right / max(int(positive.sum()), 1)
    return Figures(
        name=name,
        rows=len(scores),
        positives=int(positive.sum()),
        threshold=float(threshold),
        precision=precision,
        recall=recall,
        f1=2 * precision * recall / max(precision + recall, 1e-12),
        accuracy=float((called == positive).mean()),
        auc=auc(scores, positive),
    )


def auc(scores: npt.NDArray[np.floating], positive: Flags) -> float:
    """Compute how often a positive text scores above a negative one; a tie counts half."""
    positives, negatives = int(positive.sum()), int((~positive).sum())
    if not positives or not negatives:
        return float("nan")
    ranks = rankdata(scores)[positive].sum()
    return float((ranks - positives * (positives + 1) / 2) / (positives * negatives))


def majority(learned: Flags, positive: Flags) -> Figures:
    """Call every text what most of the learned rows are."""
    is_positive = learned.mean() > 0.5
    return figures("majority", np.full(len(positive), is_positive, np.float32), positive)


def keywords(learned: Labelled, label: str, held: Labelled) -> Figures:
    """Count words that mark the label in the learned rows; call positive what has enough."""
    texts = normalize(learned.texts)
    positive = learned.labels == label
    words = learn_keywords(texts, positive)
    best = best_threshold(count_words(texts, words), positive)
    scores = count_words(normalize(held.texts), words)
    return figures(f"{len(words)} learned keywords", scores, held.labels == label, best)


def lexicon(name: str, words: list[str], held: Labelled, label: str) -> Figures:
    """Call positive what holds a word of a list."""
    keys = encode(normalize(from_strings(words))).to_pylist()
    scores = count_words(normalize(held.texts), sorted({key for key in keys if key}))
    return figures(name, scores, held.labels == label, 1)


def learn_keywords(texts: Texts, positive: Flags, size: int = KEYWORDS) -> list[str]:
    """Find the 2- to 4-character strings that mark positive texts most, by z-score of log-odds.

    The texts are normalised. Counted are texts, not occurrences; ties end in the string.
    """
    counts: tuple[Counter[str], Counter[str]] = (Counter(), Counter())
    step = max(1, len(texts) // KEYWORD_ROWS)
    for row in range(0, len(texts), step):
        text = texts.text(row)[:KEYWORD_CHARS]
        found = {text[at : at + n] for n in (2, 3, 4) for at in range(len(text) - n + 1)}
        counts[int(positive[row])].update(found)
    rows = [int((positive[::step] == side).sum()) for side in (False, True)]
    ranked = []
    for word, with_it in counts[1].items():
        if with_it < KEYWORD_TEXTS:
            continue
        without = counts[0][word]
        odds = math.log((with_it + 0.5) / (rows[1] - with_it + 0.5))
        odds -= math.log((without + 0.5) / (rows[0] - without + 0.5))
        ranked.append((-odds / math.sqrt(1 / (with_it + 0.5) + 1 / (without + 0.5)), word))
    return [word for _, word in sorted(ranked)[:size]]


def count_words(texts: Texts, words: list[str]) -> Scores:
    """Count words in normalised texts, without overlaps."""
    if not words:
        return np.zeros(len(texts), np.float32)
    found = WordLists(dict.fromkeys(words, 0), {word: word for word in words}).find(texts)
    return np.bincount(found[:, 1], minlength=len(texts)).astype(np.float32)


def best_threshold(scores: Scores, positive: Flags) -> float:
    """Find the score from which calling texts positive has the highest F1; the lowest of equals."""
    tried = np.unique(scores)[:1_000]
    found = [figures("", scores, positive, float(one)).f1 for one in tried]
    return float(tried[int(np.argmax(found))])
