"""Texts made worse on purpose, each in one way, by a seed."""

from collections.abc import Callable
from typing import Final

import numpy as np

# What a scanner or a hurried typist takes for each other; by shape and by sound.
_SHAPES: Final = (
    "未末己已人入土士日曰干千天夫大太木术刀力王玉",
    "末未已己入人士土曰日千干夫天太大术木力刀玉王",
)
_SOUNDS: Final = (
    "的地得在再是事他她做作和合有又到道就旧",
    "地得的再在事是她他作做合和又有道到旧就",
)
MISREAD: Final = str.maketrans(_SHAPES[0] + _SOUNDS[0], _SHAPES[1] + _SOUNDS[1])
Corruption = Callable[[str, np.random.Generator], str]


def shuffled(text: str, rng: np.random.Generator) -> str:
    """All characters in another order."""
    return "".join(rng.permutation(list(text)))


def swapped(text: str, rng: np.random.Generator) -> str:
    """A fifth of the characters change places with their neighbor."""
    own = list(text)
    for at in range(0, len(own) - 1, 2):
        if rng.random() < 0.4:
            own[at], own[at + 1] = own[at + 1], own[at]
    return "".join(own)


def dropped(text: str, rng: np.random.Generator) -> str:
    """A fifth of the characters are missing."""
    return "".join(one for one in text if rng.random() >= 0.2)


def doubled(text: str, rng: np.random.Generator) -> str:
    """A fifth of the characters come twice."""
    return "".join(one * (1 + (rng.random() < 0.2)) for one in text)


def misread(text: str, _: np.random.Generator) -> str:
    """Characters are taken for others of like shape or sound."""
    return text.translate(MISREAD)


def mojibake(text: str, _: np.random.Generator) -> str:
    """UTF-8 is read as GBK."""
    return text.encode().decode("gb18030", "replace")


def spliced(text: str, rng: np.random.Generator) -> str:
    """Pieces of four to eight characters, in another order."""
    pieces, at = [], 0
    while at < len(text):
        size = int(rng.integers(4, 9))
        pieces.append(text[at : at + size])
        at += size
    return "".join(rng.permutation(pieces))


CORRUPTIONS: Final[dict[str, Corruption]] = {
    one.__name__: one for one in (shuffled, swapped, dropped, doubled, misread, mojibake, spliced)
}
