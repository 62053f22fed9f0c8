"""The rows' own instructions: read, told apart, put before texts in encoding and in training."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from catalog.executors import ExecutorSettings
from catalog.export import ExportSettings, export_pairs
from catalog.instructions import own_instruction
from catalog.lake import Catalog
from catalog.pack import PackSettings, build_pack
from catalog.policies import Policy
from catalog.policy_commit import commit_policy
from catalog.snapshots import Snapshot, create_snapshot
from curation.deduplicate import deduplicate
from curation.duplicates import DuplicateSettings
from curation.ingest import find_sources, ingest_files
from curation.measure import MeasureSettings, measure
from curation.signals import SignalSettings
from mining.embed import embed, embeddings_folder
from mining.embeddings import EmbeddingStore, keys_of
from mining.encoder import Encoder, EncoderSettings, spec_of
from mining.mine import mine
from mining.mine_settings import MineSettings
from mining.score import score
from tests.model_folders import bge
from tests.tiny_catalog import fetch
from trainer.live_scores import LiveScores
from trainer.model import EmbeddingModel, ModelSettings

ONE = ExecutorSettings(1)
ASK, FIND = "ask: ", "find: "
LINES = [
    {"query": "how to learn", "pos": ["play every day"], "neg": ["sleep"], "prompt": ASK},
    {"query": "how to learn", "pos": ["a book on learning"], "neg": [], "prompt": FIND},
    {"query": "how to learn", "pos": ["ask a teacher"], "neg": []},
    {"query": "a question", "pos": ["an answer"], "neg": [], "prompt": ""},
]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Catalog, Snapshot, Path]:
    """A snapshot of lines with prompts of their own, and a model."""
    folder = tmp_path_factory.mktemp("instructions")
    catalog = Catalog.create(str(folder / "corpus"))
    path = folder / "lines.jsonl"
    path.write_text("\n".join(map(json.dumps, LINES)), encoding="utf-8")
    ingest_files(catalog, find_sources([str(path)]), executor=ONE)
    duplicates = DuplicateSettings()
    measure(catalog, MeasureSettings(SignalSettings(), duplicates.minhash, duplicates.text), ONE)
    deduplicate(catalog, duplicates, ONE)
    commit_policy(catalog, Policy("all", ()))
    return catalog, create_snapshot(catalog, "v1"), bge(folder / "model")


def test_one_query_with_other_instructions_is_another_query(made) -> None:
    catalog, _, _ = made
    rows = fetch(
        catalog,
        "select positive, instruction, query_id from pairs join text_ids using (pair_id) "
        "where query is not null order by pair_id",
    )
    assert [(text, own) for text, own, _ in rows] == [
        ("play every day", ASK), ("a book on learning", FIND), ("ask a teacher", None),
        ("an answer", None),
    ]  # fmt: skip
    assert len({query_id for *_, query_id in rows}) == 4


def test_vectors_and_scores_are_of_the_text_behind_its_own_instruction(made) -> None:
    catalog, snapshot, model = made
    settings = EncoderSettings(str(model), name="tiny", query_instruction="default: ")
    done = embed(catalog, snapshot, settings, "query", ONE)
    assert done.texts == 4
    with catalog.reader() as connection:
        connection.execute("set arrow_lossless_conversion = true")
        rows = connection.execute(
            "select query, coalesce(instruction, 'default: ') as own, query_key from pairs "
            "where query is not null order by pair_id"
        ).to_arrow_table()
    store = EmbeddingStore.open(embeddings_folder(catalog), spec_of(settings, "query"))
    found = store.lookup(keys_of(rows["query_key"])).astype(np.float32)
    prompted = [
        a + b for a, b in zip(rows["own"].to_pylist(), rows["query"].to_pylist(), strict=True)
    ]
    bare = Encoder.load(EncoderSettings(str(model), query_instruction=""))
    np.testing.assert_allclose(found, bare.encode(prompted, "query"), atol=2e-3)
    assert len({tuple(vector) for vector in found.tolist()}) == 4
    embed(catalog, snapshot, settings, "passage", ONE)
    score(catalog, snapshot, settings, ONE)
    scores = fetch(catalog, "select s.score from scores s order by pair_id")
    passages = bare.encode([line["pos"][0] for line in LINES], "passage")
    np.testing.assert_allclose(
        [value for (value,) in scores],
        (bare.encode(prompted, "query") * passages).sum(1),
        atol=2e-3,
    )


def test_a_pack_puts_each_querys_own_instruction_before_it(made, tmp_path: Path) -> None:
    catalog, snapshot, model = made
    pack = build_pack(catalog, snapshot, tmp_path / "pack", PackSettings())
    rows = pack.pairs("retrieval").query
    assert pack.prompted_texts("query", rows, "default: ") == [
        "ask: how to learn", "find: how to learn", "default: how to learn", "default: a question",
    ]  # fmt: skip
    assert pack.prompted_texts("passage", pack.pairs().passage[:1], "p: ") == ["p: play every day"]
    trained = EmbeddingModel(ModelSettings(str(model)), 1, "float32", 512).eval()
    lists = pack.pairs("retrieval").passage[:, None]
    scores = LiveScores(trained, pack, {"retrieval": "default: "})(rows, lists)
    bare = Encoder.load(EncoderSettings(str(model), query_instruction=""))
    texts = pack.prompted_texts("query", rows, "default: ")
    passages = bare.encode(pack.texts("passage", lists[:, 0]), "passage")
    expected = (bare.encode(texts, "query") * passages).sum(1)
    np.testing.assert_allclose(scores[:, 0], expected, atol=1e-4)
    assert torch.is_grad_enabled()


def test_a_passage_equal_to_an_instructed_query_is_no_candidate(tmp_path: Path) -> None:
    lines = [
        {"query": "same words", "pos": ["an answer"], "neg": ["same words", "other"], "prompt": ASK}
    ]
    catalog = Catalog.create(str(tmp_path / "corpus"))
    (tmp_path / "lines.jsonl").write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    ingest_files(catalog, find_sources([str(tmp_path / "lines.jsonl")]), executor=ONE)
    duplicates = DuplicateSettings()
    measure(catalog, MeasureSettings(SignalSettings(), duplicates.minhash, duplicates.text), ONE)
    deduplicate(catalog, duplicates, ONE)
    commit_policy(catalog, Policy("all", ()))
    snapshot, lexical = create_snapshot(catalog, "v1"), EncoderSettings("lexical-16")
    for side in ("query", "passage"):
        embed(catalog, snapshot, lexical, side, ONE)
    mine(catalog, snapshot, MineSettings(depth=5), lexical, ONE)
    kept = fetch(
        catalog,
        "select p.positive, f from (select unnest(passage_ids) as id, unnest(filtered_by) as f "
        "from candidates) join pairs p on p.pair_id = id order by 1",
    )
    assert [text for text, flags in kept if flags == 0] in (["other"], [])
    assert dict(kept)["same words"] != 0


def test_exports_hold_them_and_bring_them_back(made, tmp_path: Path) -> None:
    catalog, snapshot, _ = made
    export_pairs(catalog, snapshot, tmp_path / "f.jsonl", ExportSettings("flagembedding"))
    lines = [json.loads(line) for line in (tmp_path / "f.jsonl").read_text().splitlines()]
    assert [line.get("prompt") for line in lines] == [ASK, FIND, None, None]
    export_pairs(catalog, snapshot, tmp_path / "p.jsonl", ExportSettings("jsonl"))
    again = Catalog.create(str(tmp_path / "again"))
    ingest_files(again, find_sources([str(tmp_path / "p.jsonl")]), executor=ONE)
    sql = "select query, instruction, query_key from pairs where query is not null order by pair_id"
    assert fetch(again, sql) == fetch(catalog, sql)


def test_a_snapshot_from_before_the_column_has_none(catalog: Catalog, tmp_path: Path) -> None:
    catalog.transact(lambda c: c.execute("alter table pairs drop column instruction"))
    with catalog.reader() as connection:
        assert own_instruction(connection) == "null::varchar"
    version = catalog.version()
    catalog.transact(
        lambda c: c.execute("update counters set value = 6 where counter = 'schema_version'")
    )
    catalog = Catalog.open(catalog.location.url)
    with catalog.reader() as connection:
        assert own_instruction(connection) == "p.instruction"
    with catalog.reader(version) as connection:
        assert own_instruction(connection) == "null::varchar"
