"""Commands of mining: embed, score, mine and pack."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated, cast

import typer

from catalog.errors import CatalogError
from catalog.executor_options import (
    DEFAULT_WORKERS,
    ClusterOption,
    ExecutorOption,
    WaitOption,
    WorkersOption,
    choose_executor,
)
from catalog.snapshots import load_snapshot
from catalog.terminal import Bars, CatalogOption, open_catalog, say
from mining.encoder import LEXICAL, SIDES, EncoderSettings, Side

SHARD_QUERIES = 16_384  # as MineSettings has it, whose module takes seconds to import
SnapshotArgument = Annotated[str, typer.Argument(help="Snapshot whose kept rows are used.")]
ModelOption = Annotated[
    str,
    typer.Option(
        "--model", "-m", help="Folder, Hugging Face name, or lexical (built in, no weights)."
    ),
]
NameOption = Annotated[
    str | None, typer.Option(help="What the catalog calls the model (default: like its folder).")
]
InstructionOption = Annotated[
    str | None, typer.Option(help="Put before every query (default: as the model was published).")
]
PassageInstructionOption = Annotated[str | None, typer.Option(help="Put before every passage.")]
PoolingOption = Annotated[
    str | None, typer.Option(help="For a folder that names none: cls, mean, lasttoken, …")
]
MaxTokensOption = Annotated[int | None, typer.Option(help="Cut texts here.")]
DtypeOption = Annotated[str, typer.Option(help="fastest, float32, bfloat16 or float16.")]
DeviceOption = Annotated[str, typer.Option(help="fastest, cpu, cuda or cuda:N.")]
TrustOption = Annotated[
    bool, typer.Option("--trust-remote-code", help="Run code that the model folder brings along.")
]


def register(app: typer.Typer) -> None:
    """Add mining's commands to the command line."""
    for command in (embed, score, mine, pack):
        app.command()(command)


def embed(
    snapshot: SnapshotArgument,
    model: ModelOption = LEXICAL,
    side: Annotated[str | None, typer.Option(help="query or passage (default: both).")] = None,
    instruction: Annotated[
        str | None,
        typer.Option(help="Put before every text of the side; of queries where no side is given."),
    ] = None,
    passage_instruction: PassageInstructionOption = None,
    name: NameOption = None,
    pooling: PoolingOption = None,
    max_tokens: MaxTokensOption = None,
    dtype: DtypeOption = "fastest",
    device: DeviceOption = "fastest",
    trust_remote_code: TrustOption = False,
    workers: WorkersOption = DEFAULT_WORKERS,
    executor: ExecutorOption = None,
    cluster: ClusterOption = None,
    wait: WaitOption = True,
    catalog: CatalogOption = None,
) -> None:
    """Give every text of a snapshot a vector; a text that has one is not encoded again."""
    from mining.embed import embed as run

    if side == "passage" and instruction is not None:
        passage_instruction, instruction = instruction, None
    encoder = EncoderSettings(
        model, name, device, dtype, pooling=pooling, max_tokens=max_tokens,
        query_instruction=instruction, passage_instruction=passage_instruction,
        trust_remote_code=trust_remote_code,
    )  # fmt: skip
    found = open_catalog(catalog)
    chosen = load_snapshot(found, snapshot)
    place = choose_executor(workers, executor, cluster, wait)
    for one in SIDES if side is None else (cast(Side, side),):
        with Bars({}) as bars:
            done = run(found, chosen, encoder, one, place, bars)
        rebuilt = f", {done.rebuilt_shards} damaged shards made again" * bool(done.rebuilt_shards)
        spec = done.store.spec
        say(
            f"{one}: {done.texts:,} texts embedded by {spec.model} ({spec.width} wide, revision "
            f"{spec.revision}){rebuilt}"
        )


def score(
    snapshot: SnapshotArgument,
    model: ModelOption = LEXICAL,
    replace: Annotated[
        bool, typer.Option(help="Drop the model's scores of another revision.")
    ] = False,
    instruction: InstructionOption = None,
    passage_instruction: PassageInstructionOption = None,
    name: NameOption = None,
    pooling: PoolingOption = None,
    max_tokens: MaxTokensOption = None,
    dtype: DtypeOption = "fastest",
    device: DeviceOption = "fastest",
    trust_remote_code: TrustOption = False,
    workers: WorkersOption = DEFAULT_WORKERS,
    executor: ExecutorOption = None,
    cluster: ClusterOption = None,
    wait: WaitOption = True,
    catalog: CatalogOption = None,
) -> None:
    """Store the cosine of query and positive; a policy then asks for score('MODEL') >= 0.4."""
    from mining.score import score as run

    encoder = EncoderSettings(
        model, name, device, dtype, pooling=pooling, max_tokens=max_tokens,
        query_instruction=instruction, passage_instruction=passage_instruction,
        trust_remote_code=trust_remote_code,
    )  # fmt: skip
    found = open_catalog(catalog)
    chosen = load_snapshot(found, snapshot)
    place = choose_executor(workers, executor, cluster, wait)
    with Bars({}) as bars:
        done = run(found, chosen, encoder, place, bars, replace=replace)
    say(
        f"{done.pairs:,} pairs scored by {done.model} (revision {done.revision}), "
        f"{done.texts:,} texts embedded for it"
    )
    say(f"use it: score('{done.model}') >= 0.4 in a policy's condition")


def mine(
    snapshot: SnapshotArgument,
    model: ModelOption = LEXICAL,
    depth: Annotated[int, typer.Option(help="Ranked passages a query, removed ones too.")] = 200,
    search: Annotated[
        list[str] | None,
        typer.Option(
            help="exact, ivf, ivf-sq8, ivf-pq, hnsw or bm25; several are fused by reciprocal rank "
            "(default: exact)."
        ),
    ] = None,
    relative_margin: Annotated[
        float, typer.Option(help="Keep below this share of the positive's score.")
    ] = 0.95,
    margin: Annotated[bool, typer.Option(help="Use the relative margin at all.")] = True,
    absolute_margin: Annotated[
        float | None, typer.Option(help="Keep below the positive's score less this.")
    ] = None,
    max_score: Annotated[float | None, typer.Option(help="Keep at most this score.")] = None,
    reranker: Annotated[
        str | None, typer.Option(help="Cross-encoder that removes what it calls relevant.")
    ] = None,
    reranker_min_score: Annotated[
        float, typer.Option(help="From this score on the cross-encoder calls it relevant.")
    ] = 0.5,
    reranker_ranks: Annotated[
        int, typer.Option(help="Kept candidates that the cross-encoder reads.")
    ] = 50,
    task: Annotated[
        list[str] | None, typer.Option(help="Tasks whose pairs are mined (default: retrieval).")
    ] = None,
    queries: Annotated[
        str, typer.Option(help="all, or exhausted: those whose lists a training run has used up.")
    ] = "all",
    train_run: Annotated[
        str | None,
        typer.Option(help="With --queries exhausted: the training run (default: the only one)."),
    ] = None,
    instruction: InstructionOption = None,
    passage_instruction: PassageInstructionOption = None,
    name: NameOption = None,
    pooling: PoolingOption = None,
    max_tokens: MaxTokensOption = None,
    dtype: DtypeOption = "fastest",
    device: DeviceOption = "fastest",
    trust_remote_code: TrustOption = False,
    memory_mb: Annotated[int, typer.Option(help="Memory of the search's buffers.")] = 1024,
    shard_queries: Annotated[
        int, typer.Option(help="Queries of a task: what a killed run does again.")
    ] = SHARD_QUERIES,
    workers: WorkersOption = DEFAULT_WORKERS,
    executor: ExecutorOption = None,
    cluster: ClusterOption = None,
    wait: WaitOption = True,
    catalog: CatalogOption = None,
) -> None:
    """Rank passages for every query and keep hard negatives; removed ones keep their reasons."""
    from mining.candidates import FilterSettings
    from mining.embed import embed as embed_side
    from mining.exhausted import exhausted_queries
    from mining.mine import mine as run
    from mining.mine_settings import MineSettings
    from mining.relevance import RelevanceSettings
    from mining.search_plan import SearchSettings

    encoder = EncoderSettings(
        model, name, device, dtype, pooling=pooling, max_tokens=max_tokens,
        query_instruction=instruction, passage_instruction=passage_instruction,
        trust_remote_code=trust_remote_code,
    )  # fmt: skip
    relevance = None
    if reranker is not None:
        relevance = RelevanceSettings(reranker, reranker_min_score, reranker_ranks)
    settings = MineSettings(
        depth,
        tuple(search or ("exact",)),
        tuple(task or ("retrieval",)),
        FilterSettings(relative_margin if margin else None, absolute_margin, max_score),
        relevance=relevance,
        shard_queries=shard_queries,
        search=SearchSettings(memory_mb=memory_mb),
    )
    if queries not in ("all", "exhausted") or (train_run is not None and queries == "all"):
        raise CatalogError(
            f"--queries is {queries!r}; it is all, or exhausted, which takes --train-run"
        )
    found = open_catalog(catalog)
    chosen = load_snapshot(found, snapshot)
    if queries == "exhausted":
        again = exhausted_queries(found, train_run)
        settings = replace(settings, train_run=again.train_run)
        say(f"{len(again.query_ids):,} queries whose lists {again.train_run} has used up")
    place = choose_executor(workers, executor, cluster, wait)
    with Bars({}) as bars:
        for side in SIDES:
            embed_side(found, chosen, encoder, side, place, bars)
        # Here one worker searches with all threads, unless told otherwise: see mine().
        mined = run(found, chosen, settings, encoder, place if place.cluster else None, bars)
    say(mined.summary())


def pack(
    snapshot: Annotated[str, typer.Argument(help="Snapshot to lay out.")],
    folder: Annotated[Path, typer.Argument(help="Folder to make, on the trainer's own disk.")],
    run: Annotated[
        str | None, typer.Option(help="Mining run (default: the snapshot's newest).")
    ] = None,
    candidates: Annotated[bool, typer.Option(help="Take candidates along at all.")] = True,
    scores: Annotated[
        str | None, typer.Option("--scores", help="Take this model's teacher scores along.")
    ] = None,
    vectors: Annotated[
        str | None, typer.Option(help="Take this model's embeddings along (see lode embed).")
    ] = None,
    instruction: InstructionOption = None,
    passage_instruction: PassageInstructionOption = None,
    name: NameOption = None,
    pooling: PoolingOption = None,
    max_tokens: MaxTokensOption = None,
    dtype: DtypeOption = "fastest",
    compression: Annotated[
        str | None, typer.Option(help="zstd: texts at half the size, read at the same speed.")
    ] = None,
    memory_mb: Annotated[int, typer.Option(help="Memory of the build's database.")] = 2000,
    catalog: CatalogOption = None,
) -> None:
    """Lay a snapshot out for trainers: memory-mapped, built once, repaired where it is damaged."""
    from catalog.mining_runs import choose_run
    from catalog.pack import PackSettings, build_pack
    from mining.pack_vectors import StoredVectors

    found = open_catalog(catalog)
    chosen = load_snapshot(found, snapshot)
    with found.reader() as connection:
        mined = choose_run(connection, chosen, run) if candidates else None
    run_id = mined.run_id if mined else None
    settings = PackSettings(run_id, scores, compression=compression, memory_mb=memory_mb)
    source = None
    if vectors is not None:
        encoder = EncoderSettings(
            vectors, name, dtype=dtype, pooling=pooling, max_tokens=max_tokens,
            query_instruction=instruction, passage_instruction=passage_instruction,
        )  # fmt: skip
        source = StoredVectors(found, encoder)
    with Bars({}) as bars:
        made = build_pack(found, chosen, folder, settings, bars, source)
    counts = made.manifest.counts
    say(
        f"pack {made.folder}: {counts.pairs:,} pairs, {counts.queries:,} queries, "
        f"{counts.passages:,} passages, {counts.lists:,} candidate lists"
    )
    say(f"candidates of {run_id}" if run_id else "without candidates; lode mine makes them")
