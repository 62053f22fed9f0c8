"""Labelled texts as evaluation sets: classification, and clustering of the same files.

A file is Parquet with ``text`` (or ``sentences``) and ``label`` (or ``labels``): words or numbers.
A column ``dataset`` means that the file holds several sets, named FILE.DATASET; a column ``split``
says which rows train the classifier and which are tested. Without it a fifth of the texts, drawn by
their digest, is tested.
"""

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc

from trainer.eval_sets import digest, find_files, names_differ, read_column, read_parquet

TEXTS: Final = ("text", "sentences", "sentence")
LABELS: Final = ("label", "labels")
DATASET: Final = "dataset"
SPLIT: Final = "split"
TRAIN: Final = "train"
TEST: Final = "test"
# One text in so many is tested, where a file says nothing of splits.
TEST_EVERY: Final = 5


@dataclass(frozen=True)
class LabelledSet:
    """Texts with a class each. Clustering takes the tested ones; ``revision`` digests all rows."""

    name: str
    train_texts: list[str]
    train_labels: list[int]
    texts: list[str]
    labels: list[int]
    revision: str


def read_labelled(paths: Iterable[Path]) -> list[LabelledSet]:
    """Read files of labelled texts, and every Parquet file of a folder.

    ValueError for a file without texts or labels, with empty rows, or with one class.
    """
    files = [file for path in paths for file in find_files(path)]
    return names_differ([one for file in files for one in _read_file(file)])


def _read_file(file: Path) -> list[LabelledSet]:
    table = read_parquet(file)
    if DATASET not in table.column_names:
        return [_read_set(file, file.stem, table)]
    names = read_column(table, DATASET, pa.string(), file)
    return [
        _read_set(file, f"{file.stem}.{name}", table.filter(pc.equal(table[DATASET], name)))
        for name in sorted(set(names))
    ]


def _read_set(file: Path, name: str, table: pa.Table) -> LabelledSet:
    texts = read_column(table, _named(table, TEXTS, file), pa.string(), file)
    labels = read_column(table, _named(table, LABELS, file), pa.string(), file)
    tested = _tested(table, texts, file)
    counts = Counter(label for label, is_tested in zip(labels, tested, strict=True) if is_tested)
    if len(counts) < 2:
        raise ValueError(
            f"{file}: {name} has {len(counts)} different labels in {sum(counts.values()):,} tested "
            "rows; at least 2 are needed to measure anything"
        )
    # A class that is never tested may be trained on; the other way round it could not be found.
    trained = {label for label, is_tested in zip(labels, tested, strict=True) if not is_tested}
    unknown = sorted(set(counts) - trained)
    if unknown:
        raise ValueError(
            f"{file}: {name} has no row to train the label {unknown[0]!r} on, only tested ones; "
            f"mark some rows {SPLIT}={TRAIN!r}"
        )
    classes = {label: number for number, label in enumerate(sorted(set(labels)))}
    rows = zip(texts, labels, tested, strict=True)
    parts = {False: ([], []), True: ([], [])}  # type: dict[bool, tuple[list[str], list[int]]]
    for text, label, is_tested in rows:
        parts[is_tested][0].append(text)
        parts[is_tested][1].append(classes[label])
    revision = digest(
        f"{text}\0{label}\0{is_tested}\n"
        for text, label, is_tested in zip(texts, labels, tested, strict=True)
    )
    return LabelledSet(name, *parts[False], *parts[True], revision)


def _named(table: pa.Table, names: Sequence[str], file: Path) -> str:
    found = next((name for name in names if name in table.column_names), None)
    if found is None:
        raise ValueError(
            f"{file} has no column {' or '.join(names)}; it has {', '.join(table.column_names)}; "
            "a labelled set has text and label, and may have split and dataset"
        )
    return found


def _tested(table: pa.Table, texts: list[str], file: Path) -> list[bool]:
    """Say which rows are tested; names of splits may go on, as test_public and train_few do."""
    if SPLIT not in table.column_names:
        return [_draw(text) for text in texts]
    splits: list[Any] = read_column(table, SPLIT, pa.string(), file)
    tested = [split.startswith(TEST) for split in splits]
    if not any(tested) or all(tested):
        raise ValueError(
            f"{file}: column {SPLIT} holds {', '.join(sorted(set(splits)))}; expected are {TRAIN} "
            f"and {TEST}"
        )
    return tested


def _draw(text: str) -> bool:
    key = hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(key[:8], "big") % TEST_EVERY == 0
