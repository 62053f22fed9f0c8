"""An index of evaluation texts: which texts of a batch are equal to one of them, or nearly so.

Equal means that the keys are (``curation.texts``): another width, script, case, punctuation or
spacing is the same text. Nearly equal is found by MinHash bands and decided by the exact Jaccard
similarity of character n-grams.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from catalog.records import sync_file
from curation.duplicates.shingles import Shingles, jaccard, shingle
from curation.minhash import Hashes, MinHashSettings, band_keys
from curation.texts import Flags, Offsets, Texts, from_strings, normalize, text_keys

Rows = npt.NDArray[np.int64]
Similarities = npt.NDArray[np.float32]
_ARRAYS: Final = ("keys", "bands", "members", "hashes", "offsets")
# Sets are small, and a miss is worse than a comparison: at 0.8 one pair in a million is missed.
BANDS: Final = MinHashSettings(ngram_chars=3, bands=28, rows_per_band=4)


@dataclass(frozen=True)
class Matches:
    """Row of the batch, number of the evaluation text, their Jaccard similarity, and equality [m].

    Texts of the same n-grams in another number or order have a similarity of 1 and are not equal.
    """

    rows: Rows
    texts: Rows
    jaccard: Similarities
    is_equal: Flags


@dataclass(frozen=True, eq=False)
class ContaminationIndex:
    """Distinct evaluation texts, numbered in the order of their keys.

    ``keys`` [t] ascend; ``bands`` and ``members`` [bands, t] are each band's keys, ascending, and
    the texts that have them; ``hashes`` and ``offsets`` are the texts' shingles.
    """

    keys: npt.NDArray[np.bytes_]
    bands: Hashes
    members: Rows
    hashes: Hashes
    offsets: Offsets

    @classmethod
    def build(cls, texts: Sequence[str]) -> tuple["ContaminationIndex", Rows]:
        """Return the index of texts, and the number that each of them has in it."""
        normalized = normalize(from_strings(texts))
        keys, first, numbers = np.unique(
            _key_bytes(normalized), return_index=True, return_inverse=True
        )
        distinct = normalize(from_strings([texts[row] for row in first]))
        found, valid = band_keys(distinct, BANDS)
        found = found[valid].T
        order = np.argsort(found, axis=1, kind="stable")
        members = np.flatnonzero(valid)[order]
        sets = shingle(distinct, BANDS.ngram_chars)
        bands = np.take_along_axis(found, order, axis=1)
        return cls(keys, bands, members, sets.hashes, sets.offsets), numbers

    def save(self, folder: Path) -> None:
        """Write the arrays; the workers of a job map them."""
        folder.mkdir(parents=True, exist_ok=True)
        for name in _ARRAYS:
            np.save(folder / f"{name}.npy", getattr(self, name))
            sync_file(folder / f"{name}.npy")

    @classmethod
    def load(cls, folder: Path) -> "ContaminationIndex":
        """Map what ``save`` wrote."""
        arrays = (np.load(folder / f"{name}.npy", mmap_mode="r") for name in _ARRAYS)
        return cls(*map(np.asarray, arrays))

    def match(self, normalized: Texts, floor: float) -> Matches:
        """Find the evaluation texts that normalised texts are equal to, or similar from a floor on.

        Texts shorter than an n-gram are only compared for equality.
        """
        exact_rows, exact_texts = self._equal(normalized)
        rows, texts = self._candidates(normalized)
        is_known = np.isin(_pack(rows, texts), _pack(exact_rows, exact_texts))
        rows, texts = rows[~is_known], texts[~is_known]
        similarity = self._similarity(normalized, rows, texts, floor)
        is_near = similarity > 0
        return Matches(
            np.concatenate([exact_rows, rows[is_near]]),
            np.concatenate([exact_texts, texts[is_near]]),
            np.concatenate([np.ones(len(exact_rows), np.float32), similarity[is_near]]),
            np.arange(len(exact_rows) + is_near.sum()) < len(exact_rows),
        )

    def _equal(self, normalized: Texts) -> tuple[Rows, Rows]:
        wanted = _key_bytes(normalized)
        places = np.minimum(np.searchsorted(self.keys, wanted), len(self.keys) - 1)
        rows = np.flatnonzero((self.keys[places] == wanted) & normalized.valid)
        return rows, places[rows]

    def _candidates(self, normalized: Texts) -> tuple[Rows, Rows]:
        """Return (row, text) of all that share a band key, each pair once."""
        keys, valid = band_keys(normalized, BANDS)
        owners = np.flatnonzero(valid)
        found = [np.empty(0, np.uint64)]
        for band in range(BANDS.bands):
            wanted = keys[owners, band]
            low = np.searchsorted(self.bands[band], wanted, "left")
            counts = np.searchsorted(self.bands[band], wanted, "right") - low
            rows = np.repeat(owners, counts)
            within = np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts)
            members = self.members[band][np.repeat(low, counts) + within]
            found.append(_pack(rows, members))
        packed = np.unique(np.concatenate(found))
        return (packed >> np.uint64(32)).astype(np.int64), (packed & np.uint64(0xFFFFFFFF)).astype(
            np.int64
        )

    def _similarity(self, normalized: Texts, rows: Rows, texts: Rows, floor: float) -> Similarities:
        """Compare only what is in question: few texts of a corpus are near any evaluation text."""
        own, own_places = np.unique(rows, return_inverse=True)
        theirs, their_places = np.unique(texts, return_inverse=True)
        chosen = shingle(
            from_strings([normalized.text(int(row)) for row in own]), BANDS.ngram_chars
        )
        counts = self.offsets[theirs + 1] - self.offsets[theirs]
        within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        hashes = self.hashes[np.repeat(self.offsets[theirs], counts) + within]
        both = Shingles(
            np.concatenate([chosen.hashes, hashes]),
            np.concatenate([chosen.offsets, chosen.offsets[-1] + np.cumsum(counts)]),
        )
        return jaccard(both, own_places, len(own) + their_places, floor)


def _key_bytes(normalized: Texts) -> npt.NDArray[np.bytes_]:
    """Return the keys as fixed-width bytes, which numpy sorts; a null text has the key of zeros."""
    storage = text_keys(normalized).storage
    first = storage.offset * 16
    flat = np.frombuffer(storage.buffers()[1] or b"", np.uint8)[first : first + len(storage) * 16]
    # Fixed-width bytes drop zeros at the end, so that 00 would equal nothing: one more byte stands.
    wide = np.full((len(storage), 17), 1, np.uint8)
    wide[:, :16] = flat.reshape(-1, 16)
    return wide.reshape(-1).view("S17")


def _pack(rows: Rows, texts: Rows) -> npt.NDArray[np.uint64]:
    return (rows.astype(np.uint64) << np.uint64(32)) | texts.astype(np.uint64)
