"""Training and evaluation of classifiers from labelled tables, baselines beside every figure."""

import shlex
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from curation.classifiers.cards import Card, write_card
from curation.classifiers.classifier import LabelScores, load_classifier
from curation.classifiers.fasttext_training import FastTextSettings, train_fasttext
from curation.classifiers.figures import Figures, figures, keywords, lexicon, majority
from curation.classifiers.labelled import Columns, Labelled, Split, hold_out, read_labelled
from curation.classifiers.places import file_digest

MODEL_FILE = "model.bin"


@dataclass(frozen=True)
class Lesson:
    """What to learn: which label of which table, how it is divided, with which settings."""

    table: Path
    label: str
    columns: Columns = field(default_factory=Columns)
    split: Split = field(default_factory=Split)
    model: FastTextSettings = field(default_factory=FastTextSettings)
    lexicon: Path | None = None  # a word list to compare with, one word a line


@dataclass(frozen=True)
class Description:
    """What a person knows about a classifier, for its card."""

    about: str = ""
    data: str = ""
    license: str = ""
    limits: str = ""


def train(lesson: Lesson, folder: Path, description: Description | None = None) -> Card:
    """Train a classifier into a new folder: model, card for programs, card for people.

    The folder appears whole or not at all; ValueError where it is already there.
    """
    if folder.exists():
        raise ValueError(f"there is already {folder}: name a new folder, or delete that one")
    learned, held = divide(lesson)
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        model = partial / MODEL_FILE
        train_fasttext(learned, lesson.model, model)
        card = _card(lesson, folder.name, model, description or Description(), len(learned))
        write_card(card, partial)
        found = compare(load_classifier(partial), learned, held, lesson.lexicon)
        evaluation = {"held_out": _held_out(lesson), "rows": [asdict(one) for one in found]}
        card = Card(**{**asdict(card), "evaluation": evaluation})
        write_card(card, partial)
        partial.rename(folder)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    return card


def evaluate(
    classifier: LabelScores,
    table: Path,
    columns: Columns,
    split: Split | None = None,
    lexicon: Path | None = None,
) -> list[Figures]:
    """Measure a classifier on rows that it has not learned from, beside baselines.

    Rows of the table that it was trained on are divided as they were then, unless a split is given.
    Of any other table every row is held out, and the baselines that learn are left out.
    """
    learned, held = _known_split(classifier, table, columns, split)
    return compare(classifier, learned, held, lexicon)


def held_out_rows(
    classifier: LabelScores, table: Path, columns: Columns, split: Split | None = None
) -> Labelled:
    """Give the rows of a table that a classifier has not learned from."""
    return _known_split(classifier, table, columns, split)[1]


def _known_split(
    classifier: LabelScores, table: Path, columns: Columns, split: Split | None
) -> tuple[Labelled | None, Labelled]:
    rows = read_labelled(table, columns)
    trained = classifier.card.training
    if split is None and trained.get("table_sha256") == file_digest(table):
        split = Split(**trained["split"])
        if split.value is not None:
            columns = Columns(columns.text, columns.label, trained["columns"]["split"])
            rows = read_labelled(table, columns)
    return (None, rows) if split is None else hold_out(rows, split)


def divide(lesson: Lesson) -> tuple[Labelled, Labelled]:
    """Read a lesson's table and hold rows out; ValueError unless both parts have both sides."""
    learned, held = hold_out(read_labelled(lesson.table, lesson.columns), lesson.split)
    for name, rows in (("to learn from", learned), ("held out", held)):
        marked = int((rows.labels == lesson.label).sum())
        if not 0 < marked < len(rows):
            labels = ", ".join(sorted(set(rows.labels.tolist()))[:10])
            raise ValueError(
                f"of {len(rows)} rows {name}, {marked} have the label {lesson.label!r}: some must "
                f"have it and some not (labels there: {labels or 'none'})"
            )
    return learned, held


def compare(
    classifier: LabelScores, learned: Labelled | None, held: Labelled, words: Path | None
) -> list[Figures]:
    """Measure a classifier and its baselines on the same held-out rows."""
    label = classifier.card.label
    positive = held.labels == label
    found = [figures(classifier.card.name, classifier.scores(held.texts), positive)]
    if learned is not None:
        found += [majority(learned.labels == label, positive), keywords(learned, label, held)]
    if words is not None:
        found.append(lexicon(f"word list {words.name}", _read_words(words), held, label))
    return found


def _read_words(path: Path) -> list[str]:
    lines = path.read_text(encoding="utf-8-sig").splitlines()
    return [line.partition("\t")[0].strip() for line in lines if not line.startswith("#")]


def _held_out(lesson: Lesson) -> str:
    split = lesson.split
    if split.value is not None:
        return f"Held out: rows whose {lesson.columns.split} is {split.value}."
    return f"Held out: {split.share:.0%} of the texts, drawn by their keys."


def _card(lesson: Lesson, name: str, model: Path, description: Description, learned: int) -> Card:
    training: dict[str, Any] = {
        **asdict(lesson.model),
        "rows": learned,
        "columns": asdict(lesson.columns),
        "split": asdict(lesson.split),
        "table_sha256": file_digest(lesson.table),
    }
    return Card(
        name=name,
        engine="fasttext",
        label=lesson.label,
        file=model.name,
        sha256=file_digest(model),
        reads=lesson.model.reads,
        max_chars=lesson.model.max_chars,
        command=shlex.join(command_of(lesson, name)),
        training=training,
        **asdict(description),
    )


def command_of(lesson: Lesson, name: str) -> Sequence[str]:
    """Write the command that trains this classifier again; settings by default stay unsaid."""
    words = ["lode", "classifier", "train", lesson.table.name, name, "--positive", lesson.label]
    said = {
        "--text": (lesson.columns.text, Columns.text),
        "--label": (lesson.columns.label, Columns.label),
        "--split": (lesson.split.value and f"{lesson.columns.split}={lesson.split.value}", None),
        "--held-out": (lesson.split.share, Split.share),
        "--seed": (lesson.split.seed, Split.seed),
        "--width": (lesson.model.width, FastTextSettings.width),
        "--ngrams": ("-".join(map(str, lesson.model.ngrams)), "1-3"),
        "--buckets": (lesson.model.buckets, FastTextSettings.buckets),
        "--epochs": (lesson.model.epochs, FastTextSettings.epochs),
        "--learning-rate": (lesson.model.learning_rate, FastTextSettings.learning_rate),
        "--min-count": (lesson.model.min_count, FastTextSettings.min_count),
        "--reads": (lesson.model.reads, FastTextSettings.reads),
        "--max-chars": (lesson.model.max_chars, FastTextSettings.max_chars),
    }
    for option, (value, default) in said.items():
        if value != default:
            words += [option, str(value)]
    return words
