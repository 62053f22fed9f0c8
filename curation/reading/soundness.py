"""Whether a text can be a side of a pair: not blank, no NUL, not of absurd size."""

import unicodedata
from functools import cache

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from curation.reading.faults import Faults, text_type_fault
from curation.texts import Texts, decode

# Code points that leave no mark: white space, control and format characters.
_INVISIBLE_CATEGORIES = ("Zs", "Zl", "Zp", "Cc", "Cf")
_CODES = 0x110000


def text_fault(text: str, max_bytes: int) -> str | None:
    """Say what is wrong with a text, or None. NUL ends a text early in databases and in C."""
    if len(text) > max_bytes or (4 * len(text) > max_bytes and len(text.encode()) > max_bytes):
        return "is longer than max_text_bytes"
    if "\0" in text:
        return "holds a NUL character"
    if not any(not _is_invisible(char) for char in text):
        return "is empty"
    return None


def value_fault(value: object, max_bytes: int) -> str | None:
    """Say what is wrong with a value that must be a text, or None."""
    if value is None:
        return "is missing"
    fault = text_type_fault(value)
    return fault if fault or not isinstance(value, str) else text_fault(value, max_bytes)


def column_faults(column: pa.Array, target: str, max_bytes: int, faults: Faults) -> Texts:
    """Note the faults of a column of texts, and return it decoded. Nulls pass."""
    lengths = pc.binary_length(column).fill_null(0).to_numpy(zero_copy_only=False)
    oversized = np.flatnonzero(lengths > max_bytes)
    for at in oversized.tolist():
        faults.add(at, f"{target} is longer than max_text_bytes")
    if len(oversized):
        column = pc.if_else(pa.array(lengths <= max_bytes), column, pa.scalar(None, pa.string()))
    texts = decode(column)
    for at in np.flatnonzero(_is_suspect(texts)).tolist():
        fault = text_fault(texts.text(at), max_bytes)
        if fault:
            faults.add(at, f"{target} {fault}")
    return texts


def _is_suspect(texts: Texts) -> npt.NDArray[np.bool_]:
    """Find the few texts that may be blank (they begin with nothing visible) or hold a NUL."""
    starts, ends = texts.offsets[:-1], texts.offsets[1:]
    suspect: npt.NDArray[np.bool_] = texts.valid & (starts == ends)
    filled = np.flatnonzero(texts.valid & (starts < ends))
    suspect[filled] = _invisible()[texts.codepoints[starts[filled]]]
    nuls = np.flatnonzero(texts.codepoints == 0)
    suspect[np.searchsorted(ends, nuls, side="right")] = True
    return suspect


def _is_invisible(char: str) -> bool:
    return bool(_invisible()[ord(char)])


@cache
def _invisible() -> npt.NDArray[np.bool_]:
    table = np.zeros(_CODES, np.bool_)
    for code in (*range(0x20000), *range(0xE0000, 0xE1000)):  # no other plane has such characters
        char = chr(code)
        table[code] = char.isspace() or unicodedata.category(char) in _INVISIBLE_CATEGORIES
    return table
