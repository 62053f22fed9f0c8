"""Commands of classifiers: classifier train, classifier evaluate, calibrate."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from catalog.terminal import CatalogOption, open_catalog, say

if TYPE_CHECKING:
    from curation.calibration import Keep
    from curation.classifiers.figures import Figures
    from curation.classifiers.labelled import Split

TableArgument = Annotated[
    Path, typer.Argument(help="Labelled table: .parquet, .jsonl, .csv or .tsv.")
]
ModelArgument = Annotated[
    str,
    typer.Argument(
        help="Folder with a card, shipped classifier, or fastText file or Hugging Face folder "
        "with #LABEL."
    ),
]
TextOption = Annotated[str, typer.Option("--text", help="Column of the text.")]
LabelOption = Annotated[str, typer.Option("--label", help="Column of the label.")]
SplitOption = Annotated[
    str | None, typer.Option("--split", help="COLUMN=VALUE of the rows that are held out.")
]
LexiconOption = Annotated[
    Path | None, typer.Option(help="Word list to compare with, one word a line.")
]

classifier_app = typer.Typer(
    help="Train and evaluate classifiers of texts.", no_args_is_help=True, add_completion=False
)


def register(app: typer.Typer) -> None:
    """Add the commands of classifiers to the command line."""
    classifier_app.command()(train)
    classifier_app.command()(evaluate)
    app.add_typer(classifier_app, name="classifier")
    app.command()(calibrate)


def train(
    table: TableArgument,
    folder: Annotated[Path, typer.Argument(help="New folder for model and card.")],
    positive: Annotated[str, typer.Option(help="The label whose probability is the signal.")],
    text: TextOption = "text",
    label: LabelOption = "label",
    split: SplitOption = None,
    held_out: Annotated[float, typer.Option(help="Share of texts held out by draw.")] = 0.1,
    seed: Annotated[int, typer.Option(help="Of the draws and of fastText.")] = 0,
    width: Annotated[int, typer.Option(help="Numbers per n-gram.")] = 4,
    ngrams: Annotated[str, typer.Option(help="Characters of an n-gram, FEWEST-MOST.")] = "1-3",
    buckets: Annotated[int, typer.Option(help="Vectors that n-grams share.")] = 180_000,
    epochs: Annotated[int, typer.Option(help="Times each row is seen.")] = 5,
    learning_rate: Annotated[float, typer.Option(help="Of the first step.")] = 0.1,
    min_count: Annotated[int, typer.Option(help="Words between blanks need so many.")] = 5,
    reads: Annotated[str, typer.Option(help="normalized or as written.")] = "normalized",
    max_chars: Annotated[int, typer.Option(help="Only so many characters are read.")] = 1_000,
    lexicon: LexiconOption = None,
    about: Annotated[str, typer.Option(help="For the card: what it finds.")] = "",
    data: Annotated[str, typer.Option(help="For the card: what it learned from.")] = "",
    license: Annotated[str, typer.Option(help="For the card.")] = "",
    limits: Annotated[str, typer.Option(help="For the card: where it is wrong.")] = "",
) -> None:
    """Learn a fastText classifier from a labelled table; the same rows give the same bytes."""
    from curation.classifier_training import Description, Lesson
    from curation.classifier_training import train as run
    from curation.classifiers.fasttext_training import FastTextSettings
    from curation.classifiers.figures import Figures
    from curation.classifiers.labelled import Columns, Split

    column, value = _split(split)
    lesson = Lesson(
        table,
        positive,
        Columns(text, label, column),
        Split(held_out, seed, value),
        FastTextSettings(
            width,
            _ngrams(ngrams),
            buckets,
            epochs,
            learning_rate,
            min_count,
            reads,
            max_chars,
            seed,
        ),
        lexicon,
    )
    card = run(lesson, folder, Description(about, data, license, limits))
    assert card.file is not None
    say(f"{folder}: {(folder / card.file).stat().st_size / 1e6:.2f} MB, SHA-256 {card.sha256}")
    say(f"{card.training['rows']:,} rows learned. {card.evaluation['held_out']}")
    _say_figures([Figures(**row) for row in card.evaluation["rows"]])


def evaluate(
    model: ModelArgument,
    table: TableArgument,
    text: TextOption = "text",
    label: LabelOption = "label",
    split: SplitOption = None,
    lexicon: LexiconOption = None,
) -> None:
    """Measure a classifier on held-out rows, beside majority, keywords and a word list."""
    from curation.classifier_training import evaluate as run
    from curation.classifiers import load_classifier
    from curation.classifiers.labelled import Columns

    column, _ = _split(split)
    columns = Columns(text, label, column)
    _say_figures(run(load_classifier(model), table, columns, _wanted_split(split), lexicon))


def calibrate(
    model: ModelArgument,
    table: TableArgument,
    precision: Annotated[
        float | None, typer.Option(help="Choose the threshold of this precision.")
    ] = None,
    kept: Annotated[
        float | None, typer.Option(help="Choose the strictest threshold that keeps this share.")
    ] = None,
    keep: Annotated[str, typer.Option(help="Keep texts below or above the threshold.")] = "below",
    signal: Annotated[
        str | None,
        typer.Option(help="Measured column, such as passage_toxicity: shares are the catalog's."),
    ] = None,
    stage: Annotated[str, typer.Option(help="Stage of the condition: safety, quality, …")] = "",
    picture: Annotated[Path | None, typer.Option(help="SVG file to write.")] = None,
    policy: Annotated[Path | None, typer.Option(help="TOML file to write.")] = None,
    text: TextOption = "text",
    label: LabelOption = "label",
    split: SplitOption = None,
    catalog: CatalogOption = None,
) -> None:
    """Show what each threshold does; choose one, as a condition of a policy with its evidence."""
    from curation.calibrate import Calibration
    from curation.calibrate import calibrate as run
    from curation.classifiers.labelled import Columns

    column, _ = _split(split)
    asked = Calibration(
        table, Columns(text, label, column), _wanted_split(split), cast("Keep", keep),
        precision, kept, signal, stage or "safety",
    )  # fmt: skip
    done = run(model, asked, open_catalog(catalog) if signal else None)
    for line in done.table():
        say(line)
    if picture is not None:
        done.write_picture(picture)
        say(f"picture: {picture}")
    if done.condition is not None:
        say("\n" + done.toml())
        if policy is not None:
            policy.write_text(done.toml(), encoding="utf-8")


def _split(written: str | None) -> tuple[str | None, str | None]:
    if written is None:
        return None, None
    column, mark, value = written.partition("=")
    if not (column and mark and value):
        raise ValueError(f"--split is {written!r}: write COLUMN=VALUE, such as split=test")
    return column, value


def _wanted_split(written: str | None) -> "Split | None":
    from curation.classifiers.labelled import Split

    _, value = _split(written)
    return None if value is None else Split(value=value)


def _ngrams(written: str) -> tuple[int, int]:
    fewest, _, most = written.partition("-")
    if not (fewest.isdecimal() and most.isdecimal()):
        raise ValueError(f"--ngrams is {written!r}: write FEWEST-MOST, such as 1-3")
    return int(fewest), int(most)


def _say_figures(rows: list["Figures"]) -> None:
    say(f"{'':<28}{'rows':>8}{'positive':>10}{'precision':>11}{'recall':>8}{'F1':>8}"
        f"{'accuracy':>10}{'AUC':>8}")  # fmt: skip
    for row in rows:
        name = f"{row.name} >= {row.threshold:g}"
        say(f"{name:<28}{row.rows:>8,}{row.positives:>10,}{row.precision:>11.3f}{row.recall:>8.3f}"
            f"{row.f1:>8.3f}{row.accuracy:>10.3f}{row.auc:>8.3f}")  # fmt: skip
