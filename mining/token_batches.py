"""Tokens of many texts in one array, and batches of texts of about equal length."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Integers = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class TokenizedTexts:
    """Tokens of all texts one after another; text i has ``lengths[i]`` of them."""

    tokens: Integers
    lengths: Integers

    @classmethod
    def of(cls, texts: Sequence[Sequence[int]]) -> "TokenizedTexts":
        """Gather the lists that a tokenizer returns."""
        lengths = np.fromiter((len(text) for text in texts), np.int64, len(texts))
        tokens = np.fromiter((t for text in texts for t in text), np.int64, int(lengths.sum()))
        return cls(tokens, lengths)

    @classmethod
    def join(cls, parts: Sequence["TokenizedTexts"]) -> "TokenizedTexts":
        """Put the texts of some parts one after another."""
        none = np.empty(0, np.int64)
        return cls(
            np.concatenate([none, *(part.tokens for part in parts)]),
            np.concatenate([none, *(part.lengths for part in parts)]),
        )

    def __len__(self) -> int:
        return len(self.lengths)

    def take(self, rows: Integers) -> "TokenizedTexts":
        """Return chosen texts in the order given."""
        starts = np.cumsum(self.lengths) - self.lengths
        lengths = self.lengths[rows]
        chosen = TokenizedTexts(np.empty(0, np.int64), lengths)
        return TokenizedTexts(
            self.tokens[np.repeat(starts[rows], lengths) + chosen.places()], lengths
        )

    def places(self) -> Integers:
        """Return each token's place in its text, from 0."""
        starts = np.cumsum(self.lengths) - self.lengths
        return np.arange(int(self.lengths.sum())) - np.repeat(starts, self.lengths)

    def padded(self, padding: int) -> tuple[Integers, npt.NDArray[np.bool_]]:
        """Return texts x longest, padded on the right, and where the tokens are."""
        longest = max(1, int(self.lengths.max(initial=1)))
        mask = np.arange(longest) < self.lengths[:, None]
        ids = np.full(mask.shape, padding, np.int64)
        ids[mask] = self.tokens
        return ids, mask


def token_batches(lengths: Integers, budget: int) -> list[Integers]:
    """Cut texts into batches of at most ``budget`` tokens, the longest texts first.

    Equal lengths stand side by side. A text longer than the budget is a batch of its own. What does
    not fit into memory then fails at once, not after hours.
    """
    order = _longest_first(lengths)
    return _cut(order, np.cumsum(lengths[order]), budget)


def padded_batches(lengths: Integers, budget: int) -> list[Integers]:
    """Cut texts into batches of at most ``budget`` tokens, padding included."""
    order = _longest_first(lengths)
    batches = []
    start = 0
    while start < len(order):
        count = max(1, budget // max(1, int(lengths[order[start]])))
        batches.append(order[start : start + count])
        start += count
    return batches


def _longest_first(lengths: Integers) -> Integers:
    return np.argsort(-lengths, kind="stable")


def _cut(order: Integers, ends: Integers, budget: int) -> list[Integers]:
    batches = []
    start, used = 0, 0
    while start < len(order):
        stop = max(start + 1, int(np.searchsorted(ends, used + budget, "right")))
        batches.append(order[start:stop])
        used = int(ends[stop - 1])
        start = stop
    return batches
