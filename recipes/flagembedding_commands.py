"""Commands under FlagEmbedding's names and arguments."""

import typer

from catalog.terminal import Bars, say

flagembedding_app = typer.Typer(
    help="FlagEmbedding's scripts with their own arguments.", no_args_is_help=True
)
_AS_GIVEN = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}


def register(app: typer.Typer) -> None:
    """Add the commands to the command line."""
    app.add_typer(flagembedding_app, name="flagembedding")


@flagembedding_app.command("hn_mine", context_settings=_AS_GIVEN)
def hn_mine(context: typer.Context) -> None:
    """Mine hard negatives into a file: the arguments of FlagEmbedding's hn_mine.py."""
    from mining.flagembedding import hn_mine as run
    from recipes.flagembedding import read_hn_mine

    settings, encoder = read_hn_mine(context.args, say)
    with Bars({}) as bars:
        rows = run(settings, encoder, progress=bars)
    say(f"{rows:,} rows written to {settings.output_file}")


@flagembedding_app.command("finetune", context_settings=_AS_GIVEN)
def finetune(context: typer.Context) -> None:
    """Fine-tune an embedder: the arguments of FlagEmbedding.finetune.embedder.encoder_only.base."""
    from recipes.flagembedding import RECIPE, read_finetune
    from trainer.own_data import catalog_of
    from trainer.run import RunPlace, train
    from trainer.settings import load_settings

    asked = read_finetune(context.args, say)
    settings = load_settings(RECIPE, asked.model, asked.changes)
    catalog, snapshot = catalog_of(asked.data, asked.out)
    newest = train(RunPlace(asked.out, catalog, snapshot), settings, say)
    say(f"model {newest}")
