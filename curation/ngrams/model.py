"""A trigram model of characters as tables: bits per character of a text.

Interpolated Kneser-Ney (Kneser and Ney 1995; Chen and Goodman 1998) written as a back-off model:
``log p(w | u v)`` is stored where the trigram is, else it is ``back-off(u v) + log p(w | v)``. A
character is 21 bits, so a trigram is a number of 63: tables hold the n-grams themselves, no hashes.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from catalog.records import sync_file, to_json, writing
from curation.texts import CodePoints, Offsets, Texts, kernel

UNKNOWN: Final = 1
START: Final = 2
FIRST_ID: Final = 3
# An unknown character is one of some twenty thousand: as a class alone, mojibake were predictable.
UNKNOWN_BITS: Final = 14.0
_FORMAT: Final = "lode-ngrams-1"

Keys = npt.NDArray[np.uint64]
Logs = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class NgramModel:
    """``codes`` [v] are the characters that have an id, from FIRST_ID on, ascending.

    ``unigrams`` and ``unigram_backoffs`` [v + 3] are base-2 logarithms by id. ``keys`` [n] are
    bigrams ``v << 21 | w`` and trigrams ``u << 42 | v << 21 | w`` of ids, ascending, with
    ``values`` [n] and ``backoffs`` [n], 0 for trigrams.
    """

    codes: npt.NDArray[np.uint32]
    unigrams: Logs
    unigram_backoffs: Logs
    keys: Keys
    values: Logs
    backoffs: Logs

    def bits(self, texts: Texts) -> Logs:
        """Return the mean bits per character of each text [n]; NaN for one without characters.

        Runs of white space count as one space, digits as one digit, and Latin letters in lower
        case, so that a number is not surprising. 5 to 8 are usual for Chinese; above 10 a text is
        unlike the corpus.
        """
        return _score(
            texts.codepoints, texts.offsets, self._ids, self._slots,
            (self.values, self.backoffs), (self.unigrams, self.unigram_backoffs),
        )  # fmt: skip

    @cached_property
    def _ids(self) -> npt.NDArray[np.int32]:
        return id_table(self.codes)

    @cached_property
    def _slots(self) -> tuple[Keys, npt.NDArray[np.int32]]:
        size = 1 << max(4, int(1.6 * max(len(self.keys), 1)).bit_length())
        return _fill(self.keys, size)


def save_ngrams(model: NgramModel, path: Path, metadata: Mapping[str, str]) -> None:
    """Write a model, whole or not at all; ``metadata`` says what it was learned from."""
    aside = path.with_name(f".{path.name}.tmp")
    with writing(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        arrays = {name: getattr(model, name) for name in NgramModel.__dataclass_fields__}
        # One entry: the order of several is not the same in every process.
        save_file(arrays, aside, {_FORMAT: to_json(dict(metadata))})
        sync_file(aside)
        aside.rename(path)


@lru_cache(maxsize=4)
def load_ngrams(path: Path) -> NgramModel:
    """Read a model; ValueError for a file that holds none."""
    try:
        arrays: dict[str, Any] = load_file(path)
    except (OSError, SafetensorError) as error:
        raise ValueError(f"{path} is no n-gram model: {error}") from None
    missing = set(NgramModel.__dataclass_fields__) - set(arrays)
    if missing:
        raise ValueError(f"{path} is no n-gram model: it lacks {', '.join(sorted(missing))}")
    return NgramModel(**{name: arrays[name] for name in NgramModel.__dataclass_fields__})


def id_table(codes: npt.NDArray[np.uint32]) -> npt.NDArray[np.int32]:
    """Return the id of every code point, after folding; UNKNOWN for those without one."""
    own = np.full(0x110000, UNKNOWN, np.int32)
    own[codes] = np.arange(FIRST_ID, FIRST_ID + len(codes))
    return own[fold_table()]


@lru_cache(maxsize=1)
def fold_table() -> npt.NDArray[np.uint32]:
    """Return what each code point counts as: ASCII in lower case, a digit, a space, or itself."""
    folded = np.arange(0x110000, dtype=np.uint32)
    folded[0xFF01:0xFF5F] = np.arange(0x21, 0x7F)  # full width
    folded[0x3000] = 0x20
    for space in (0x09, 0x0A, 0x0D, 0xA0):
        folded[space] = 0x20
    upper = (folded >= 0x41) & (folded <= 0x5A)
    folded[upper] += 0x20
    folded[(folded >= 0x30) & (folded <= 0x39)] = 0x30
    return folded


@kernel
def to_ids(
    codepoints: CodePoints,
    start: int,
    end: int,
    ids: npt.NDArray[np.int32],
    space: int,
    out: npt.NDArray[np.int32],
) -> int:
    """Write the ids of a text's characters, one for a run of spaces; return how many."""
    count = 0
    for at in range(start, end):
        own = ids[codepoints[at]]
        if own == space and count > 0 and out[count - 1] == space:
            continue
        out[count] = own
        count += 1
    return count


@kernel
def _hash(key: np.uint64, mask: np.uint64) -> np.uint64:
    mixed = key * np.uint64(0x9E3779B97F4A7C15)
    return (mixed ^ (mixed >> np.uint64(29))) & mask


@kernel
def _fill(keys: Keys, size: int) -> tuple[Keys, npt.NDArray[np.int32]]:
    """Put keys into an open-addressing table of ``size`` slots, with their places; 0 is empty."""
    slots = np.zeros(size, np.uint64)
    places = np.zeros(size, np.int32)
    mask = np.uint64(size - 1)
    for place in range(len(keys)):
        slot = _hash(keys[place], mask)
        while slots[slot] != 0:
            slot = (slot + np.uint64(1)) & mask
        slots[slot] = keys[place]
        places[slot] = place
    return slots, places


@kernel
def _find(key: np.uint64, slots: Keys, places: npt.NDArray[np.int32]) -> int:
    mask = np.uint64(len(slots) - 1)
    slot = _hash(key, mask)
    while slots[slot] != 0:
        if slots[slot] == key:
            return int(places[slot])
        slot = (slot + np.uint64(1)) & mask
    return -1


@kernel
def _score(
    codepoints: CodePoints,
    offsets: Offsets,
    ids: npt.NDArray[np.int32],
    index: tuple[Keys, npt.NDArray[np.int32]],
    ngrams: tuple[Logs, Logs],
    singles: tuple[Logs, Logs],
) -> Logs:
    slots, places = index
    values, backoffs = ngrams
    unigrams, unigram_backoffs = singles
    rows = len(offsets) - 1
    bits = np.full(rows, np.nan, np.float32)
    longest = 0
    for row in range(rows):
        longest = max(longest, offsets[row + 1] - offsets[row])
    text = np.empty(max(longest, 1), np.int32)
    space = ids[0x20]
    for row in range(rows):
        count = to_ids(codepoints, offsets[row], offsets[row + 1], ids, space, text)
        if count == 0:
            continue
        u, v, total = np.uint64(START), np.uint64(START), 0.0
        for at in range(count):
            w = np.uint64(text[at])
            if w == UNKNOWN:
                total += UNKNOWN_BITS
            found = _find((u << np.uint64(42)) | (v << np.uint64(21)) | w, slots, places)
            if found >= 0:
                total -= values[found]
            else:
                context = _find((u << np.uint64(21)) | v, slots, places)
                if context >= 0:
                    total -= backoffs[context]
                found = _find((v << np.uint64(21)) | w, slots, places)
                if found >= 0:
                    total -= values[found]
                else:
                    total -= unigram_backoffs[v] + unigrams[w]
            u, v = v, w
        bits[row] = total / count
    return bits
