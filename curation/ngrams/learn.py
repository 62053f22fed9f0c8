"""Learning a character trigram model: counts of a sample, then interpolated Kneser-Ney.

Counting walks chunks and merges sorted counts, so memory follows the number of different trigrams.
"""

from collections.abc import Iterable
from typing import Final

import numpy as np
import numpy.typing as npt

from curation.ngrams.model import (
    FIRST_ID,
    START,
    UNKNOWN,
    Keys,
    Logs,
    NgramModel,
    fold_table,
    id_table,
    to_ids,
)
from curation.ngrams.settings import NgramSettings
from curation.texts import CodePoints, Offsets, Texts, kernel

Counts = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
_LOW: Final = np.uint64((1 << 21) - 1)
_BIGRAM: Final = np.uint64((1 << 42) - 1)
_SHIFT: Final = np.uint64(21)


def learn_ngrams(batches: Iterable[Texts], settings: NgramSettings | None = None) -> NgramModel:
    """Learn a model of texts; they are walked twice, so ``batches`` is a list or can be repeated.

    ValueError where they hold too little to learn from.
    """
    settings = settings or NgramSettings()
    characters = np.zeros(0x110000, np.int64)
    for texts in batches:
        characters += np.bincount(fold_table()[texts.codepoints], minlength=len(characters))
    codes = np.flatnonzero(characters >= settings.min_character_count).astype(np.uint32)
    if not len(codes):
        raise ValueError(
            f"no character occurs {settings.min_character_count} times: there is too little text "
            "to learn n-grams from"
        )
    ids = id_table(codes)
    keys, counts = np.empty(0, np.uint64), np.empty(0, np.int64)
    for texts in batches:
        own, number = np.unique(_trigrams(texts.codepoints, texts.offsets, ids), return_counts=True)
        keys, counts = _merge(keys, counts, own, number)
    return _kneser_ney(codes, keys, counts, settings.min_trigram_count)


def _merge(keys: Keys, counts: Counts, more: Keys, number: Counts) -> tuple[Keys, Counts]:
    both = np.concatenate([keys, more])
    order = np.argsort(both, kind="stable")  # two ascending runs: a merge
    both, summed = both[order], np.concatenate([counts, number])[order]
    firsts = np.flatnonzero(np.r_[True, both[1:] != both[:-1]]) if len(both) else order
    return both[firsts], np.add.reduceat(summed, firsts) if len(firsts) else summed


def _kneser_ney(
    codes: npt.NDArray[np.uint32], keys: Keys, counts: Counts, min_count: int
) -> NgramModel:
    """Turn counts of trigrams (ascending) into probabilities; every level sums to 1."""
    size = len(codes) + FIRST_ID
    # Lower levels count in how many contexts an n-gram stands; what begins a text has one only.
    begins = (keys >> np.uint64(42)) == START
    pairs, pair_counts = _contexts(keys & _BIGRAM, np.where(begins, counts, 1))
    singles = np.zeros(size, np.int64)
    np.add.at(singles, (pairs & _LOW).astype(np.int64), 1)

    words = np.flatnonzero(np.arange(size) != START)[UNKNOWN:]  # every id that a text can have
    p1, _, _ = _discounted(np.zeros(len(words), np.int64), singles[words], 1)
    rest = max(1.0 - p1.sum(), 1e-9)
    unigrams = np.zeros(size)
    unigrams[words] = p1 + rest / len(words)

    p2, contexts, mass = _discounted((pairs >> _SHIFT).astype(np.int64), pair_counts, 1)
    unigram_backoffs = np.zeros(size)
    unigram_backoffs[contexts] = np.log2(mass)
    left = (pairs >> _SHIFT).astype(np.int64)
    p2 += 2.0 ** unigram_backoffs[left] * unigrams[(pairs & _LOW).astype(np.int64)]

    p3, contexts, mass = _discounted((keys >> _SHIFT).astype(np.int64), counts, min_count)
    kept = counts >= min_count
    lower = np.searchsorted(pairs, keys & _BIGRAM)
    context_of = np.searchsorted(contexts, (keys >> _SHIFT).astype(np.int64))
    p3 = (p3 + mass[context_of] * p2[lower])[kept]

    backoffs = np.zeros(len(pairs))
    at = np.searchsorted(pairs, contexts.astype(np.uint64))
    # A context of two starts is a bigram that no text holds.
    is_there = (at < len(pairs)) & (pairs[np.minimum(at, len(pairs) - 1)] == contexts)
    backoffs[at[is_there]] = np.log2(mass[is_there])
    start = np.uint64((START << 21) | START)
    extra = {int(c): float(np.log2(m)) for c, m in zip(contexts, mass, strict=True) if c == start}
    return _tables(
        codes, unigrams, unigram_backoffs, (pairs, p2, backoffs), (keys[kept], p3),
        (start, extra.get(int(start), 0.0)),
    )  # fmt: skip


def _tables(
    codes: npt.NDArray[np.uint32],
    unigrams: Floats,
    unigram_backoffs: Floats,
    bigrams: tuple[Keys, Floats, Floats],
    trigrams: tuple[Keys, Floats],
    start: tuple[np.uint64, float],
) -> NgramModel:
    pairs, p2, backoffs = bigrams
    keys = np.concatenate([pairs, [start[0]], trigrams[0]]).astype(np.uint64)
    values = np.log2(np.concatenate([p2, [1.0], trigrams[1]]))
    weights = np.concatenate([backoffs, [start[1]], np.zeros(len(trigrams[0]))])
    order = np.argsort(keys, kind="stable")
    logs = np.where(unigrams > 0, np.log2(np.maximum(unigrams, 1e-30)), 0)

    def single(array: Floats) -> Logs:
        return np.ascontiguousarray(array, np.float32)

    return NgramModel(
        codes, single(logs), single(unigram_backoffs), np.ascontiguousarray(keys[order]),
        single(values[order]), single(weights[order]),
    )  # fmt: skip


def _contexts(pairs: Keys, weights: Counts) -> tuple[Keys, Counts]:
    """Sum weights of equal keys; return both in the order of the keys."""
    order = np.argsort(pairs, kind="stable")
    sorted_pairs = pairs[order]
    firsts = np.flatnonzero(np.r_[True, sorted_pairs[1:] != sorted_pairs[:-1]])
    return sorted_pairs[firsts], np.add.reduceat(weights[order], firsts)


def _discounted(contexts: Counts, counts: Counts, min_count: int) -> tuple[Floats, Counts, Floats]:
    """Return discounted shares of counts within their contexts (ascending), and what is left.

    ``(c - D) / total`` for counts from ``min_count`` on, 0 for others; then the contexts and the
    mass that each leaves to the lower level. D is Ney's n1 / (n1 + 2 n2).
    """
    ones, twos = int((counts == 1).sum()), int((counts == 2).sum())
    discount = ones / (ones + 2 * twos) if ones else 0.5
    discount = min(max(discount, 0.1), 0.95)
    own, firsts, inverse = np.unique(contexts, return_index=True, return_inverse=True)
    totals = np.add.reduceat(counts, firsts).astype(np.float64)
    totals = np.maximum(totals, 1)
    shares = np.where(
        (counts >= min_count) & (counts > 0), np.maximum(counts - discount, 0), 0
    ) / totals[inverse]  # fmt: skip
    left = 1.0 - np.bincount(inverse, shares, len(own))
    return shares, own, np.maximum(left, 1e-9)


@kernel
def _trigrams(codepoints: CodePoints, offsets: Offsets, ids: npt.NDArray[np.int32]) -> Keys:
    """Return the trigrams of texts, each beginning after two starts."""
    keys = np.empty(len(codepoints), np.uint64)
    text = np.empty(max(len(codepoints), 1), np.int32)
    space = ids[0x20]
    made = 0
    for row in range(len(offsets) - 1):
        count = to_ids(codepoints, offsets[row], offsets[row + 1], ids, space, text)
        u, v = np.uint64(START), np.uint64(START)
        for at in range(count):
            w = np.uint64(text[at])
            keys[made] = (u << np.uint64(42)) | (v << np.uint64(21)) | w
            made += 1
            u, v = v, w
    return keys[:made]
