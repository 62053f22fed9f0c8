"""Training of a fastText classifier, the same bytes for the same rows and settings.

- One thread: with more, threads overwrite each other's updates.
- With one thread fastText 0.9 initialises a tenth of its input matrix and leaves the rest as malloc
  gave it: "Encountered NaN", or another model each time. A process of its own in which glibc fills
  what it hands out with zeros (MALLOC_PERTURB_ of 255) makes the rest zero. That is the better
  start, too: an n-gram that was never seen says nothing.
- Rows are learned in the order of a draw of their keys, whatever order the table has.
- A model file holds float32: with 4 numbers per n-gram a quantized one would not be smaller, and a
  linear model of two labels needs no more.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from catalog.draws import draw
from curation.classifiers.cards import MAX_CHARS, READS
from curation.classifiers.labelled import Labelled
from curation.classifiers.reading import read_texts

_BLANKS: Final = str.maketrans(dict.fromkeys("\n\r\t\v\f\0", " "))


@dataclass(frozen=True)
class FastTextSettings:
    """How a fastText classifier is trained; the defaults make a file of 2.9 MB."""

    width: int = 4  # numbers per n-gram; 16 gained nothing on COLD (AUC 0.873 to 0.872)
    ngrams: tuple[int, int] = (1, 3)  # characters; 2 to 4 lost 0.02 AUC on COLD
    buckets: int = 180_000  # n-grams share that many vectors
    epochs: int = 5
    learning_rate: float = 0.1  # .5 drives scores to 0 and 1, where float32 and people lose sight
    min_count: int = 5  # a word between blanks gets a vector if it occurs that often
    reads: str = READS[1]
    max_chars: int = MAX_CHARS
    seed: int = 0

    def __post_init__(self) -> None:
        """Check each setting; ValueError says what is allowed."""
        object.__setattr__(self, "ngrams", tuple(self.ngrams))
        for name in ("width", "buckets", "epochs", "min_count", "max_chars"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}: 1 or more")
        if not 0 < self.learning_rate <= 5:
            raise ValueError(f"learning_rate is {self.learning_rate}: more than 0, at most 5")
        if not 1 <= self.ngrams[0] <= self.ngrams[1]:
            raise ValueError(f"ngrams is {self.ngrams}: the fewest and the most characters")
        if self.reads not in READS:
            raise ValueError(f"reads is {self.reads!r}: it is one of {', '.join(READS)}")


def train_fasttext(rows: Labelled, settings: FastTextSettings, model: Path) -> None:
    """Learn from rows and write a model file; RuntimeError says how fastText failed."""
    with tempfile.TemporaryDirectory() as scratch:
        lines = Path(scratch, "rows.txt")
        lines.write_text("".join(training_lines(rows, settings)), encoding="utf-8")
        run_fasttext(_options(settings, lines), model)


def run_fasttext(options: Mapping[str, object], model: Path) -> None:
    """Train in a process of its own; RuntimeError says how fastText failed."""
    child = Path(__file__).with_name("fasttext_child.py")
    with tempfile.NamedTemporaryFile("w", suffix=".json", encoding="utf-8") as file:
        json.dump(options, file)
        file.flush()
        found = subprocess.run(
            [sys.executable, "-P", str(child), file.name, str(model)],
            env={**os.environ, "MALLOC_PERTURB_": "255"},
            capture_output=True,
            text=True,
            check=False,
        )
    if found.returncode:
        reason = (found.stderr.strip().splitlines() or ["no message"])[-1]
        raise RuntimeError(f"fastText could not learn from {options['input']}: {reason}")


def training_lines(rows: Labelled, settings: FastTextSettings) -> list[str]:
    """Write a line per row in the order of a draw; ValueError on a label with a blank."""
    for label in sorted(set(rows.labels.tolist())):
        if not label or label.split() != [label]:
            raise ValueError(f"the label {label!r} has blanks in it or is empty: rename it")
    read = read_texts(rows.texts, settings.reads, settings.max_chars)
    drawn = draw(settings.seed, "order of training rows", rows.keys()).tolist()
    lines = sorted(
        (place, f"__label__{label} {_line(read.text(row))}\n")
        for row, (place, label) in enumerate(zip(drawn, rows.labels.tolist(), strict=True))
    )
    return [line for _, line in lines]


def _line(text: str) -> str:
    """Write a text as fastText's lines are: its own marks inside a text are broken up."""
    text = text.translate(_BLANKS)
    return text.replace("__label__", "_ _label__").replace("</s>", "< /s>")


def _options(settings: FastTextSettings, lines: Path) -> dict[str, object]:
    return {
        "input": str(lines),
        "dim": settings.width,
        "minn": settings.ngrams[0],
        "maxn": settings.ngrams[1],
        "bucket": settings.buckets,
        "epoch": settings.epochs,
        "lr": settings.learning_rate,
        "minCount": settings.min_count,
        "seed": settings.seed,
        "loss": "softmax",
        "thread": 1,
        "verbose": 0,
    }
