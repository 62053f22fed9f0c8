"""Masked texts: what RetroMAE's encoder is shown, and what each position of its decoder sees.

RetroMAE (arXiv 2205.12035, section 3). Every choice is a hash of (seed, step, passage, position):
neither the number of processes nor the order of rows changes it.

Shapes: T tokens of all texts one after another; N texts; L tokens of the longest text.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from catalog.draws import draw
from mining.kernels import kernel
from mining.token_batches import TokenizedTexts
from trainer.permutation import mix
from trainer.words import Words, check_kind, number_words

Integers = npt.NDArray[np.int64]
Keys = npt.NDArray[np.uint64]
Mask = npt.NDArray[np.bool_]

# Of the tokens chosen for the encoder's mask: 80 % become [MASK], 10 % any token, 10 % stay
# (BERT, arXiv 1810.04805).
_MASKED, _REPLACED = 0.8, 0.9
# Words whose visibility is drawn from one hash of 64 bits.
_BITS, _SHARE = np.uint64(16), np.uint64(0xFFFF)
_TWO, _THREE, _32 = np.uint64(2), np.uint64(3), np.uint64(32)
_LOW = np.uint64(0xFFFFFFFF)


@dataclass(frozen=True)
class MaskSettings:
    """Shares of tokens that are hidden, and what is hidden together (see ``trainer.words``).

    Defaults are the authors': 0.3 of the encoder's input, 0.5 of what a position of the decoder
    could see. Each word is hidden with this chance, so a short text may have none.
    """

    encoder_share: float = 0.3
    decoder_share: float = 0.5
    words: str = "none"

    def __post_init__(self) -> None:
        for name in ("encoder_share", "decoder_share"):
            if not 0 < getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be between 0 and 1")
        check_kind(self.words)


@dataclass(frozen=True, eq=False)
class MaskedTexts:
    """Texts of a step: their tokens, what the encoder sees of them, and what they are drawn by.

    ``is_content`` [T] are the tokens that stand for text; ``is_masked`` [T] those of them that the
    encoder must find; ``words`` [T] number the words of each text; ``keys`` [N] draw visibility.
    """

    texts: TokenizedTexts
    seen: Integers
    is_masked: Mask
    is_content: Mask
    words: Integers
    keys: Keys
    decoder_share: float

    def __len__(self) -> int:
        return len(self.texts)

    def take(self, rows: Integers) -> "MaskedTexts":
        """Return chosen texts in the order given."""
        lengths = self.texts.lengths
        chosen = TokenizedTexts(np.arange(len(self.seen)), lengths).take(rows)
        at = chosen.tokens
        return MaskedTexts(
            TokenizedTexts(self.texts.tokens[at], chosen.lengths), self.seen[at],
            self.is_masked[at], self.is_content[at], self.words[at], self.keys[rows],
            self.decoder_share,
        )  # fmt: skip

    def visibility(self) -> Mask:
        """Return what each position but the first may see, N x (L - 1) x L.

        Position i sees the first, which holds the sentence embedding, never itself, and every
        other word by a chance of its own (section 3.3).
        """
        lengths = self.texts.lengths
        longest = max(1, int(lengths.max(initial=1)))
        visible = np.zeros((len(lengths), longest - 1, longest), np.bool_)
        shown = np.uint64(round((1 - self.decoder_share) * (1 << int(_BITS))))
        _fill_visibility(self.keys, lengths, self.words, shown, visible)
        return visible


class Masker:
    """Turns texts into masked texts; two calls with the same rows give the same masks."""

    def __init__(self, tokenizer: Any, max_tokens: int, settings: MaskSettings, seed: int) -> None:
        self.settings, self.seed = settings, seed
        self.words = Words(settings.words, tokenizer, max_tokens)
        self.mask_token, self.vocabulary = tokenizer.mask_token_id, len(tokenizer)
        if self.mask_token is None:
            raise ValueError("the model's tokenizer has no [MASK]; pre-training needs one")
        edges = [tokenizer.cls_token_id, tokenizer.sep_token_id]
        self.is_edge = np.zeros(self.vocabulary, np.bool_)
        self.is_edge[[token for token in edges if token is not None]] = True
        tokens, _ = self.words.tokenize(["1"])
        if not len(tokens.tokens) or not self.is_edge[tokens.tokens[0]]:
            raise ValueError(
                "the model's tokenizer puts no [CLS] before a text; RetroMAE's decoder has the "
                "sentence embedding in its place"
            )

    def mask(self, texts: list[str], rows: Integers, step: int) -> MaskedTexts:
        """Mask the texts of passages, which ``rows`` number, for a step."""
        tokens, begins = self.words.tokenize(texts)
        words = number_words(begins, tokens.lengths)
        is_content = ~self.is_edge[tokens.tokens]
        chosen, visible = (
            draw(self.seed, purpose, np.array(step), rows)
            for purpose in ("encoder mask", "decoder mask")
        )
        is_masked = np.zeros(len(tokens.tokens), np.bool_)
        share = np.uint64(round(self.settings.encoder_share * (1 << 32)))
        _choose_words(chosen, tokens.lengths, words, is_content, share, is_masked)
        at = np.flatnonzero(is_masked)
        passages, places = np.repeat(rows, tokens.lengths)[at], tokens.places()[at]
        drawn = draw(self.seed, "replacement", np.array(step), passages, places)
        seen = tokens.tokens.copy()
        seen[at] = self._replace(seen[at], drawn)
        return MaskedTexts(
            tokens, seen, is_masked, is_content, words, visible, self.settings.decoder_share
        )

    def _replace(self, tokens: Integers, drawn: Keys) -> Integers:
        """Return what stands in the place of chosen tokens."""
        chance = (drawn & _LOW).astype(np.float64) / (1 << 32)
        others = (((drawn >> _32) * np.uint64(self.vocabulary)) >> _32).astype(np.int64)
        replaced = np.where(chance < _REPLACED, others, tokens)
        return np.where(chance < _MASKED, self.mask_token, replaced)


@kernel
def _choose_words(
    keys: Keys,
    lengths: Integers,
    words: Integers,
    is_content: Mask,
    share: np.uint64,
    is_chosen: Mask,
) -> None:
    at = 0
    for n in range(len(lengths)):
        for _ in range(lengths[n]):
            is_chosen[at] = is_content[at] and mix(keys[n] ^ np.uint64(words[at])) >> _32 < share
            at += 1


@kernel
def _fill_visibility(
    keys: Keys, lengths: Integers, words: Integers, shown: np.uint64, visible: Mask
) -> None:
    first = 0
    for n in range(len(lengths)):
        for i in range(1, visible.shape[2]):
            row = visible[n, i - 1]
            row[0] = True
            if i < lengths[n]:
                key = mix(keys[n] ^ np.uint64(i))
                last, drawn = np.uint64(0), mix(key)
                for j in range(1, lengths[n]):
                    word = np.uint64(words[first + j])
                    if word >> _TWO != last:
                        last = word >> _TWO
                        drawn = mix(key ^ last)
                    row[j] = (drawn >> ((word & _THREE) * _BITS)) & _SHARE < shown
                row[i] = False
        first += lengths[n]
