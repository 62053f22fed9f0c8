"""Commands of n-gram models: ngrams learn, ngrams score."""

from pathlib import Path
from typing import Annotated

import typer

from catalog.snapshots import load_snapshot
from catalog.terminal import Bars, CatalogOption, open_catalog, say
from curation.ngrams.settings import NgramSettings

DEFAULTS = NgramSettings()
ngrams_app = typer.Typer(help="Character n-gram models of a corpus.", no_args_is_help=True)


def register(app: typer.Typer) -> None:
    """Add the commands of n-gram models to the command line."""
    app.add_typer(ngrams_app, name="ngrams")


@ngrams_app.command("learn")
def learn(
    snapshot: Annotated[str, typer.Argument(help="Snapshot whose passages are learned.")],
    file: Annotated[Path, typer.Argument(help="File of the model, such as corpus.ngrams.")],
    max_chars: Annotated[int, typer.Option(help="Characters of the sample.")] = DEFAULTS.max_chars,
    min_character_count: Annotated[
        int, typer.Option(help="Rarer characters are unknown.")
    ] = DEFAULTS.min_character_count,
    min_trigram_count: Annotated[
        int, typer.Option(help="Rarer trigrams are left to bigrams.")
    ] = DEFAULTS.min_trigram_count,
    seed: Annotated[int, typer.Option(help="Which sample.")] = DEFAULTS.seed,
    catalog: CatalogOption = None,
) -> None:
    """Learn which characters follow each other; a recipe measures bits per character with it."""
    from curation.learn_ngrams import learn_snapshot

    settings = NgramSettings(max_chars, min_character_count, min_trigram_count, seed)
    found = open_catalog(catalog)
    chosen = load_snapshot(found, snapshot)
    with Bars({"read": max_chars}) as bars:
        made = learn_snapshot(found, chosen, file, settings, bars)
    size = file.stat().st_size / 1e6
    say(f"{made.ngrams:,} n-grams of {made.chars:,} characters in {made.passages:,} passages")
    say(f'{file}: {size:.1f} MB; name it in a recipe: [signals] ngrams = {{ bits = "{file}" }}')


@ngrams_app.command("score")
def score(
    file: Annotated[Path, typer.Argument(help="File of a model.")],
    texts: Annotated[list[str], typer.Argument(help="Texts to score.")],
) -> None:
    """Print the bits per character of some texts: high is unlike the corpus."""
    from curation.ngrams.model import load_ngrams
    from curation.texts import from_strings

    for text, bits in zip(texts, load_ngrams(file).bits(from_strings(texts)), strict=True):
        say(f"{bits:6.2f}  {text}")
