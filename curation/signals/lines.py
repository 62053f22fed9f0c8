"""Statistics of lines: lists, menus and cut texts show in them."""

from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from curation.signals.batch import PairBatch, Side
from curation.signals.characters import (
    BULLET,
    CLOSER,
    ELLIPSIS,
    PUNCTUATION,
    SPACE,
    SYMBOL,
    TERMINAL,
    properties,
)
from curation.signals.registry import Columns, Family, Measure, claim, count, ratio, share
from curation.signals.settings import SignalSettings
from curation.texts import CodePoints, Offsets, kernel

# Columns of the kernel's counts.
_NEWLINES, _LINES, _CHARS, _ELLIPSIS, _MORE, _ENDED, _BULLETS, _SAME, _SAME_CHARS = range(9)
_ENDS: Final = 9  # the text ends with terminal punctuation
_SHORT: Final = 10
_SHORT_LINE_CHARS: Final = 30  # FineWeb
_DECORATION: Final = PUNCTUATION | SYMBOL | SPACE
_TAILS: Final = np.array([[*map(ord, tail)] for tail in ("展开", "更多", "全文")], np.uint32)


def line_statistics(batch: PairBatch, side: Side, _: SignalSettings) -> Columns:
    """Statistics of the lines that hold more than white space."""
    texts = batch.texts(side)
    counts = _count(texts.codepoints, texts.offsets, properties(), _TAILS)
    lines, chars = counts[:, _LINES], counts[:, _CHARS]
    return {
        "lines": lines,
        "mean_line_chars": ratio(chars, lines),
        "newline_share": ratio(counts[:, _NEWLINES], texts.lengths),
        "short_line_share": ratio(counts[:, _SHORT], lines),
        "ellipsis_line_share": ratio(counts[:, _ELLIPSIS], lines),
        "more_line_share": ratio(counts[:, _MORE], lines),
        "ended_line_share": ratio(counts[:, _ENDED], lines),
        "bullet_line_share": ratio(counts[:, _BULLETS], lines),
        "duplicate_line_share": ratio(counts[:, _SAME], lines),
        "duplicate_line_char_share": ratio(counts[:, _SAME_CHARS], chars),
        "ends_sentence": counts[:, _ENDS],
    }


@kernel
def _count(
    codepoints: CodePoints, offsets: Offsets, kinds: CodePoints, tails: CodePoints
) -> npt.NDArray[np.int64]:
    counts = np.zeros((len(offsets) - 1, 11), np.int64)
    seen = np.zeros(64, np.uint64)  # hashes of a text's lines, open addressing; 0 is free
    for row in range(len(offsets) - 1):
        text = codepoints[offsets[row] : offsets[row + 1]]
        of_row = counts[row]
        for code in text:
            of_row[0] += code == 10
        room = 64
        while room < 2 * (of_row[0] + 1):
            room *= 2
        if len(seen) < room:
            seen = np.zeros(room, np.uint64)
        else:
            seen[:room] = 0
        start = 0
        for at in range(len(text) + 1):
            if at == len(text) or text[at] == 10:
                first, last = _trim(text, start, at, kinds, SPACE)
                if first < last:
                    _count_line(text[first:last], of_row, seen[:room], kinds, tails)
                start = at + 1
    return counts


@kernel
def _trim(text: CodePoints, first: int, last: int, kinds: CodePoints, kind: int) -> tuple[int, int]:
    while first < last and kinds[text[first]] & kind:
        first += 1
    while first < last and kinds[text[last - 1]] & kind:
        last -= 1
    return first, last


@kernel
def _count_line(
    line: CodePoints,
    counts: npt.NDArray[np.int64],
    seen: npt.NDArray[np.uint64],
    kinds: CodePoints,
    tails: CodePoints,
) -> None:
    size = len(line)
    counts[_LINES] += 1
    counts[_CHARS] += size
    counts[_SHORT] += size <= _SHORT_LINE_CHARS
    counts[_BULLETS] += (kinds[line[0]] & BULLET) != 0
    dots = size >= 3 and line[size - 1] == 46 and line[size - 2] == 46 and line[size - 3] == 46
    counts[_ELLIPSIS] += dots or (kinds[line[size - 1]] & ELLIPSIS) != 0
    end = size
    while end > 0 and kinds[line[end - 1]] & CLOSER:
        end -= 1
    ended = end > 0 and (kinds[line[end - 1]] & TERMINAL) != 0
    counts[_ENDED] += ended
    counts[_ENDS] = ended  # of the last line, in the end
    _, end = _trim(line, 0, size, kinds, _DECORATION)
    for tail in tails:
        counts[_MORE] += end >= 2 and line[end - 2] == tail[0] and line[end - 1] == tail[1]
    if _is_known(line, seen):
        counts[_SAME] += 1
        counts[_SAME_CHARS] += size


@kernel
def _is_known(line: CodePoints, seen: npt.NDArray[np.uint64]) -> bool:
    hashed = np.uint64(0xCBF29CE484222325)  # FNV-1a over code points
    for code in line:
        hashed = (hashed ^ np.uint64(code)) * np.uint64(0x100000001B3)
    hashed ^= hashed >> np.uint64(29)
    hashed |= np.uint64(1)
    slot = np.int64((hashed >> np.uint64(20)) & np.uint64(len(seen) - 1))
    while seen[slot] != 0:
        if seen[slot] == hashed:
            return True
        slot = (slot + 1) & (len(seen) - 1)
    seen[slot] = hashed
    return False


LINES: Final = Family(
    "lines",
    ("passage",),
    (
        count("lines", "lines that hold more than white space", "lines"),
        Measure(
            "mean_line_chars",
            "mean length of a line, without the white space around it",
            "characters",
            pa.float32(),
            0,
            None,
            "ChineseWebText: at least 10",
        ),
        share(
            "newline_share",
            "line feeds among characters",
            "FineWeb-2 has .178 line feeds per word, and a Chinese word has about 1.7 characters",
        ),
        share("short_line_share", "lines of at most 30 characters", "FineWeb: at most .67"),
        share("ellipsis_line_share", "lines that end in … or ...", "Gopher: at most .3"),
        share(
            "more_line_share",
            "lines that end in 展开, 更多 or 全文, whatever decoration follows",
            "MAP-CC: at most .3",
        ),
        share(
            "ended_line_share",
            "lines that end in terminal punctuation, closing quotes and brackets aside",
            "FineWeb: at least .12",
        ),
        share("bullet_line_share", "lines that begin with a bullet", "Gopher: at most .9"),
        share("duplicate_line_share", "lines that stand earlier in the text", "FineWeb-2: .287"),
        share(
            "duplicate_line_char_share",
            "characters of lines that stand earlier in the text, among those of all lines",
            "FineWeb-2: at most .1",
        ),
        claim("ends_sentence", "the last line ends in terminal punctuation", "FineWeb"),
    ),
    line_statistics,
)
