"""Shares of kinds of characters, and lengths: one look-up per character."""

import unicodedata
from functools import cache
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from curation.signals.batch import PairBatch, Side
from curation.signals.registry import Columns, Family, count, ratio, share
from curation.signals.settings import SignalSettings
from curation.texts import CodePoints, Offsets, kernel, simplified

# Kinds of characters, a bit each: a character can be of several (🙂 is an emoji and a symbol).
HAN: Final = 1 << 0
LATIN: Final = 1 << 1
KANA: Final = 1 << 2
HANGUL: Final = 1 << 3
CYRILLIC: Final = 1 << 4
LETTER: Final = 1 << 5
DIGIT: Final = 1 << 6
PUNCTUATION: Final = 1 << 7
SYMBOL: Final = 1 << 8
SPACE: Final = 1 << 9
EMOJI: Final = 1 << 10
CONTROL: Final = 1 << 11
PRIVATE: Final = 1 << 12
UNASSIGNED: Final = 1 << 13
TRADITIONAL: Final = 1 << 14
BRACKET: Final = 1 << 15
HASH: Final = 1 << 16
ELLIPSIS: Final = 1 << 17
REPLACEMENT: Final = 1 << 18
TERMINAL: Final = 1 << 19  # ends a sentence
CLOSER: Final = 1 << 20  # can follow the end of a sentence
BULLET: Final = 1 << 21  # opens an item of a list

# Unicode's Scripts.txt (version 16), without rare supplements.
_RANGES: Final = {
    HAN: "2E80-2FD5 3005 3007 3021-3029 3038-303B 3400-4DBF 4E00-9FFF F900-FAD9 16FF0-16FF1 "
    "20000-323AF",
    LATIN: "41-5A 61-7A AA BA C0-D6 D8-F6 F8-2B8 1D00-1D25 1E00-1EFF 2C60-2C7F A722-A7FF AB30-AB64 "
    "FB00-FB06 FF21-FF3A FF41-FF5A",
    KANA: "3041-3096 309D-309F 30A1-30FA 30FD-30FF 31F0-31FF 32D0-32FE 3300-3357 FF66-FF6F "
    "FF71-FF9D",
    HANGUL: "1100-11FF 3131-318E 3200-321E 3260-327E A960-A97C AC00-D7A3 D7B0-D7FB FFA0-FFDC",
    CYRILLIC: "400-484 487-52F 1C80-1C8A 1D2B 2DE0-2DFF A640-A69F",
    # emoji-data.txt: Emoji_Presentation, and the hearts, faces and signs that chats show so, too
    EMOJI: "231A-231B 23E9-23EC 23F0 23F3 25FD-25FE 2600-2604 2614-2615 263A 2648-2653 2665 267F "
    "2693 26A1 26AA-26AB 26BD-26BE 26C4-26C5 26CE 26D4 26EA 26F2-26F3 26F5 26FA 26FD 2705 "
    "270A-270D 2728 274C 274E 2753-2755 2757 2763-2764 2795-2797 27B0 27BF 2B1B-2B1C 2B50 2B55 "
    "1F004 1F0CF 1F18E 1F191-1F19A 1F1E6-1F1FF 1F201 1F21A 1F22F 1F232-1F236 1F238-1F23A "
    "1F250-1F251 1F300-1F64F 1F680-1F6FF 1F7E0-1F7EB 1F90C-1F9FF 1FA70-1FAFF",
}
_MEMBERS: Final = {
    BRACKET: "【】",
    HASH: "#＃",
    ELLIPSIS: "…⋯",
    REPLACEMENT: "\ufffd",
    TERMINAL: "。！？!?.．｡…⋯；;‼⁇⁈⁉",
    CLOSER: "\"'”’）)」』】]》〉﹂﹄〗〕}｝»›＂＇］~～",
    BULLET: "•‣·●○■□◆▪►➢-–*",
}
_CATEGORIES: Final = {
    "L": LETTER, "Nd": DIGIT, "P": PUNCTUATION, "S": SYMBOL, "Z": SPACE,
    "Cc": CONTROL, "Cf": CONTROL, "Co": PRIVATE, "Cn": UNASSIGNED,
}  # fmt: skip
_WHITE_CONTROLS: Final = "\t\n\x0b\x0c\r\x1c\x1d\x1e\x1f\x85"  # Cc, but white space to everyone
_EMOJI_JOINER: Final = 0x200D


@cache
def properties() -> CodePoints:
    """Build the kinds of each code point, as bits."""
    table = np.zeros(0x110000, np.uint32)
    table[:] = UNASSIGNED
    table[0xF0000:0x110000] = PRIVATE
    for codes in (range(0x32400), range(0xE0000, 0xE0200)):
        kinds = [_category_kind(unicodedata.category(chr(code))) for code in codes]
        table[codes.start : codes.stop] = kinds
    for kind, ranges in _RANGES.items():
        for bounds in ranges.split():
            first, _, last = bounds.partition("-")
            table[int(first, 16) : int(last or first, 16) + 1] |= np.uint32(kind)
    table[(table & HAN) > 0] &= ~np.uint32(UNASSIGNED)  # younger than Python's Unicode version
    for kind, members in _MEMBERS.items():
        table[[ord(char) for char in members]] |= np.uint32(kind)
    table[[ord(char) for char in _WHITE_CONTROLS]] = SPACE
    table[_EMOJI_JOINER] = 0
    changed = np.array([code for code in simplified() if table[code] & HAN])
    table[changed] |= np.uint32(TRADITIONAL)
    return table


def _category_kind(category: str) -> int:
    return _CATEGORIES.get(category, 0) or _CATEGORIES.get(category[0], 0)


@cache
def _classes() -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint32]]:
    """Number the combinations of kinds that occur: a class per code point, the kinds per class."""
    kinds, classes = np.unique(properties(), return_inverse=True)
    assert len(kinds) <= 256, "a class is one byte"
    return classes.astype(np.uint8), kinds


@kernel
def _histogram(
    codepoints: CodePoints, offsets: Offsets, classes: npt.NDArray[np.uint8], size: int
) -> npt.NDArray[np.int32]:
    counts = np.zeros((len(offsets) - 1, size), np.int32)
    for row in range(len(offsets) - 1):
        of_row = counts[row]
        for code in codepoints[offsets[row] : offsets[row + 1]]:
            of_row[classes[code]] += 1
    return counts


_ABNORMAL: Final = "InternLM2: abnormal characters"
_SHARES: Final = (
    (share("han_share", "Han characters", "ChineseWebText: at least .30"), HAN),
    (share("latin_share", "Latin letters"), LATIN),
    (share("kana_share", "Hiragana and Katakana"), KANA),
    (share("hangul_share", "Hangul"), HANGUL),
    (share("cyrillic_share", "Cyrillic letters"), CYRILLIC),
    (share("digit_share", "decimal digits (Nd)", "MAP-CC: at most .3"), DIGIT),
    (share("punctuation_share", "punctuation (P*)", "InternLM2: punctuation"), PUNCTUATION),
    (share("symbol_share", "symbols (S*), emoji included"), SYMBOL),
    (share("space_share", "white space, line ends included"), SPACE),
    (share("emoji_share", "characters that are shown as emoji"), EMOJI),
    (
        share(
            "control_share",
            "control and format characters (Cc, Cf) but white space and the emoji joiner",
            _ABNORMAL,
        ),
        CONTROL,
    ),
    (share("private_share", "private-use characters (Co)", _ABNORMAL), PRIVATE),
    (share("unassigned_share", "code points without a character (Cn)", _ABNORMAL), UNASSIGNED),
    (share("bracket_share", "【 and 】", "MAP-CC: at most .1"), BRACKET),
    (share("hash_share", "# and ＃", "MAP-CC: at most .1"), HASH),
    (share("ellipsis_share", "… and ⋯", "MAP-CC: at most .1"), ELLIPSIS),
)


def character_kinds(batch: PairBatch, side: Side, _: SignalSettings) -> Columns:
    """Shares of kinds of characters among all characters of the text."""
    texts = batch.texts(side)
    classes, kinds = _classes()
    counts = _histogram(texts.codepoints, texts.offsets, classes, len(kinds))

    def of_kind(kind: int) -> npt.NDArray[np.int64]:
        found: npt.NDArray[np.int64] = counts[:, np.flatnonzero(kinds & np.uint32(kind))].sum(
            axis=1
        )
        return found

    columns: dict[str, npt.NDArray[Any]] = {
        measure.name: ratio(of_kind(kind), texts.lengths) for measure, kind in _SHARES
    }
    columns["traditional_share"] = ratio(of_kind(TRADITIONAL), of_kind(HAN))
    columns["replacement_chars"] = of_kind(REPLACEMENT)
    return columns


def lengths(batch: PairBatch, side: Side, _: SignalSettings) -> Columns:
    """Lengths of the text."""
    column = batch.column("query" if side == "query" else "positive")
    return {
        "chars": batch.texts(side).lengths,
        "bytes": pa.compute.binary_length(column).cast(pa.int32()),
        "content_chars": batch.normalized(side).lengths,
    }


LENGTHS: Final = Family(
    "lengths",
    ("query", "passage"),
    (
        count("chars", "characters", "characters"),
        count("bytes", "bytes of the text in UTF-8", "bytes"),
        count(
            "content_chars",
            "characters of the normalised text: without white space and punctuation",
            "characters",
        ),
    ),
    lengths,
)
KINDS: Final = Family(
    "character kinds",
    ("query", "passage"),
    (
        *(measure for measure, _ in _SHARES),
        share("traditional_share", "characters that OpenCC t2s changes, among Han characters"),
        count(
            "replacement_chars", "U+FFFD: bytes an earlier reader could not decode", "characters"
        ),
    ),
    character_kinds,
)
