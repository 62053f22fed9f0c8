"""How many texts a core-second do classifiers score, and what do they get right?

    python -m benchmarks.classifiers [DATA]      # writes benchmarks/classifiers.md, two minutes

Scored are passages of 100 to 200 characters of the real pairs, with the shipped classifier and, in
the same run, with fastText's own predict on the same model and the same prepared texts. Held-out
figures stand beside a majority and a keyword baseline. The fluency trial trains on the only labels
of fluency that we may use, to see whether a model of them is worth shipping.
"""

import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import fasttext
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from benchmarks.machine import DATA, describe
from curation.classifier_training import Lesson, train
from curation.classifiers import find_classifier, load_classifier, shipped_classifiers
from curation.classifiers.fasttext_training import FastTextSettings
from curation.classifiers.labelled import Columns, Split
from curation.classifiers.reading import read_texts
from curation.texts import Texts, decode, from_strings

CHARS = (100, 200)
ROWS_A_FILE = 4_096
BATCH = 8_192  # as curation/measure.py has it
ROUNDS = 5
PACKAGES = ("fasttext-numpy2-wheel", "numba", "numpy", "pyarrow")
FLUENCY = {
    "as shipped ones": FastTextSettings(),
    "20 epochs": FastTextSettings(epochs=20, learning_rate=0.5),
    "as written, 2-4 characters": FastTextSettings(
        ngrams=(2, 4), epochs=20, learning_rate=0.5, reads="as written"
    ),
}


def main() -> None:
    data = Path(sys.argv[1]) if len(sys.argv) > 1 else DATA
    if not (data / "pairs").is_dir():
        sys.exit(f"there is no folder {data / 'pairs'}: name the folder that holds pairs/*.parquet")
    texts = passages(data)
    lines = [
        "# Classifiers",
        "",
        "`python -m benchmarks.classifiers`; target: 20,000 texts per core-second each.",
        "",
        describe(PACKAGES),
        "",
        *speed(texts),
        "",
        *held_out(),
        "",
        *fluency(data),
    ]
    text = "\n".join(lines) + "\n"
    Path(__file__).with_suffix(".md").write_text(text, encoding="utf-8")
    print(text)


def passages(data: Path) -> list[str]:
    found: list[str] = []
    for path in sorted((data / "pairs").glob("*.parquet")):
        column = pq.ParquetFile(path).read_row_group(0, columns=["text2"])["text2"]
        column = column.slice(0, ROWS_A_FILE)
        lengths = pc.utf8_length(column)
        is_long = pc.and_(pc.greater_equal(lengths, CHARS[0]), pc.less_equal(lengths, CHARS[1]))
        found += column.filter(is_long).to_pylist()
    return found


def speed(texts: list[str]) -> list[str]:
    rows = [
        "| passages of 100 to 200 characters | texts | characters a text | min s | median s "
        "| max s | texts per core-s |",
        "|---|---|---|---|---|---|---|",
    ]
    column = pa.array(texts)
    for name in shipped_classifiers():
        classifier, card = load_classifier(name), find_classifier(name).card

        def ours(score: Callable[[Texts], object] = classifier.scores) -> None:
            for start in range(0, len(column), BATCH):
                score(decode(column.slice(start, BATCH)))

        ours()  # compiles
        model = fasttext.load_model(str(find_classifier(name).model))
        read = read_texts(from_strings(texts), card.reads, card.max_chars)
        lines = [read.text(row) for row in range(len(read))]
        rows.append(speed_row(f"{name}, decoding and normalising included", texts, ours))
        rows.append(
            speed_row(
                f"{name}, fastText's predict on normalised strings",
                texts,
                lambda model=model, lines=lines: model.predict(lines, k=2),  # type: ignore[misc]
            )
        )
    return rows


def speed_row(name: str, texts: list[str], work: Callable[[], object]) -> str:
    rounds = []
    for _ in range(ROUNDS):
        start = time.process_time()
        work()
        rounds.append(time.process_time() - start)
    rounds.sort()
    median = statistics.median(rounds)
    cells = [
        name,
        f"{len(texts):,}",
        f"{sum(map(len, texts)) / len(texts):.0f}",
        *(f"{seconds:.2f}" for seconds in (rounds[0], median, rounds[-1])),
        f"{len(texts) / median:,.0f}",
    ]
    return f"| {' | '.join(cells)} |"


def held_out() -> list[str]:
    lines = [
        "Held-out figures of the shipped classifiers (their cards hold the same):",
        "",
        *HEAD,
    ]
    for name in shipped_classifiers():
        lines += [figure_row(row) for row in find_classifier(name).card.evaluation["rows"]]
    return lines


def fluency(data: Path) -> list[str]:
    lines = [
        "Fluency: no model of FCGEC is shipped. Its 2,000 labelled sentences (a fifth held out by",
        "draw) differ from correct ones in a word or its place, which a bag of n-grams does not",
        "see: the models are at the level of chance and of the baselines.",
        "",
        *HEAD,
    ]
    table = data / "labels" / "fluency_fcgec_valid.parquet"
    with tempfile.TemporaryDirectory() as scratch:
        for number, (name, settings) in enumerate(FLUENCY.items()):
            lesson = Lesson(table, "1", Columns(label="error_flag"), Split(share=0.2), settings)
            rows = train(lesson, Path(scratch, f"{number}")).evaluation["rows"]
            lines.append(figure_row({**rows[0], "name": f"FCGEC, {name}"}))
    return [*lines, *(figure_row({**row, "name": f"FCGEC, {row['name']}"}) for row in rows[1:])]


HEAD = [
    "| | rows | positive | threshold | precision | recall | F1 | accuracy | AUC |",
    "|---|---|---|---|---|---|---|---|---|",
]


def figure_row(row: dict) -> str:
    cells = [row["name"], f"{row['rows']:,}", f"{row['positives']:,}", f"{row['threshold']:g}"]
    cells += [f"{row[key]:.3f}" for key in ("precision", "recall", "f1", "accuracy", "auc")]
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
