"""How a classifier reads texts, in training and in use alike."""

import numpy as np

from curation.texts import Texts, normalize


def read_texts(texts: Texts, reads: str, max_chars: int) -> Texts:
    """Cut texts to their first characters; normalise them where the classifier reads them so."""
    texts = cut(texts, max_chars)
    return normalize(texts) if reads == "normalized" else texts


def cut(texts: Texts, max_chars: int) -> Texts:
    """Keep the first characters of each text."""
    lengths = np.minimum(texts.lengths, max_chars)
    if (lengths == texts.lengths).all():
        return texts
    offsets = np.zeros(len(texts) + 1, np.int64)
    np.cumsum(lengths, out=offsets[1:])
    places = np.arange(offsets[-1]) + np.repeat(texts.offsets[:-1] - offsets[:-1], lengths)
    return Texts(texts.codepoints[places], offsets, texts.valid)
