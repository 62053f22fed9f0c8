"""Columns of texts as code points: decoded from Arrow in place, normalised for keys, hashed.

Two texts that a reader calls the same text must have one key. Normalisation is one table walk:

    NFKC of the code point -> traditional to simplified (OpenCC t2s, character by character)
    -> lower case -> strip

- The stored text is never rewritten: NFKC turns ， into a comma.
- Characters are converted one by one, not phrase by phrase: a key must not depend on how OpenCC's
  dictionary segments the text, and a table walk is ten times as fast.
- Stripped are white space, punctuation and what cannot be seen: categories Z*, P*, Cc, Cf and the
  variation selectors. Kept is what carries meaning: '#', '+', '%' (C# is not C, 50% is not 50), and
  a dot between two digits (3.5 is not 35). Digits are kept: 第3章 is not 第4章.
- A text of which nothing is left keeps its NFKC form without white space: "？？？" is not "!!!".
- NFKC of a whole text differs from its code points' NFKC only where a code point can combine with
  what stands before it (marks, Hangul jamo). Texts that hold one are first composed by unicodedata.
"""

import itertools
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Final, TypeVar, cast

import numba
import numpy as np
import numpy.typing as npt
import opencc
import pyarrow as pa
import pyarrow.compute as pc
import xxhash

CodePoints = npt.NDArray[np.uint32]
Offsets = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]
Hashes = npt.NDArray[np.uint64]
Integer = Any  # in a kernel: numba keeps the width that an integer is made with

_Kernel = TypeVar("_Kernel", bound=Callable[..., object])


def kernel(function: _Kernel) -> _Kernel:
    """Compile a function of arrays, once per machine, without the interpreter lock."""
    return cast(_Kernel, numba.njit(cache=True, nogil=True)(function))


@dataclass(frozen=True, eq=False)
class Texts:
    """A column of texts as code points: text i is codepoints[offsets[i]:offsets[i + 1]]."""

    codepoints: CodePoints
    offsets: Offsets  # n + 1
    valid: Flags  # n; False where the text is null

    def __len__(self) -> int:
        """Count the texts, nulls included."""
        return len(self.valid)

    @property
    def lengths(self) -> npt.NDArray[np.int64]:
        """Count the code points of each text; 0 where it is null."""
        return np.diff(self.offsets)

    def text(self, row: int) -> str:
        """Give one text as a Python string; empty where it is null."""
        codes = self.codepoints[self.offsets[row] : self.offsets[row + 1]]
        return codes.astype("<u4", copy=False).tobytes().decode("utf-32-le")


# Decoding ---------------------------------------------------------------------------------------


def decode(column: pa.Array | pa.ChunkedArray) -> Texts:
    """Decode a string column; ValueError names the first row that is not valid UTF-8."""
    if isinstance(column, pa.ChunkedArray):
        return _concatenate([decode(chunk) for chunk in column.chunks])
    wide = pa.types.is_large_string(column.type)
    if not (wide or pa.types.is_string(column.type)):
        raise ValueError(f"a text column is string or large_string, not {column.type}: cast it")
    size, start = len(column), column.offset
    if size == 0:
        return _concatenate([])
    _, offsets_buffer, data_buffer = column.buffers()
    bounds = np.frombuffer(offsets_buffer, np.int64 if wide else np.int32)[start : start + size + 1]
    data = np.frombuffer(data_buffer or b"", np.uint8)
    valid = np.asarray(column.is_valid().to_numpy(zero_copy_only=False), np.bool_)
    return _decode_utf8(data, bounds.astype(np.int64), valid)


def encode(texts: Texts) -> pa.Array:
    """Encode texts as pa.string()."""
    data, offsets = utf8(texts)
    if len(data) > np.iinfo(np.int32).max:
        raise ValueError(f"{len(data):,} bytes: a string array holds 2 GiB, split the batch")
    mask = None if texts.valid.all() else pa.array(texts.valid).buffers()[1]
    buffers = [mask, pa.py_buffer(offsets.astype(np.int32)), pa.py_buffer(data)]
    return pa.Array.from_buffers(pa.string(), len(texts), buffers)


def utf8(texts: Texts) -> tuple[npt.NDArray[np.uint8], Offsets]:
    """Give the UTF-8 of all texts, one after the other, and where each begins and ends."""
    offsets = _utf8_offsets(texts.codepoints, texts.offsets)
    data = np.empty(offsets[-1], np.uint8)
    _write_utf8(texts.codepoints, data)
    return data, offsets


def from_strings(strings: Iterable[str | None]) -> Texts:
    """Decode Python strings."""
    return decode(pa.array(strings, pa.string()))


def _concatenate(parts: Sequence[Texts]) -> Texts:
    if len(parts) == 1:
        return parts[0]
    lengths = [part.lengths for part in parts]
    offsets = np.zeros(sum(map(len, parts)) + 1, np.int64)
    if parts:
        np.cumsum(np.concatenate(lengths), out=offsets[1:])
    return Texts(
        np.concatenate([np.empty(0, np.uint32), *(part.codepoints for part in parts)]),
        offsets,
        np.concatenate([np.empty(0, np.bool_), *(part.valid for part in parts)]),
    )


def _decode_utf8(data: npt.NDArray[np.uint8], bounds: Offsets, valid: Flags) -> Texts:
    offsets = _codepoint_offsets(data, bounds, valid)
    codepoints = np.empty(offsets[-1], np.uint32)
    row, byte = _read_utf8(data, bounds, valid, codepoints)
    if row >= 0:
        raise ValueError(
            f"text {row} is not valid UTF-8 at its byte {byte}: "
            "texts are UTF-8 without surrogates; quarantine the row"
        )
    return Texts(codepoints, offsets, valid)


@kernel
def _codepoint_offsets(data: npt.NDArray[np.uint8], bounds: Offsets, valid: Flags) -> Offsets:
    offsets = np.zeros(len(valid) + 1, np.int64)
    for row in range(len(valid)):
        count = 0
        if valid[row]:
            for byte in data[bounds[row] : bounds[row + 1]]:
                count += (byte & 0xC0) != 0x80
        offsets[row + 1] = offsets[row] + count
    return offsets


@kernel
def _read_utf8(
    data: npt.NDArray[np.uint8], bounds: Offsets, valid: Flags, out: CodePoints
) -> tuple[int, int]:
    """Write the code points; give (row, byte) of the first fault, or (-1, -1).

    A code point is written only after its lead byte was counted, so a fault never overruns `out`.
    """
    put = 0
    for row in range(len(valid)):
        if not valid[row]:
            continue
        text = data[bounds[row] : bounds[row + 1]]
        at = 0
        while at < len(text):
            code, width = int(text[at]), 1
            if code >= 0x80:
                code, width = _read_wide(text, at)
                if width == 0:
                    return row, at
            out[put] = code
            put += 1
            at += width
    return -1, -1


@kernel
def _read_wide(text: npt.NDArray[np.uint8], at: int) -> tuple[int, int]:
    """Read a code point of two to four bytes as (code, bytes); 0 bytes where it is not UTF-8."""
    lead = int(text[at])
    width = 2 if lead < 0xE0 else 3 if lead < 0xF0 else 4
    if lead < 0xC2 or lead > 0xF4 or at + width > len(text):  # overlong, or above U+10FFFF
        return 0, 0
    second = int(text[at + 1]) ^ 0x80  # 0 to 0x3F in a continuation byte
    if width == 2:
        return (lead & 0x1F) << 6 | second, 2 * (second <= 0x3F)
    third = int(text[at + 2]) ^ 0x80
    if second > 0x3F or third > 0x3F:
        return 0, 0
    if width == 3:
        code = (lead & 0x0F) << 12 | second << 6 | third
        is_surrogate = 0xD800 <= code <= 0xDFFF
        return code, 3 * (code >= 0x800 and not is_surrogate)
    fourth = int(text[at + 3]) ^ 0x80
    code = (lead & 0x07) << 18 | second << 12 | third << 6 | fourth
    return code, 4 * (fourth <= 0x3F and 0x10000 <= code <= 0x10FFFF)


@kernel
def _utf8_offsets(codepoints: CodePoints, offsets: Offsets) -> Offsets:
    out = np.zeros(len(offsets), np.int64)
    size = 0
    for row in range(len(offsets) - 1):
        for at in range(offsets[row], offsets[row + 1]):
            code = codepoints[at]
            size += 1 + (code >= 0x80) + (code >= 0x800) + (code >= 0x10000)
        out[row + 1] = size
    return out


@kernel
def _write_utf8(codepoints: CodePoints, out: npt.NDArray[np.uint8]) -> None:
    put = 0
    for code in codepoints:
        if code < 0x80:
            out[put] = code
            put += 1
        elif code < 0x800:
            out[put] = 0xC0 | (code >> 6)
            out[put + 1] = 0x80 | (code & 0x3F)
            put += 2
        elif code < 0x10000:
            out[put] = 0xE0 | (code >> 12)
            out[put + 1] = 0x80 | ((code >> 6) & 0x3F)
            out[put + 2] = 0x80 | (code & 0x3F)
            put += 3
        else:
            out[put] = 0xF0 | (code >> 18)
            out[put + 1] = 0x80 | ((code >> 12) & 0x3F)
            out[put + 2] = 0x80 | ((code >> 6) & 0x3F)
            out[put + 3] = 0x80 | (code & 0x3F)
            put += 4


# Normalisation ----------------------------------------------------------------------------------

_CODES: Final = 0x110000
_MANY: Final = 1 << 31  # the low bits are a place in the pool: a length, then the code points
_COMBINES: Final = 1 << 30  # can change with what stands before it
_LOW: Final = (1 << 30) - 1  # 0 is "stripped": NUL is stripped too, so 0 means nothing else
_STRIPPED: Final = frozenset(("Cc", "Cf", "Zl", "Zp", "Zs", *("P" + kind for kind in "cdefios")))
_KEPT: Final = frozenset("#+%.")  # the dot is decided by its neighbors, in the kernel
_SELECTORS: Final = frozenset(
    chr(code)
    for codes in (range(0x180B, 0x1810), range(0xFE00, 0xFE10), range(0xE0100, 0xE01F0))
    for code in codes
)
_ELSE, _DIGIT, _DOT = 0, 1, 2  # what was seen last: anything, a digit, a digit and a dot
# What lies elsewhere is unassigned or private: each is itself.
_ASSIGNED: Final = (range(0x20, 0xD800), range(0xE000, 0x40000), range(0xE0000, 0xE0200))


def normalize(texts: Texts) -> Texts:
    """Normalise texts for keys; see the module's first lines for the formula and its reasons."""
    table, pool = _normal_table()
    texts, bound = _compose(texts)
    codepoints, offsets = _walk(texts.codepoints, texts.offsets, table, pool, bound)
    blank = np.flatnonzero((np.diff(offsets) == 0) & (texts.lengths > 0))
    normalized = Texts(codepoints, offsets, texts.valid)
    if len(blank) == 0:
        return normalized
    return _replace(normalized, blank, lambda row, _: _visible(texts.text(row)))


def find_gaps(texts: Texts, normalized: Texts) -> Flags:
    """Say of each code point of normalised texts whether something was stripped before it.

    Texts of which nothing was left, or nothing of ASCII, are passed over: false throughout.
    """
    table, pool = _normal_table()
    texts, _ = _compose(texts)
    return _gaps(
        texts.codepoints, texts.offsets, table, pool, normalized.codepoints, normalized.offsets
    )


def _compose(texts: Texts) -> tuple[Texts, int]:
    """Compose the texts that hold combining characters; give also a bound of what all become."""
    table, pool = _normal_table()
    combining, bound = _scan(texts.codepoints, texts.offsets, table, pool)
    if combining.any():
        texts = _replace(texts, np.flatnonzero(combining), _composed)
        _, bound = _scan(texts.codepoints, texts.offsets, table, pool)
    return texts, bound


def _composed(_: int, text: str) -> str:
    return unicodedata.normalize("NFKC", text)


def _visible(text: str) -> str:
    return "".join(unicodedata.normalize("NFKC", text).split())


def _replace(
    texts: Texts, rows: npt.NDArray[np.intp], new_text: Callable[[int, str], str]
) -> Texts:
    """Put another text into some rows; `rows` ascend."""
    inserted = from_strings(new_text(int(row), texts.text(int(row))) for row in rows)
    lengths = texts.lengths
    lengths[rows] = inserted.lengths
    offsets = np.zeros(len(texts) + 1, np.int64)
    np.cumsum(lengths, out=offsets[1:])
    pieces, done = [], 0
    for number, row in enumerate(rows):
        pieces.append(texts.codepoints[texts.offsets[done] : texts.offsets[row]])
        pieces.append(inserted.codepoints[inserted.offsets[number] : inserted.offsets[number + 1]])
        done = int(row) + 1
    pieces.append(texts.codepoints[texts.offsets[done] :])
    return Texts(np.concatenate(pieces), offsets, texts.valid)


@cache
def _normal_table() -> tuple[CodePoints, CodePoints]:
    """Build what each code point becomes: one word per code point, and a pool of sequences.

    All code points pass through each step in one string, a line each: nothing reaches across a
    line end, and line ends are put back when the steps are done.
    """
    chars = _assigned()
    joined = "\n".join(chars)
    stripped = str.maketrans({char: "\0" for char in chars if _is_stripped(char)})
    normal = (
        unicodedata.normalize("NFKC", joined).translate(simplified()).lower().translate(stripped)
    )
    table = np.arange(_CODES, dtype=np.uint32)
    table[:0x20] = 0  # Cc
    pool: list[int] = []
    for char, to in _changed(chars, normal.split("\n")).items():
        if len(to) == 1:
            table[ord(char)] = ord(to)
        else:
            table[ord(char)] = _MANY | len(pool)
            pool += [len(to), *map(ord, to)]
    table[_combining(chars, joined)] |= np.uint32(_COMBINES)
    return table, np.array(pool, np.uint32)


def _assigned() -> list[str]:
    return [chr(code) for codes in _ASSIGNED for code in codes]


@cache
def simplified() -> dict[int, str]:
    """Map each traditional character to its simplified one, as OpenCC does with it alone."""
    chars = _assigned()
    converted = opencc.OpenCC("t2s").convert("\n".join(chars)).split("\n")
    return str.maketrans(_changed(chars, converted))


def _changed(chars: list[str], to: list[str]) -> dict[str, str]:
    return {char: new for char, new in zip(chars, to, strict=True) if char != new}


def _is_stripped(char: str) -> bool:
    return char not in _KEPT and (unicodedata.category(char) in _STRIPPED or char in _SELECTORS)


def _combining(chars: list[str], joined: str) -> list[int]:
    """List the code points that normalisation may merge with, or move before, an earlier one.

    They begin, decomposed, with a mark that has an order or with a later part of some character.
    """
    later = {
        part
        for parts in unicodedata.normalize("NFD", joined).split("\n")
        if len(parts) > 1
        for part in parts[1:]
    }
    starts = [parts[0] for parts in unicodedata.normalize("NFKD", joined).split("\n")]
    return [
        ord(char)
        for char, start in zip(chars, starts, strict=True)
        if start in later or unicodedata.combining(start)
    ]


@kernel
def _scan(
    codepoints: CodePoints, offsets: Offsets, table: CodePoints, pool: CodePoints
) -> tuple[Flags, int]:
    """Find texts with combining characters, and bound the length of what all become."""
    combining = np.zeros(len(offsets) - 1, np.bool_)
    bound = len(codepoints)
    for row in range(len(offsets) - 1):
        for code in codepoints[offsets[row] : offsets[row + 1]]:
            entry = table[code]
            if entry >= _COMBINES:
                if entry & np.uint32(_COMBINES):
                    combining[row] = True
                if entry & np.uint32(_MANY):
                    bound += pool[entry & np.uint32(_LOW)]
    return combining, bound


@kernel
def _walk(
    codepoints: CodePoints, offsets: Offsets, table: CodePoints, pool: CodePoints, bound: int
) -> tuple[CodePoints, Offsets]:
    """Write what the table says; a dot is written only when a digit stands on both sides of it."""
    out = np.empty(bound + 1, np.uint32)  # one more: what is stripped is written, then not kept
    ends = np.zeros(len(offsets), np.int64)
    put = 0
    for row in range(len(offsets) - 1):
        after = _ELSE
        for code in codepoints[offsets[row] : offsets[row + 1]]:
            entry = table[code]
            if entry & np.uint32(_MANY):
                start = int(entry & np.uint32(_LOW)) + 1
                for part in pool[start : start + int(pool[start - 1])]:
                    put, after = _emit(out, put, after, int(part))
            else:
                put, after = _emit(out, put, after, int(entry & np.uint32(_LOW)))
        ends[row + 1] = put
    return out[:put].copy(), ends


@kernel
def _emit(out: CodePoints, put: int, after: int, code: int) -> tuple[int, int]:
    """Append a code point unless it is stripped (0); a dot waits for the digit that follows it."""
    if code == 46:
        return put, (_DOT if after == _DIGIT else _ELSE)
    is_digit = 48 <= code <= 57
    if is_digit and after == _DOT:
        out[put] = 46
        put += 1
    out[put] = code
    put += code != 0
    return put, (_DIGIT if is_digit else _ELSE)


@kernel
def _gaps(
    codepoints: CodePoints,
    offsets: Offsets,
    table: CodePoints,
    pool: CodePoints,
    normal: CodePoints,
    normal_offsets: Offsets,
) -> Flags:
    """Walk a text and what became of it together: what is not the next of it was stripped."""
    gaps = np.zeros(len(normal), np.bool_)
    for row in range(len(offsets) - 1):
        at, stop, skipped = normal_offsets[row], normal_offsets[row + 1], False
        if not _has_ascii(normal[at:stop]):
            continue
        for code in codepoints[offsets[row] : offsets[row + 1]]:
            entry = table[code]
            start, parts = 0, 1
            if entry & np.uint32(_MANY):
                start = int(entry & np.uint32(_LOW)) + 1
                parts = int(pool[start - 1])
            for place in range(parts):
                part = pool[start + place] if start else entry & np.uint32(_LOW)
                meets = at < stop and normal[at] == part
                if meets:
                    gaps[at] = skipped
                    at += 1
                skipped = not meets
    return gaps


@kernel
def _has_ascii(codepoints: CodePoints) -> bool:
    return bool(np.any(codepoints < 0x80))


# Keys -------------------------------------------------------------------------------------------


def text_keys(normalized: Texts) -> pa.Array:
    """Hash normalised texts to pa.uuid(): 128-bit xxh3 of the UTF-8; null stays null.

    128 bits because 64-bit keys collide with probability 6 % somewhere in 1.5 billion texts.
    """
    data, offsets = utf8(normalized)
    view, bounds, digest = memoryview(data.data), offsets.tolist(), xxhash.xxh3_128_digest
    keys = b"".join([digest(view[start:end]) for start, end in itertools.pairwise(bounds)])
    return _uuids(keys, normalized.valid)


def pair_keys(query_keys: pa.Array, positive_keys: pa.Array) -> pa.Array:
    """Hash two keys to one, query first; null where either is null."""
    if len(query_keys) != len(positive_keys):
        raise ValueError(f"{len(query_keys)} query keys for {len(positive_keys)} positive keys")
    both = np.concatenate([_key_bytes(query_keys), _key_bytes(positive_keys)], axis=1)
    view, digest = memoryview(both.tobytes()), xxhash.xxh3_128_digest
    keys = b"".join([digest(view[at : at + 32]) for at in range(0, len(view), 32)])
    valid = pc.and_(query_keys.is_valid(), positive_keys.is_valid())
    return _uuids(keys, valid.to_numpy(zero_copy_only=False))


def instructed_keys(query_keys: pa.Array, instructions: pa.Array) -> pa.Array:
    """Make a query with an instruction of its own another text than without, or with another.

    Both are encoded otherwise, and have negatives of their own. Keys without one stay as they are.
    """
    if instructions.null_count == len(instructions):
        return query_keys
    has_own = instructions.is_valid().to_numpy(zero_copy_only=False)
    both = pair_keys(query_keys, text_keys(decode(instructions)))
    keys = np.where(has_own[:, None], _key_bytes(both), _key_bytes(query_keys))
    return _uuids(keys.tobytes(), query_keys.is_valid().to_numpy(zero_copy_only=False))


def _uuids(keys: bytes, valid: Flags) -> pa.Array:
    mask = None if valid.all() else pa.array(valid).buffers()[1]
    storage = pa.Array.from_buffers(pa.binary(16), len(valid), [mask, pa.py_buffer(keys)])
    return pa.ExtensionArray.from_storage(pa.uuid(), storage)


def _key_bytes(keys: pa.Array) -> npt.NDArray[np.uint8]:
    if keys.type != pa.uuid():
        raise ValueError(f"keys are pa.uuid(), not {keys.type}")
    data = keys.storage.buffers()[1]
    first = keys.storage.offset * 16
    flat = np.frombuffer(data or b"", np.uint8)[first : first + len(keys) * 16]
    return flat.reshape(len(keys), 16)
