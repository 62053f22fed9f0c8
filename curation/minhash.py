"""MinHash band keys: texts that share a band key are candidates for near-duplicates.

A text is the set of its character n-grams: Chinese has no word borders to rely on. Of every one of
``bands x rows_per_band`` permutations the minimum is kept, and a band key mixes the minima of one
band. Texts with Jaccard similarity s share a given band's key with probability s ** rows_per_band,
and at least one key with 1 - (1 - s ** rows_per_band) ** bands: 0.92 at 0.8 and 0.9996 at 0.9 for
14 x 8. Texts that share a key are candidates only: ``curation.duplicates`` compares them.
"""

from dataclasses import dataclass
from functools import cache
from typing import Final

import numpy as np
import numpy.typing as npt
import xxhash
from datasketch import MinHashLSH

from catalog.bounds import check_at_least_one
from curation.texts import CodePoints, Flags, Offsets, Texts, kernel

Hashes = npt.NDArray[np.uint64]
Words = npt.NDArray[np.uint32]

# Multipliers of the hashes: the golden ratio of 2**64, and a constant of Steele and Vigna.
_GOLDEN: Final = np.uint64(0x9E3779B97F4A7C15)
_MIX: Final = np.uint64(0xE9846AF9B1A615D)
_HALF: Final = np.uint64(32)
# N-grams hashed at a time: 8 KiB stays in the first-level cache, and a text of any length fits.
_BLOCK: Final = 1024
# N-grams compared with each loaded minimum: with fewer, loads are the limit (measured: 4 is 10 %
# slower); the kernel below is written out for it.
_UNROLLED: Final = 8


@dataclass(frozen=True)
class MinHashSettings:
    """What decides band keys: keys made with different settings never match."""

    ngram_chars: int = 5
    bands: int = 14  # 14 x 8 is FineWeb's: what is found rises steepest at Jaccard 0.72
    rows_per_band: int = 8
    seed: int = 1

    def __post_init__(self) -> None:
        check_at_least_one(self, "ngram_chars", "bands", "rows_per_band")

    @classmethod
    def for_threshold(
        cls, threshold: float, num_perm: int = 112, *, miss_weight: float = 0.95
    ) -> "MinHashSettings":
        """Let datasketch choose bands and rows for a Jaccard similarity.

        ``miss_weight`` is the weight of missed pairs against needless comparisons. Every candidate
        is compared exactly: a needless one costs a microsecond, a missed one is lost. 0.95 gives
        14 x 8 for 0.8.
        """
        for name, value in (("threshold", threshold), ("miss_weight", miss_weight)):
            if not 0 < value < 1:
                raise ValueError(f"{name} is {value}; it must lie between 0 and 1")
        chosen = MinHashLSH(threshold, num_perm, weights=(1 - miss_weight, miss_weight))
        return cls(bands=chosen.b, rows_per_band=chosen.r)

    @property
    def num_perm(self) -> int:
        """Count the permutations."""
        return self.bands * self.rows_per_band

    def share_probability(self, jaccard: float) -> float:
        """Give the probability that two texts of this similarity share at least one band key."""
        return float(1 - (1 - jaccard**self.rows_per_band) ** self.bands)


def band_keys(normalized: Texts, settings: MinHashSettings) -> tuple[Hashes, Flags]:
    """Compute the band keys (n, bands) of normalised texts, and which texts have keys.

    A text shorter than ngram_chars has none (its row is 0): it is a single shingle, so only its
    equals are near-duplicates of it, and those the exact keys find. Null texts have none either.
    """
    keys = np.zeros((len(normalized), settings.bands), np.uint64)
    _write_band_keys(
        normalized.codepoints,
        normalized.offsets,
        settings.ngram_chars,
        _permutations(settings.seed, settings.num_perm),
        keys,
    )
    return keys, normalized.valid & (normalized.lengths >= settings.ngram_chars)


@cache
def _permutations(seed: int, num_perm: int) -> Words:
    """Draw the permutations of 32-bit hashes: (odd multipliers, offsets)."""

    def draw(purpose: str) -> list[int]:
        names = [f"minhash {purpose} {seed} {number}" for number in range(num_perm)]
        return [xxhash.xxh3_64_intdigest(name) >> 32 for name in names]

    odd = [multiplier | 1 for multiplier in draw("multiplier")]
    return np.array([odd, draw("offset")], np.uint32)


@kernel
def hash_ngrams(
    codepoints: CodePoints, start: int, count: int, ngram_chars: int, out: Hashes
) -> None:
    """Hash the n-grams that begin at start, start + 1 … to 64 well mixed bits each."""
    for at in range(count):
        out[at] = np.uint64(codepoints[start + at])
    for step in range(1, ngram_chars):
        for at in range(count):
            out[at] = out[at] * _GOLDEN + np.uint64(codepoints[start + step + at])
    for at in range(count):
        value = out[at]
        value = (value ^ (value >> _HALF)) * _MIX
        value = (value ^ (value >> _HALF)) * _MIX
        out[at] = value ^ (value >> np.uint64(28))


@kernel
def _lower_minima(hashes: Hashes, count: int, permutations: Words, out: Words) -> None:
    """Lower the minima by the upper halves of `count` hashes; the array has room behind them.

    Numba widens uint32 * uint32 to 64 bits: each product is cut back to wrap around, which is what
    makes it a permutation, and what keeps the loop over permutations in vector registers.
    """
    for at in range(count, count + _UNROLLED - 1):  # a repeated hash lowers nothing
        hashes[at] = hashes[count - 1]
    multipliers, offsets = permutations[0], permutations[1]
    for at in range(0, count, _UNROLLED):
        h0, h1 = np.uint32(hashes[at] >> _HALF), np.uint32(hashes[at + 1] >> _HALF)
        h2, h3 = np.uint32(hashes[at + 2] >> _HALF), np.uint32(hashes[at + 3] >> _HALF)
        h4, h5 = np.uint32(hashes[at + 4] >> _HALF), np.uint32(hashes[at + 5] >> _HALF)
        h6, h7 = np.uint32(hashes[at + 6] >> _HALF), np.uint32(hashes[at + 7] >> _HALF)
        for p in range(len(out)):
            a, b = multipliers[p], offsets[p]
            low01 = min(np.uint32(a * h0 + b), np.uint32(a * h1 + b))
            low23 = min(np.uint32(a * h2 + b), np.uint32(a * h3 + b))
            low45 = min(np.uint32(a * h4 + b), np.uint32(a * h5 + b))
            low67 = min(np.uint32(a * h6 + b), np.uint32(a * h7 + b))
            out[p] = min(out[p], min(min(low01, low23), min(low45, low67)))


@kernel
def _write_band_keys(
    codepoints: CodePoints,
    text_offsets: Offsets,
    ngram_chars: int,
    permutations: Words,
    out: Hashes,
) -> None:
    """Compute the keys of all texts; permutation row * bands + band belongs to the band.

    Neighboring permutations belong to different bands, so the mixing runs over bands in vectors.
    """
    bands = out.shape[1]
    hashes = np.empty(_BLOCK + _UNROLLED, np.uint64)
    lowest = np.empty(permutations.shape[1], np.uint32)
    for text in range(len(text_offsets) - 1):
        end = text_offsets[text + 1] - ngram_chars + 1
        if end <= text_offsets[text]:
            continue
        lowest[:] = np.uint32(0xFFFFFFFF)
        for first in range(text_offsets[text], end, _BLOCK):
            count = min(_BLOCK, end - first)
            hash_ngrams(codepoints, first, count, ngram_chars, hashes)
            _lower_minima(hashes, count, permutations, lowest)
        for band in range(bands):
            out[text, band] = np.uint64(band + 1) * _GOLDEN
        for first in range(0, len(lowest), bands):
            for band in range(bands):
                mixed = (out[text, band] ^ np.uint64(lowest[first + band])) * _MIX
                out[text, band] = mixed ^ (mixed >> _HALF)
        for band in range(bands):
            mixed = out[text, band] * _GOLDEN
            out[text, band] = mixed ^ (mixed >> np.uint64(29))
