"""Mining a snapshot: what is found is right, whole or not there, and the same however it ran."""

import json
import multiprocessing
import os
import signal
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
import torch

from catalog.errors import CatalogError
from catalog.executors import ExecutorSettings
from catalog.lake import Catalog
from catalog.policies import Condition, Policy
from catalog.policy_commit import commit_policy
from catalog.schema import DUPLICATES, TEXT_IDS
from catalog.snapshots import create_snapshot, load_snapshot
from mining.ann import AnnSettings
from mining.candidates import FilterSettings, Reason
from mining.commands import SHARD_QUERIES
from mining.embeddings import EMBEDDINGS, EmbeddingStore, keys_of
from mining.encoder import EncoderSettings, spec_of
from mining.mine import mine
from mining.mine_settings import MineSettings, on_device, share_machine
from mining.mine_shard import TABLE
from mining.relevance import RelevanceSettings
from mining.search_plan import SearchSettings
from tests.tiny_catalog import A, add_file, add_table, cluster, copy_catalog, fetch, own_ids, pair
from tests.tiny_catalog import text_ids as ids_of

WIDTH = 16
ENCODER = EncoderSettings("lexical-16")
SEARCH = SearchSettings(memory_mb=64, threads=2)
SETTINGS = MineSettings(depth=20, shard_queries=16, search=SEARCH)

# 40 queries with a passage each; four have something that must not become their negative.
ROWS = [
    *(pair(i, f"问题{i}", f"回答{i}号：关于第{i}件事。") for i in range(40)),
    pair(40, "问题0", "问题0的另一个回答。"),  # a second positive
    pair(41, "问题1", "坏的回答。", source="dropped"),  # rejected, but known to answer
    pair(42, None, "问题2"),  # the text of a query
    pair(43, None, "回答3号，关于第3件事！"),  # a near-duplicate of query 3's positive
    pair(44, "问题4", "判为无关的回答。", label=0.0),  # judged irrelevant: may be a negative
    pair(45, "两句话", "两句相像的话", task="sts", label=0.9),  # of another task
    pair(46, "没有正例的问题", "不相干的一段话。", label=0.0),
    *(pair(47 + i, None, f"没有人问的第{i}段话。") for i in range(30)),
]


def vectors_of(texts):
    """Give every text a direction of its own, near that of texts with the same digits."""
    rows = []
    for text in texts:
        digits = "".join(c for c in text if c.isdigit())
        common = np.random.default_rng(int(digits or 99)).standard_normal(WIDTH)
        own = np.random.default_rng(list(text.encode())).standard_normal(WIDTH)
        rows.append(common + own)
    vectors = np.array(rows)
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float16)


def embed(catalog, rows):
    """Fill the stores of both sides, as ``lode embed`` does."""
    for side, text, key in (
        ("query", "query", "query_key"),
        ("passage", "positive", "positive_key"),
    ):
        store = EmbeddingStore.open(catalog.location.work / EMBEDDINGS, spec_of(ENCODER, side))
        texts = {row[key]: row[text] for row in rows if row[text] is not None}
        keys = keys_of(pa.array(list(texts), pa.binary(16)))
        store.write_shard(keys, vectors_of(texts.values()))


@pytest.fixture(scope="module")
def template(tmp_path_factory, empty_catalog):
    made = copy_catalog(empty_catalog, tmp_path_factory.mktemp("mine") / "corpus")
    add_file(made, "questions", ROWS)
    rows = own_ids(ROWS, A)
    add_table(made, "text_ids", ids_of(rows), TEXT_IDS)
    near = cluster("near", [(A + 3, A + 3), (A + 43, A + 43)])
    add_table(made, "duplicates", near, DUPLICATES)
    commit_policy(
        made, Policy("zh", (Condition("dropped", "rules", require="source <> 'dropped'"),))
    )
    create_snapshot(made, "v1")
    embed(made, ROWS)
    return made


@pytest.fixture
def corpus(template, tmp_path):
    return copy_catalog(template, tmp_path / "corpus")


def candidates(catalog):
    """Return {query: [(passage, score, flags)]} by row number, and the runs."""
    rows = fetch(catalog, f"select * from {TABLE} order by query_id")
    found = {
        query - A: list(zip((p - A for p in ids), scores, flags, strict=True))
        for query, _, ids, scores, flags, _ in rows
    }
    return found, {run for _, run, *_ in rows}


def run(catalog, settings=SETTINGS, **more):
    return mine(catalog, load_snapshot(catalog, "v1"), settings, ENCODER, **more)


def test_candidates_are_the_ranked_passages_of_the_snapshot_with_reasons(corpus):
    mined = run(corpus)
    found, runs = candidates(corpus)
    assert runs == {mined.run}
    assert set(found) == {*range(40), 46}
    assert mined.queries == 41
    queries = {row["pair_id"]: row["query"] for row in ROWS}
    passages = {row["pair_id"]: row["positive"] for row in ROWS if row["source"] != "dropped"}
    del passages[45]
    assert mined.passages == len(passages)
    matrix = vectors_of(passages.values()).astype(np.float64)
    for query, listed in found.items():
        scores = (matrix @ vectors_of([queries[query]])[0].astype(np.float64)).astype(np.float32)
        expected = sorted(zip(-scores, passages, strict=True))[:20]
        assert [(-score, passage) for score, passage in expected] == [
            (score, passage) for passage, score, _ in listed
        ]
    assert mined.kept == sum(flags == 0 for listed in found.values() for *_, flags in listed)


def test_nothing_that_answers_a_query_is_kept_as_its_negative(corpus):
    run(corpus, replace(SETTINGS, depth=100, filters=FilterSettings(relative_margin=None)))
    found, _ = candidates(corpus)
    reasons = {query: {p: flags for p, _, flags in listed} for query, listed in found.items()}
    assert reasons[0][0] == reasons[0][40] == Reason.POSITIVE
    assert reasons[2][42] == Reason.SAME_TEXT
    assert reasons[3][3] == Reason.POSITIVE | Reason.NEAR_DUPLICATE
    assert reasons[3][43] == Reason.NEAR_DUPLICATE
    assert reasons[4][44] == 0
    assert reasons[46][46] == 0
    assert 41 not in reasons[1]
    removed = {(q, p) for q, own in reasons.items() for p, flags in own.items() if flags}
    assert removed == {(i, i) for i in range(40)} | {(0, 40), (2, 42), (3, 43)}


def test_the_margin_is_measured_from_the_lowest_kept_positive(corpus):
    run(corpus, replace(SETTINGS, depth=100))
    rows = fetch(
        corpus, f"select query_id, passage_ids, scores, filtered_by, positive_score from {TABLE}"
    )
    for query, ids, scores, flags, positive in rows:
        by_passage = dict(zip(ids, scores, strict=True))
        own = [A + 0, A + 40] if query == A else [query]
        if query == A + 46:
            assert positive is None
            assert not any(flag & Reason.RELATIVE_MARGIN for flag in flags)
            continue
        assert positive == min(by_passage[passage] for passage in own)
        for score, flag in zip(scores, flags, strict=True):
            too_close = score >= positive - abs(positive) * (1 - 0.95)
            assert bool(flag & Reason.RELATIVE_MARGIN) == too_close


@pytest.mark.slow
@pytest.mark.parametrize(
    ("settings", "workers"),
    [
        (replace(SETTINGS, shard_queries=1000), 1),
        (replace(SETTINGS, shard_queries=7), 2),
        (replace(SETTINGS, search=SearchSettings(memory_mb=1, threads=1, product="fp32")), 1),
    ],
)
def test_shards_workers_and_memory_change_nothing(template, corpus, tmp_path, settings, workers):
    first = run(corpus)
    other = copy_catalog(template, tmp_path / "other")
    second = run(other, settings, executor=ExecutorSettings(workers=workers))
    assert first == second
    assert candidates(corpus) == candidates(other)


def test_the_same_run_again_adds_nothing_and_another_one_is_another_run(corpus):
    first = run(corpus)
    assert run(corpus) == first
    assert fetch(corpus, f"select count(*) from {TABLE}") == [(41,)]
    other = run(corpus, replace(SETTINGS, depth=5))
    assert other.run != first.run
    assert fetch(corpus, f"select count(distinct run), count(*) from {TABLE}") == [(2, 82)]


def test_the_run_records_settings_model_snapshot_and_counts(corpus):
    mined = run(corpus)
    ((kind, text),) = fetch(corpus, f"select kind, settings from runs where run_id = '{mined.run}'")
    settings = json.loads(text)
    assert kind == "mine"
    assert settings["snapshot"] == "v1"
    assert settings["snapshot_digest"] == load_snapshot(corpus, "v1").digest
    assert settings["embeddings"]["query"]["model"] == "lexical-16"
    assert settings["filters"]["relative_margin"] == 0.95
    assert settings["found"]["kept"] == mined.kept


def kill_after_first_shard(url):
    """Mine, and die as soon as one shard is finished."""
    catalog = Catalog.open(url)
    settings = replace(SETTINGS, shard_queries=16)

    def die(stage, done):
        if done:
            os.kill(os.getpid(), signal.SIGKILL)

    mine(catalog, load_snapshot(catalog, "v1"), settings, ENCODER, progress=die)


@pytest.mark.slow
def test_a_killed_run_goes_on_where_it_was(template, corpus, tmp_path):
    context = multiprocessing.get_context("forkserver")
    process = context.Process(target=kill_after_first_shard, args=(corpus.location.url,))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert fetch(corpus, "select count(*) from runs where kind = 'mine'") == [(0,)]
    manifests = list(corpus.jobs_folder.glob("mine-*/manifests/*.json"))
    assert manifests
    files = list((corpus.location.work / "data" / "main" / TABLE).glob("*.parquet"))
    written = {path: path.stat().st_mtime_ns for path in files}
    assert written
    undisturbed = copy_catalog(template, tmp_path / "other")
    assert run(corpus) == run(undisturbed)
    assert candidates(corpus) == candidates(undisturbed)
    assert {path: path.stat().st_mtime_ns for path in written} == written  # nothing done twice


def test_the_command_has_the_default_of_the_settings():
    assert MineSettings().shard_queries == SHARD_QUERIES


def test_tasks_are_spread_over_gpus_and_only_those_of_one_gpu_share_its_memory(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    on_gpus = SearchSettings(memory_mb=100, threads=8, device="cuda")
    assert [on_device(on_gpus, rank).device for rank in range(3)] == ["cuda:0", "cuda:1", "cuda:0"]
    shared = share_machine(MineSettings(search=on_gpus), ExecutorSettings(4)).search
    assert (shared.memory_mb, shared.threads) == (50, 2)
    for certain in ("cuda:1", "cpu"):
        chosen = SearchSettings(memory_mb=100, threads=8, device=certain)
        assert on_device(chosen, 0) == chosen
        assert (
            share_machine(MineSettings(search=chosen), ExecutorSettings(4)).search.memory_mb == 25
        )


def test_texts_without_vectors_are_refused_with_what_to_run(corpus):
    (store, *_) = sorted((corpus.location.work / EMBEDDINGS).iterdir())
    for path in store.glob("shard-*"):
        path.unlink()
    with pytest.raises(CatalogError, match=r"have no vector of lexical-16 .* run: lode embed"):
        run(corpus)
    assert TABLE not in fetch(corpus, "select table_name from duckdb_tables()")
    assert fetch(corpus, "select count(*) from runs where kind = 'mine'") == [(0,)]


def test_a_snapshot_without_a_query_of_the_task_is_refused(corpus):
    with pytest.raises(CatalogError, match="keeps no pair of task classification with a query"):
        run(corpus, replace(SETTINGS, tasks=("classification",)))
    commit_policy(corpus, Policy("nothing", (Condition("none", "rules", require="pair_id < 0"),)))
    create_snapshot(corpus, "empty", "nothing")
    with pytest.raises(CatalogError, match="snapshot empty keeps no pair"):
        mine(corpus, load_snapshot(corpus, "empty"), SETTINGS, ENCODER)


def test_rows_that_came_after_the_last_curation_are_refused(corpus):
    add_file(corpus, "late", [pair(0, "新的问题", "新的回答。")])
    create_snapshot(corpus, "late")
    with pytest.raises(CatalogError, match="1 kept rows of snapshot late have no text ids"):
        mine(corpus, load_snapshot(corpus, "late"), SETTINGS, ENCODER)


def test_a_faiss_index_is_measured_and_its_sizes_are_recorded(corpus):
    settings = replace(SETTINGS, miners=("ivf",), ann=AnnSettings("ivf", lists=4, probes=1))
    mined = run(corpus, settings)
    assert 0.2 < mined.recall < 1
    ((text,),) = fetch(corpus, f"select settings from runs where run_id = '{mined.run}'")
    assert json.loads(text)["ann"]["lists"] == 4
    found, _ = candidates(corpus)
    assert all(score > -2 for listed in found.values() for _, score, _ in listed)


def test_bm25_and_exact_search_are_fused_and_scored_by_the_encoder(corpus):
    mined = run(corpus, replace(SETTINGS, miners=("exact", "bm25"), depth=100))
    assert mined.recall is None
    found, _ = candidates(corpus)
    exact_run = run(corpus, replace(SETTINGS, depth=100))
    rows = fetch(
        corpus, f"select query_id, passage_ids, scores from {TABLE} where run = '{exact_run.run}'"
    )
    exact = {q - A: dict(zip((p - A for p in ids), s, strict=True)) for q, ids, s in rows}
    lexical = run(corpus, replace(SETTINGS, miners=("bm25",)))
    best = f"select passage_ids[1] - {A} from {TABLE} where run = '{lexical.run}'"
    assert fetch(corpus, f"{best} and query_id = {A + 2}") == [(42,)]  # the very same text
    for query, listed in found.items():
        assert {p: score for p, score, _ in listed} == exact[query]
        scores = [score for _, score, _ in listed]
        assert scores != sorted(scores, reverse=True)


@pytest.fixture(scope="module")
def reranker(tmp_path_factory):
    """A tiny cross-encoder with random weights."""
    transformers = pytest.importorskip("transformers")
    folder = tmp_path_factory.mktemp("reranker")
    characters = sorted({c for row in ROWS for c in f"{row['query']}{row['positive']}"})
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *characters]
    (folder / "vocab.txt").write_text("\n".join(vocabulary), encoding="utf-8")
    config = transformers.BertConfig(
        vocab_size=len(vocabulary), hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=16, num_labels=1, initializer_range=1.0,
    )  # fmt: skip
    transformers.set_seed(0)
    transformers.BertForSequenceClassification(config).save_pretrained(folder)
    transformers.BertTokenizer(str(folder / "vocab.txt")).save_pretrained(folder)
    return str(folder)


@pytest.mark.filterwarnings("default")
def test_a_cross_encoder_removes_what_it_calls_relevant(corpus, reranker):
    from sentence_transformers import CrossEncoder

    pairs = [(row["query"], other["positive"]) for row in ROWS[:10] for other in ROWS[:10]]
    scores = CrossEncoder(reranker, max_length=64).predict(pairs)
    middle = float(np.median(scores))
    settings = RelevanceSettings(reranker, min_score=middle, ranks=5, max_tokens=64)
    mined = run(corpus, replace(SETTINGS, relevance=settings))
    found, _ = candidates(corpus)
    marked = [
        (rank, flags)
        for listed in found.values()
        for rank, (_, _, flags) in enumerate(listed)
        if flags & Reason.CROSS_ENCODER
    ]
    assert 0 < len(marked) == mined.removed["CROSS_ENCODER"]
    # Only what nothing else removed is read, and only among the first ranks.
    assert all(rank < 5 and flags == Reason.CROSS_ENCODER for rank, flags in marked)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"depth": 0}, "depth is 0"),
        ({"miners": ("google",)}, "miners are google; name one or more of exact"),
        ({"miners": ()}, "miners are none"),
        ({"miners": ("ivf", "hnsw")}, "only one can be a faiss index"),
        ({"ann": AnnSettings("hnsw")}, "kind 'hnsw', which is not among the miners"),
    ],
)
def test_wrong_settings_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        replace(SETTINGS, **change)
