"""Where words begin among the tokens of texts: what is masked as a whole, or not at all.

Chinese BERTs read Han characters one by one and mark only later pieces of Latin words (``##``), so
whole words of Chinese (arXiv 1906.08101) come from a segmenter.
"""

import logging
from collections.abc import Sequence
from typing import Any, Final, Literal, get_args

import numpy as np
import numpy.typing as npt

from catalog.expressions import unknown_name
from mining.token_batches import TokenizedTexts

Mask = npt.NDArray[np.bool_]
Integers = npt.NDArray[np.int64]
WordKind = Literal["none", "continuations", "jieba"]

KINDS: Final = get_args(WordKind)
CONTINUES: Final = "##"


def check_kind(kind: str) -> None:
    """Raise where a kind of words is not known."""
    if kind not in KINDS:
        raise ValueError(unknown_name("words", kind, KINDS))


class Words:
    """Tokens of texts, and for each whether it is the first of its word.

    ``none``: every token is a word of its own. ``continuations``: a piece that the tokenizer marks
    with ``##`` belongs to the word before it. ``jieba``: so does every token that begins inside a
    word that jieba cut.
    """

    def __init__(self, kind: str, tokenizer: Any, max_tokens: int) -> None:
        check_kind(kind)
        self.kind, self.tokenizer, self.max_tokens = kind, tokenizer, max_tokens
        self.continues = _continuing_pieces(tokenizer)
        if kind == "continuations" and not self.continues.any():
            raise ValueError(
                f"words = 'continuations' needs a tokenizer that marks pieces with {CONTINUES!r}, "
                "and this model's marks none; set words to 'jieba' or 'none'"
            )
        self._cut = _import_jieba() if kind == "jieba" else None

    def tokenize(self, texts: Sequence[str]) -> tuple[TokenizedTexts, Mask]:
        """Return the tokens of texts, special ones included, and which of them begin a word."""
        is_wanted = self.kind == "jieba"
        found = self.tokenizer(
            list(texts), truncation=True, max_length=self.max_tokens, padding=False,
            return_attention_mask=False, return_token_type_ids=False,
            return_offsets_mapping=is_wanted,
        )  # fmt: skip
        tokens = TokenizedTexts.of(found["input_ids"])
        if self.kind == "none":
            return tokens, np.ones(len(tokens.tokens), np.bool_)
        begins = ~self.continues[tokens.tokens]
        if is_wanted:
            begins &= self._begins(texts, tokens, found["offset_mapping"])
        return tokens, begins

    def _begins(
        self, texts: Sequence[str], tokens: TokenizedTexts, offsets: Sequence[Sequence[Any]]
    ) -> Mask:
        """Say of each token whether it is in another word than the token before it."""
        pairs = np.array([pair for each in offsets for pair in each], np.int64).reshape(-1, 2)
        starts = np.cumsum([0, *map(len, texts)])[:-1]
        chars = pairs[:, 0] + np.repeat(starts, tokens.lengths)
        words = np.append(self._number_words(texts), -1)[np.minimum(chars, len("".join(texts)))]
        is_special = pairs[:, 0] == pairs[:, 1]  # it stands for no characters
        words[is_special] = -1
        begins: Mask = np.ones(len(words), np.bool_)
        begins[1:] = (words[1:] != words[:-1]) | is_special[1:]
        return begins

    def _number_words(self, texts: Sequence[str]) -> Integers:
        """Return the number of the word of every character of all texts."""
        assert self._cut is not None
        lengths = [len(word) for text in texts for word in self._cut(text)]
        return np.repeat(np.arange(len(lengths)), lengths)


def number_words(begins: Mask, lengths: Integers) -> Integers:
    """Return each token's word in its text, from 0; ``begins`` are the first tokens of words."""
    counted = np.cumsum(begins)
    starts = np.cumsum(lengths) - lengths
    some = lengths > 0
    numbers: Integers = counted - np.repeat(counted[starts[some]], lengths[some])
    return numbers


def _continuing_pieces(tokenizer: Any) -> Mask:
    continues = np.zeros(len(tokenizer), np.bool_)
    for piece, number in tokenizer.get_vocab().items():
        continues[number] = piece.startswith(CONTINUES) and len(piece) > len(CONTINUES)
    return continues


def _import_jieba() -> Any:
    try:
        import jieba  # loads its dictionary for a second, so only where it is wanted
    except ImportError:
        raise ValueError(
            "words = 'jieba' needs jieba: pip install 'lode-engine[words]', or set words to "
            "'continuations' or 'none'"
        ) from None
    jieba.setLogLevel(logging.WARNING)
    return jieba.cut
