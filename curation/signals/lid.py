"""Language identification with a fastText model, over code points.

fastText's own predict reads one Python string at a time and looks up each n-gram in a hash map of
the C++ library. The same arithmetic over a column of code points, with n-grams found by a bit and
a count of bits, is ten times as fast, and language is the most costly of all signals. The tests
compare the two.

fastText's own marks inside a text (</s>, __label__…) are words like others here.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from curation.texts import CodePoints, Flags, Integer, Offsets, Texts, kernel

Vectors = npt.NDArray[np.float32]
Rows = npt.NDArray[np.int32]
Keys = npt.NDArray[np.uint64]

_GRAM_HASH: Final = np.uint32(2166136261)  # FNV-1a, 32 bits
_FREE: Final = np.uint64(0xFFFFFFFFFFFFFFFF)


@dataclass(frozen=True, eq=False)
class LanguageModel:
    """A fastText model: n-grams of characters and words -> mean vector -> binary tree of labels."""

    labels: tuple[str, ...]
    vectors: Vectors  # words in the model's order, then n-grams by bucket
    end_of_line: int  # the row of the word that ends every line
    words: Keys  # hashes of words, open addressing
    word_rows: Rows
    bits: Keys  # the buckets that have a vector, a bit each
    ranks: Rows  # the row of the first n-gram of each word of bits
    buckets: int
    sizes: tuple[int, int]  # n-grams have from … to … characters
    nodes: Vectors  # a vector per inner node of the tree; the last is the root
    children: Rows  # left and right: a label, or number of labels + inner node


def predict(
    model: LanguageModel, texts: Texts, wanted: Flags, max_chars: int
) -> tuple[Rows, Vectors]:
    """Give the number of the likeliest label of each text's first characters, and its probability.

    Line ends count as blanks, as they do for those who call fastText with one line per text. What
    is given for a text that is not wanted means nothing.
    """
    smallest, largest = model.sizes
    return _predict(
        texts.codepoints,
        texts.offsets,
        wanted,
        max_chars,
        model.vectors,
        model.end_of_line,
        model.words,
        model.word_rows,
        model.bits,
        model.ranks,
        np.array([model.buckets, smallest, largest], np.int64),
        model.nodes,
        model.children,
    )


@kernel
def _predict(  # noqa: PLR0913
    codepoints: CodePoints,
    offsets: Offsets,
    wanted: Flags,
    max_chars: int,
    vectors: Vectors,
    end_of_line: int,
    words: Keys,
    word_rows: Rows,
    bits: Keys,
    ranks: Rows,
    shape: Offsets,
    nodes: Vectors,
    children: Rows,
) -> tuple[Rows, Vectors]:
    labels = np.zeros(len(offsets) - 1, np.int32)
    scores = np.zeros(len(offsets) - 1, np.float32)
    mean = np.empty(vectors.shape[1], np.float32)
    token = np.empty(max_chars + 2, np.uint32)
    for row in np.flatnonzero(wanted):
        text = codepoints[offsets[row] : min(offsets[row + 1], offsets[row] + max_chars)]
        average(text, token, vectors, end_of_line, words, word_rows, bits, ranks, shape, mean)
        labels[row], scores[row] = _likeliest(mean, nodes, children)
    return labels, scores


@kernel
def average(  # noqa: PLR0913
    text: CodePoints,
    token: CodePoints,
    vectors: Vectors,
    end_of_line: int,
    words: Keys,
    word_rows: Rows,
    bits: Keys,
    ranks: Rows,
    shape: Offsets,
    mean: Vectors,
) -> None:
    """Put a text's mean vector into `mean`; `token` is room for the text and two marks.

    `end_of_line` is -1 where the vocabulary lacks it; `shape` holds buckets and n-gram sizes.
    """
    mean[:] = 0
    found, start = 0, 0
    if end_of_line >= 0:
        mean[:] = vectors[end_of_line]
        found = 1
    for at in range(len(text) + 1):
        if at == len(text) or text[at] == 32 or 9 <= text[at] <= 13 or text[at] == 0:
            size = at - start
            if size:
                token[0], token[size + 1] = 60, 62  # < and >
                token[1 : size + 1] = text[start:at]
                row_of_word = _find_word(token[1 : size + 1], words, word_rows)
                if row_of_word >= 0:
                    _add(vectors[row_of_word], mean)
                    found += 1
                found += _add_ngrams(token[: size + 2], vectors, bits, ranks, shape, mean)
            start = at + 1
    mean /= np.float32(max(found, 1))


@kernel
def _add_ngrams(
    token: CodePoints, vectors: Vectors, bits: Keys, ranks: Rows, shape: Offsets, total: Vectors
) -> int:
    """Add the vectors of a word's n-grams; `token` has < before the word, > after it."""
    buckets, smallest, largest = np.uint32(shape[0]), shape[1], shape[2]
    size, found = len(token), 0
    for start in range(size):
        hashed: Integer = _GRAM_HASH
        for stop in range(start + 1, min(start + largest, size) + 1):
            hashed = _hash_gram_code(hashed, token[stop - 1])
            length = stop - start
            lone_mark = length == 1 and (start == 0 or stop == size)
            if length < smallest or lone_mark:
                continue
            bucket = hashed % buckets
            bit = np.uint64(1) << np.uint64(bucket & np.uint32(63))
            some = bits[bucket >> np.uint32(6)]
            if some & bit:
                rank = _count_bits(some & (bit - np.uint64(1)))
                _add(vectors[ranks[bucket >> np.uint32(6)] + rank], total)
                found += 1
    return found


@kernel
def _count_bits(word: Integer) -> Integer:
    word -= (word >> np.uint64(1)) & np.uint64(0x5555555555555555)
    pairs = np.uint64(0x3333333333333333)
    word = (word & pairs) + ((word >> np.uint64(2)) & pairs)
    word = (word + (word >> np.uint64(4))) & np.uint64(0x0F0F0F0F0F0F0F0F)
    return np.int64((word * np.uint64(0x0101010101010101)) >> np.uint64(56))


@kernel
def _find_word(word: CodePoints, words: Keys, rows: Rows) -> int:
    """Find the row of a word; -1 where the vocabulary does not hold it."""
    hashed = _hash_word(word)
    slot: Integer = np.int64(hashed & np.uint64(len(words) - 1))
    while words[slot] != hashed:
        if words[slot] == _FREE:
            return -1
        slot = (slot + 1) & (len(words) - 1)
    return int(rows[slot])


@kernel
def _add(vector: Vectors, total: Vectors) -> None:
    for axis in range(len(total)):
        total[axis] += vector[axis]


@kernel
def _likeliest(mean: Vectors, nodes: Vectors, children: Rows) -> tuple[int, float]:
    """Search the tree, the likelier branch first; a branch below the best leaf is not entered."""
    labels = len(nodes) + 1
    stack_node, stack_score = np.empty(labels, np.int64), np.empty(labels, np.float64)
    stack_node[0], stack_score[0], size = 2 * labels - 2, 0.0, 1
    best, best_score = 0, -np.inf
    while size:
        size -= 1
        node, score = stack_node[size], stack_score[size]
        if score <= best_score:
            continue
        if node < labels:
            best, best_score = node, score
            continue
        dot = np.float32(0)
        for axis in range(len(mean)):
            dot += mean[axis] * nodes[node - labels, axis]
        right = 1 / (1 + np.exp(-dot))
        likelier = np.int64(right > 0.5)
        for side in (1 - likelier, likelier):  # the last that is put is the first that is taken
            stack_node[size] = children[node - labels, side]
            stack_score[size] = score + np.log((right if side else 1 - right) + 1e-5)
            size += 1
    return best, np.exp(best_score)


# Hashing ----------------------------------------------------------------------------------------


@kernel
def _hash_gram_code(hashed: Integer, code: Integer) -> Integer:
    """Hash the UTF-8 bytes of a code point; fastText extends the sign of each byte."""
    if code < 0x80:
        return _hash_gram_byte(hashed, code)
    if code < 0x800:
        hashed = _hash_gram_byte(hashed, 0xFFFFFFC0 | code >> 6)
    else:
        if code < 0x10000:
            hashed = _hash_gram_byte(hashed, 0xFFFFFFE0 | code >> 12)
        else:
            hashed = _hash_gram_byte(hashed, 0xFFFFFFF0 | code >> 18)
            hashed = _hash_gram_byte(hashed, 0xFFFFFF80 | code >> 12 & 0x3F)
        hashed = _hash_gram_byte(hashed, 0xFFFFFF80 | code >> 6 & 0x3F)
    return _hash_gram_byte(hashed, 0xFFFFFF80 | code & 0x3F)


@kernel
def _hash_gram_byte(hashed: Integer, byte: Integer) -> Integer:
    return np.uint32((hashed ^ np.uint32(byte)) * np.uint32(16777619))


@kernel
def _hash_word(word: CodePoints) -> Integer:
    hashed = np.uint64(0xCBF29CE484222325)  # FNV-1a over code points
    for code in word:
        hashed = (hashed ^ np.uint64(code)) * np.uint64(0x100000001B3)
    return hashed


def hash_words(words: list[bytes]) -> tuple[Keys, Rows]:
    """Build the table of a vocabulary: hashes of words, and the row of each."""
    room = 1 << (2 * len(words)).bit_length()
    keys, rows = np.full(room, _FREE, np.uint64), np.zeros(room, np.int32)
    for row, word in enumerate(words):
        hashed = _hash_word(np.array([*map(ord, word.decode())], np.uint32))
        slot = hashed & (room - 1)
        while keys[slot] != _FREE:
            slot = (slot + 1) & (room - 1)
        keys[slot], rows[slot] = hashed, row
    return keys, rows
