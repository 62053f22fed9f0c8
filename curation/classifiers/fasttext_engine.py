"""fastText classifiers, over columns of code points.

fastText's own predict takes 15 µs a text and more from Python. The same arithmetic with the kernels
of the language signal takes a fraction; the tests compare the two. What those kernels do not read
(word n-grams, hierarchical softmax, a quantized output) is scored by fastText itself.

Two differences on purpose: fastText adds 1e-5 to each probability, and reads a sigmoid (loss ova)
from a table of 512 steps.
"""

from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from curation.classifiers.classifier import Classifier, Scores
from curation.classifiers.reading import read_texts
from curation.signals.language_model import FastTextFile, read_file
from curation.signals.lid import Keys, Rows, Vectors, average, hash_words
from curation.texts import CodePoints, Offsets, Texts, kernel

# The numbers of losses in fastText's args.h.
_SOFTMAX: Final = 3
_ONE_VS_ALL: Final = 4
_BLANKS: Final = str.maketrans(dict.fromkeys("\n\r\t\v\f\0", " "))


def load_fasttext(path: Path, reads: str, max_chars: int) -> Classifier:
    """Load a fastText classifier with the fastest engine that gives its scores."""
    try:
        found = read_file(path)
    except ValueError as error:
        if "quantized output" not in str(error):
            raise
        return FastTextLibrary(path, reads, max_chars)
    if not found.labels:
        raise ValueError(f"{path} has no labels: it holds word vectors, not a classifier")
    if found.word_ngrams == 1 and found.loss in (_SOFTMAX, _ONE_VS_ALL):
        return FastTextClassifier(found, reads, max_chars)
    return FastTextLibrary(path, reads, max_chars)


class FastTextClassifier:
    """A classifier of words and character n-grams, as kernels over code points."""

    def __init__(self, found: FastTextFile, reads: str, max_chars: int) -> None:
        """Take a model with softmax or one-vs-all loss and without word n-grams."""
        self.labels = found.labels
        self.reads, self.max_chars = reads, max_chars
        self._found = found
        self._words, self._word_rows = hash_words(found.words)
        self._bits, self._ranks = found.rank_buckets()
        self._shape = np.array([found.buckets, *found.sizes], np.int64)

    def scores(self, texts: Texts) -> Scores:
        """Score texts: texts x labels."""
        read = read_texts(texts, self.reads, self.max_chars)
        return _score(
            read.codepoints,
            read.offsets,
            self._found.vectors,
            self._found.end_of_line,
            self._words,
            self._word_rows,
            self._bits,
            self._ranks,
            self._shape,
            self._found.output,
            self._found.loss == _SOFTMAX,
        )


@kernel
def _score(  # noqa: PLR0913
    codepoints: CodePoints,
    offsets: Offsets,
    vectors: Vectors,
    end_of_line: int,
    words: Keys,
    word_rows: Rows,
    bits: Keys,
    ranks: Rows,
    shape: Offsets,
    output: Vectors,
    is_softmax: bool,
) -> Vectors:
    """Score each text alone, in one order of additions: no score depends on the batch."""
    scores = np.empty((len(offsets) - 1, len(output)), np.float32)
    mean = np.empty(vectors.shape[1], np.float32)
    longest = 0
    for row in range(len(offsets) - 1):
        longest = max(longest, offsets[row + 1] - offsets[row])
    token = np.empty(longest + 2, np.uint32)
    for row in range(len(offsets) - 1):
        text = codepoints[offsets[row] : offsets[row + 1]]
        average(text, token, vectors, end_of_line, words, word_rows, bits, ranks, shape, mean)
        for label in range(len(output)):
            dot = np.float32(0)
            for axis in range(len(mean)):
                dot += mean[axis] * output[label, axis]
            scores[row, label] = dot
        if is_softmax:
            powers = np.exp((scores[row] - scores[row].max()).astype(np.float64))
            scores[row] = powers / powers.sum()
        else:
            scores[row] = 1 / (1 + np.exp(-scores[row].astype(np.float64)))
    return scores


class FastTextLibrary:
    """A classifier that fastText itself scores."""

    def __init__(self, path: Path, reads: str, max_chars: int) -> None:
        """Load a model; ValueError says why it cannot be."""
        import fasttext

        self.reads, self.max_chars = reads, max_chars
        self._model: Any = fasttext.load_model(str(path))
        self.labels = tuple(one.removeprefix("__label__") for one in self._model.get_labels())
        self._columns = {f"__label__{label}": at for at, label in enumerate(self.labels)}

    def scores(self, texts: Texts) -> Scores:
        """Score texts: texts x labels."""
        read = read_texts(texts, self.reads, self.max_chars)
        lines = [read.text(row).translate(_BLANKS) + "\n" for row in range(len(read))]
        found: npt.NDArray[np.float32] = np.zeros((len(read), len(self.labels)), np.float32)
        labels, scores = self._model.f.multilinePredict(lines, len(self.labels), 0.0, "strict")
        for row, (names, values) in enumerate(zip(labels, scores, strict=True)):
            found[row, [self._columns[name] for name in names]] = np.minimum(values, 1)
        return found
