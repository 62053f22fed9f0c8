"""Commands for which a language model is asked: to write pairs, and to judge them."""

import json
from typing import Annotated

import typer

from catalog.executors import ExecutorSettings
from catalog.terminal import Bars, CatalogOption, open_catalog, say
from curation.synthesis.endpoint import KEY_VARIABLE, Endpoint
from curation.synthesis.seeds import SeedSettings

SEEDS = SeedSettings()
# How a server is asked, whatever it is asked for.
EndpointOption = Annotated[
    str, typer.Option(help=f"URL of an OpenAI-compatible server; its key: {KEY_VARIABLE}.")
]
ModelOption = Annotated[str, typer.Option(help="Name of the model at the server.")]
TemperatureOption = Annotated[float, typer.Option(help="Of the sampling.")]
MaxTokensOption = Annotated[int, typer.Option(help="Tokens of an answer.")]
MaxAnswersOption = Annotated[int, typer.Option(help="Answers to ask for where none can be used.")]
ConcurrencyOption = Annotated[int, typer.Option(help="Requests under way at a time.")]
TimeoutOption = Annotated[float, typer.Option(help="Seconds that a request may take.")]
ExplainOption = Annotated[
    bool, typer.Option(help="Print the first request; send and write nothing.")
]


def register(app: typer.Typer) -> None:
    """Add synthesis to the command line."""
    app.command()(synthesize)
    app.command()(judge)


def synthesize(
    snapshot: Annotated[str, typer.Argument(help="Snapshot whose passages are the seeds.")],
    endpoint: EndpointOption,
    model: ModelOption,
    prompt: Annotated[str, typer.Option(help="TOML file, or a shipped prompt.")] = "queries-zh",
    passages: Annotated[int, typer.Option(help="Seeds to ask about.")] = SEEDS.passages,
    skip: Annotated[
        int, typer.Option(help="Seeds to leave out: where an earlier run ended.")
    ] = SEEDS.skip,
    min_chars: Annotated[
        int, typer.Option(help="Characters of the shortest seed.")
    ] = SEEDS.min_chars,
    max_chars: Annotated[
        int, typer.Option(help="Characters of the longest seed.")
    ] = SEEDS.max_chars,
    count: Annotated[int, typer.Option(help="Queries, negatives or pairs to ask for at once.")] = 3,
    temperature: TemperatureOption = 0.8,
    max_tokens: MaxTokensOption = 1_024,
    max_answers: MaxAnswersOption = 2,
    seed: Annotated[int, typer.Option(help="Another number draws other seeds and slots.")] = 0,
    concurrency: ConcurrencyOption = 64,
    timeout: TimeoutOption = 300.0,
    explain: ExplainOption = False,
    catalog: CatalogOption = None,
) -> None:
    """Let a language model write queries, hard negatives or graded pairs about real passages."""
    from catalog.snapshots import load_snapshot
    from curation.synthesis.prompts import load_prompt
    from curation.synthesis.settings import SynthesisSettings
    from curation.synthesize import first_request
    from curation.synthesize import synthesize as run

    settings = SynthesisSettings(
        model, load_prompt(prompt), SeedSettings(passages, skip, min_chars, max_chars, seed),
        count, max_answers, max_tokens, temperature,
    )  # fmt: skip
    server = Endpoint(endpoint, concurrency, timeout)
    found = open_catalog(catalog)
    chosen = load_snapshot(found, snapshot)
    if explain:
        say(json.dumps(first_request(found, chosen, settings), ensure_ascii=False, indent=1))
        return
    with Bars({"ask": passages}) as bars:
        done = run(found, chosen, settings, server, ExecutorSettings(1), bars)
    say(done.summary())
    say(f"source {done.source}; next: lode curate RECIPE measures them, lode snapshot names them")


def judge(
    snapshot: Annotated[str, typer.Argument(help="Snapshot whose rows are judged.")],
    endpoint: EndpointOption,
    model: ModelOption,
    prompt: Annotated[
        str, typer.Option(help="TOML file with choices, or a shipped one: answers-zh, …")
    ] = "answers-zh",
    where: Annotated[
        str, typer.Option(help="Only pairs with this, such as source like 'synthetic:%'.")
    ] = "true",
    sample: Annotated[int, typer.Option(help="Rows to draw; 0: all.")] = 0,
    seed: Annotated[int, typer.Option(help="Another number draws other rows.")] = 0,
    name: Annotated[
        str | None, typer.Option(help="What the judgments are called (default: the prompt's name).")
    ] = None,
    temperature: TemperatureOption = 0.0,
    max_tokens: MaxTokensOption = 512,
    max_answers: MaxAnswersOption = 2,
    concurrency: ConcurrencyOption = 64,
    timeout: TimeoutOption = 300.0,
    explain: ExplainOption = False,
    catalog: CatalogOption = None,
) -> None:
    """Let a language model grade pairs (into scores) or label passages (to train classifiers)."""
    from catalog.snapshots import load_snapshot
    from curation.judge import Selection, first_judgment
    from curation.judge import judge as run
    from curation.synthesis.choices import JudgeSettings, load_choices

    settings = JudgeSettings(model, load_choices(prompt), max_answers, max_tokens, temperature)
    server = Endpoint(endpoint, concurrency, timeout)
    selection = Selection(where, sample, seed, name)
    found = open_catalog(catalog)
    chosen = load_snapshot(found, snapshot)
    if explain:
        request = first_judgment(found, chosen, settings, selection)
        say(json.dumps(request, ensure_ascii=False, indent=1))
        return
    with Bars({}) as bars:
        done = run(found, chosen, settings, server, selection, ExecutorSettings(1), bars)
    say(done.summary())
