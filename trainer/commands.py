"""Commands of training: pre-train, train, make a new model, evaluate, and compare runs."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from catalog.errors import CatalogError
from catalog.snapshots import load_snapshot
from catalog.terminal import Bars, CatalogOption, open_catalog, say

if TYPE_CHECKING:
    from mining.encoder import EncoderSettings

# What every kind of training run is told.
RecipeArgument = Annotated[
    str | None, typer.Argument(help="Recipe: a TOML file, or the name of a shipped one.")
]
OutOption = Annotated[
    Path | None, typer.Option("--out", "-o", help="Folder of the run; it names the run.")
]
ResumeOption = Annotated[Path | None, typer.Option(help="Go on with the run in this folder.")]
BaseOption = Annotated[
    str | None, typer.Option("--model", "-m", help="Base model (default: the recipe's).")
]
StepsOption = Annotated[int | None, typer.Option(help="Stop after so many steps.")]
SeedOption = Annotated[int | None, typer.Option(help="Seed of all that is drawn.")]
PackOption = Annotated[
    Path | None, typer.Option(help="Folder of the pack (default: beside the catalog's work).")
]
runs_app = typer.Typer(help="Training runs.", no_args_is_help=True)


def register(app: typer.Typer) -> None:
    """Add training's commands to the command line."""
    app.command()(train)
    app.command()(pretrain)
    app.command("new-model")(new_model)
    app.command()(evaluate)
    app.add_typer(runs_app, name="runs")


def train(
    recipe: RecipeArgument = None,
    snapshot: Annotated[str | None, typer.Option(help="Snapshot to train on.")] = None,
    out: OutOption = None,
    resume: ResumeOption = None,
    data: Annotated[
        list[str] | None,
        typer.Option(help="Train on files of pairs without a catalog; one is made beside the run."),
    ] = None,
    model: BaseOption = None,
    run: Annotated[
        str | None, typer.Option(help="Mining run (default: the snapshot's newest).")
    ] = None,
    steps: StepsOption = None,
    seed: SeedOption = None,
    set: Annotated[
        list[str] | None,
        typer.Option(
            "--set", help="SETTING=VALUE of [train] or [rerank], such as retrieval.batch=128."
        ),
    ] = None,
    pack: PackOption = None,
    catalog: CatalogOption = None,
) -> None:
    """Train an embedding model, or a reranker, on a snapshot; kill it and run the same again.

    A recipe with a section [rerank] and no [train] trains a reranker.
    """
    from trainer.reranker_run import train_reranker
    from trainer.reranker_settings import RerankSettings, is_of_reranker, load_rerank_settings
    from trainer.resume import load_run
    from trainer.run import RunPlace
    from trainer.run import train as run_training
    from trainer.settings import TrainSettings, change_settings, load_settings

    settings: TrainSettings | RerankSettings
    if resume is not None:
        place, settings = load_run(resume, catalog)
    else:
        if recipe is None or out is None or (snapshot is None) == (data is None):
            raise CatalogError(
                "give a recipe, --out, and either --snapshot or --data; or --resume alone"
            )
        changes: dict[str, Any] = {"steps": steps, "seed": seed}
        given = {name: value for name, value in changes.items() if value is not None}
        load = load_rerank_settings if is_of_reranker(recipe) else load_settings
        settings = load(recipe, model, change_settings(given, set or ()))
        if data is not None:
            from trainer.own_data import catalog_of

            found, chosen = catalog_of(data, out)
        else:
            found = open_catalog(catalog)
            chosen = load_snapshot(found, str(snapshot))
        place = RunPlace(out, found, chosen, run, pack)
    if isinstance(settings, RerankSettings):
        newest = train_reranker(place, settings, say)
    else:
        newest = run_training(place, settings, say)
    say(f"model {newest}")


def pretrain(
    recipe: RecipeArgument = None,
    snapshot: Annotated[str | None, typer.Option(help="Snapshot whose passages are read.")] = None,
    out: OutOption = None,
    resume: ResumeOption = None,
    model: BaseOption = None,
    steps: StepsOption = None,
    seed: SeedOption = None,
    set: Annotated[
        list[str] | None,
        typer.Option("--set", help="SETTING=VALUE of [pretrain], such as mask.words=jieba."),
    ] = None,
    pack: PackOption = None,
    catalog: CatalogOption = None,
) -> None:
    """Pre-train an encoder with RetroMAE on a snapshot's passages; run it again: it goes on."""
    from trainer.pretrain_settings import load_pretraining
    from trainer.pretraining import pretrain as run_pretraining
    from trainer.resume import load_pretraining_run
    from trainer.run_folder import RunPlace
    from trainer.settings import change_settings

    if resume is not None:
        place, settings = load_pretraining_run(resume, catalog)
    else:
        if recipe is None or out is None or snapshot is None:
            raise CatalogError("give a recipe, --snapshot and --out; or --resume alone")
        changes: dict[str, Any] = {"steps": steps, "seed": seed}
        given = {name: value for name, value in changes.items() if value is not None}
        settings = load_pretraining(recipe, model, change_settings(given, set or ()))
        found = open_catalog(catalog)
        place = RunPlace(out, found, load_snapshot(found, snapshot), pack_folder=pack)
    say(f"model {run_pretraining(place, settings, say)}")


def evaluate(
    what: Annotated[
        str, typer.Argument(help="Model: a folder, a Hugging Face name, lexical; or: retrieval.")
    ],
    folders: Annotated[
        list[Path] | None,
        typer.Argument(help="With retrieval: folders with corpus, queries and qrels."),
    ] = None,
    model: Annotated[
        str, typer.Option("--model", "-m", help="With retrieval: the model, or bm25.")
    ] = "lexical",
    sts: Annotated[
        list[Path] | None, typer.Option(help="Parquet of graded pairs, or a folder of them.")
    ] = None,
    retrieval: Annotated[
        list[Path] | None, typer.Option(help="Judged collection, or a folder of them.")
    ] = None,
    classification: Annotated[
        list[Path] | None, typer.Option(help="Parquet of labelled texts, or a folder of them.")
    ] = None,
    clustering: Annotated[
        list[Path] | None, typer.Option(help="The same, to be found as clusters.")
    ] = None,
    benchmark: Annotated[
        str | None, typer.Option(help="All sets of cmteb-local, or of a TOML file that names some.")
    ] = None,
    data: Annotated[Path, typer.Option(help="Folder that a benchmark's sets are in.")] = Path("."),
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder for mteb's result files.")
    ] = None,
    rerank: Annotated[
        str | None, typer.Option(help="With retrieval: a cross-encoder as the second stage.")
    ] = None,
    rerank_depth: Annotated[int, typer.Option(help="Passages of a query that it reads.")] = 100,
    record: Annotated[bool, typer.Option(help="Keep the results in the catalog.")] = False,
    snapshot: Annotated[
        str | None,
        typer.Option(help="What the model was trained on: say how much of each set it holds."),
    ] = None,
    instruction: Annotated[str | None, typer.Option(help="Put before every query.")] = None,
    passage_instruction: Annotated[str | None, typer.Option(help="Before every passage.")] = None,
    pooling: Annotated[str | None, typer.Option(help="For a folder that names none.")] = None,
    max_tokens: Annotated[int | None, typer.Option(help="Cut texts here.")] = None,
    dtype: Annotated[str, typer.Option(help="fastest, float32, bfloat16 or float16.")] = "fastest",
    device: Annotated[str, typer.Option(help="fastest, cpu, cuda or cuda:N.")] = "fastest",
    catalog: CatalogOption = None,
) -> None:
    """Evaluate a model through mteb on local data; `lode evaluate retrieval` needs no mteb."""
    from mining.encoder import EncoderSettings

    settings = EncoderSettings(
        model if what == "retrieval" else what, device=device, dtype=dtype, pooling=pooling,
        max_tokens=max_tokens, query_instruction=instruction,
        passage_instruction=passage_instruction,
    )  # fmt: skip
    if rerank is not None:
        if what != "retrieval":
            raise CatalogError("--rerank is for: lode evaluate retrieval FOLDERS --rerank MODEL")
        _evaluate_two_stages(settings, rerank, folders or [], rerank_depth, catalog, record)
        return
    if what == "retrieval":
        from mining.retrieval_eval import evaluate_folders, searcher, table_lines

        for line in table_lines(evaluate_folders(folders or [], searcher(settings))):
            say(line)
        return
    from catalog.contamination import snapshot_contamination
    from trainer.eval_paths import SetPaths, read_benchmark
    from trainer.eval_records import commit_results
    from trainer.evaluation import evaluate_model, print_results
    from trainer.run_record import run_of_model

    sets = SetPaths(sts or (), retrieval or (), classification or (), clustering or ())
    if benchmark is not None:
        sets += read_benchmark(benchmark, data)
    held = None
    if snapshot is not None:
        found = open_catalog(catalog)
        held = snapshot_contamination(found, load_snapshot(found, snapshot))
    with Bars({}) as bars:
        results = evaluate_model(settings, sets, output, progress=bars)
    print_results(results, held)
    if record:
        rows = commit_results(open_catalog(catalog), results, run_of_model(what), held)
        say(f"{rows:,} values kept in evaluations")


def _evaluate_two_stages(
    search: "EncoderSettings",
    model: str,
    folders: list[Path],
    depth: int,
    catalog: str | None,
    record: bool,
) -> None:
    """Print every collection's metrics before and after the second stage; keep both if asked."""
    from mining.relevance import RelevanceSettings
    from trainer.eval_records import commit_results
    from trainer.eval_reranked import evaluate_two_stages, two_stage_lines
    from trainer.run_record import run_of_model

    results = list(evaluate_two_stages(search, RelevanceSettings(model), folders, depth))
    for line in two_stage_lines(results):
        say(line)
    if record:
        found = open_catalog(catalog)
        stages = zip((search.model, model), zip(*results, strict=True), strict=True)
        kept = sum(commit_results(found, of, run_of_model(name)) for name, of in stages)
        say(f"{kept:,} values kept in evaluations")


@runs_app.command("compare")
def runs_compare(
    folders: Annotated[list[Path], typer.Argument(help="Folders of runs.")],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="HTML file with the curves.")
    ] = Path("runs.html"),
) -> None:
    """Put the curves of runs side by side: losses, scores of positives and negatives, windows."""
    from trainer.comparison import write_comparison

    for line in write_comparison(folders, output):
        say(line)
    say(f"curves written to {output}")


def new_model(
    snapshot: Annotated[str, typer.Argument(help="Snapshot that the tokenizer is learned from.")],
    folder: Annotated[Path, typer.Argument(help="Folder of the new model.")],
    layers: Annotated[int, typer.Option(help="Transformer layers.")] = 4,
    width: Annotated[int, typer.Option(help="Width of the layers and the embedding.")] = 256,
    vocabulary: Annotated[int, typer.Option(help="Pieces of the tokenizer.")] = 8000,
    max_tokens: Annotated[int, typer.Option(help="Greatest length of a text.")] = 512,
    seed: Annotated[int, typer.Option(help="Seed of weights and sample.")] = 1,
    catalog: CatalogOption = None,
) -> None:
    """Make a small BERT with random weights and a tokenizer of its own, to train from scratch."""
    from trainer.new_model import NewModelSettings, make_model

    found = open_catalog(catalog)
    settings = NewModelSettings(
        layers, width, vocabulary=vocabulary, max_tokens=max_tokens, seed=seed
    )
    say(f"model {make_model(found, load_snapshot(found, snapshot), folder, settings)}")
