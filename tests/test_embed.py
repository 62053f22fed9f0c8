"""Embedding a snapshot: every text once, resumable, damaged shards made again."""

import os
import signal
from pathlib import Path

import numpy as np
import pytest

from catalog.executors import ExecutorSettings
from catalog.lake import Catalog
from catalog.policies import Policy
from catalog.policy_commit import commit_policy
from catalog.snapshots import create_snapshot, load_snapshot
from mining.embed import Embedded, embed, embeddings_folder, whole_lake
from mining.embeddings import EmbeddingStore, keys_of
from mining.encoder import Encoder, EncoderSettings, spec_of
from tests.pack_catalog import make_catalog, pair, text_ids, write_tables
from tests.processes import start_process
from tests.tiny_catalog import copy_catalog, fetch

ENCODER = EncoderSettings("lexical-16")
ROWS = [pair(1, n, f"问题{n // 2}", f"第{n}个回答") for n in range(40)]
ROWS.append(pair(1, 50, "丢掉的问题", "丢掉的回答", source="dropped"))
ONE = ExecutorSettings(1)


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Catalog:
    made = make_catalog(tmp_path_factory.mktemp("embed") / "corpus", ROWS)
    create_snapshot(made, "v1", "keep")
    return made


@pytest.fixture
def corpus(template: Catalog, tmp_path: Path) -> Catalog:
    return copy_catalog(template, tmp_path / "corpus")


def run(catalog: Catalog, side: str = "passage", settings: EncoderSettings = ENCODER) -> Embedded:
    return embed(catalog, load_snapshot(catalog, "v1"), settings, side, ONE, task_texts=8)  # type: ignore[arg-type]


def stored(catalog: Catalog, side: str = "passage") -> dict[str, list[float]]:
    """Return the vector of every kept text, by text."""
    column = {"query": "query", "passage": "positive"}[side]
    with catalog.reader() as connection:
        connection.execute("set arrow_lossless_conversion = true")
        rows = connection.execute(
            f"select {column} as text, {column}_key as key from pairs where source <> 'dropped'"
        ).to_arrow_table()
    store = EmbeddingStore.open(embeddings_folder(catalog), spec_of(ENCODER, side))  # type: ignore[arg-type]
    vectors = store.lookup(keys_of(rows["key"]))
    return dict(zip(rows["text"].to_pylist(), vectors.tolist(), strict=True))


def test_every_kept_text_gets_its_vector_once(corpus: Catalog) -> None:
    assert [run(corpus, side).texts for side in ("query", "passage")] == [20, 40]
    encoder = Encoder.load(ENCODER)
    for side in ("query", "passage"):
        found = stored(corpus, side)
        expected = encoder.encode(list(found), side).astype(np.float16)  # type: ignore[arg-type]
        np.testing.assert_array_equal(np.array(list(found.values()), np.float16), expected)
    assert [run(corpus, side).texts for side in ("query", "passage")] == [0, 0]


@pytest.mark.slow
def test_another_snapshot_embeds_only_its_new_texts(corpus: Catalog) -> None:
    run(corpus)
    new = [pair(2, 0, "新问题", "新回答"), pair(2, 1, "旧问题", "第3个回答")]
    ids = [{**row, "passage_id": row["pair_id"]} for row in text_ids(new)]
    ids[1]["passage_id"] = ROWS[3]["pair_id"]
    write_tables(corpus, {"pairs": new, "text_ids": ids})
    commit_policy(corpus, Policy("all", ()))
    create_snapshot(corpus, "v2")
    done = embed(corpus, load_snapshot(corpus, "v2"), ENCODER, "passage", ONE)
    assert done.texts == 2  # the new one, and that which v1 does not keep
    assert embed(corpus, whole_lake(corpus), ENCODER, "passage", ONE).texts == 0


@pytest.mark.slow
def test_models_and_instructions_have_stores_of_their_own(corpus: Catalog) -> None:
    run(corpus)
    assert run(corpus, settings=EncoderSettings("lexical-32")).texts == 40
    assert run(corpus, settings=EncoderSettings("lexical-16", name="other")).texts == 40
    assert len(list(embeddings_folder(corpus).iterdir())) == 3


def test_a_flipped_byte_is_found_and_its_shard_made_again(corpus: Catalog) -> None:
    before = run(corpus)
    expected = stored(corpus)
    path = sorted(before.store.folder.glob("*.vectors.npy"))[2]
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    again = run(corpus)
    assert (again.rebuilt_shards, again.texts) == (1, 8)
    assert stored(corpus) == expected


def test_workers_change_nothing(corpus: Catalog, template: Catalog, tmp_path: Path) -> None:
    run(corpus)
    other = copy_catalog(template, tmp_path / "other")
    snapshot = load_snapshot(other, "v1")
    embed(other, snapshot, ENCODER, "passage", ExecutorSettings(2), task_texts=11)
    assert stored(other) == stored(corpus)


def embed_and_die(url: str) -> None:
    """Embed, and die as soon as some texts are reported."""
    catalog = Catalog.open(url)

    def die(stage: str, done: int) -> None:
        if done >= 16:
            os.kill(os.getpid(), signal.SIGKILL)

    embed(catalog, load_snapshot(catalog, "v1"), ENCODER, "passage", ONE, die, task_texts=8)


@pytest.mark.slow
def test_a_killed_run_keeps_its_finished_shards(
    corpus: Catalog, template: Catalog, tmp_path: Path
) -> None:
    process = start_process(embed_and_die, [corpus.location.url])
    process.join()
    assert process.exitcode == -signal.SIGKILL
    store = EmbeddingStore.open(embeddings_folder(corpus), spec_of(ENCODER, "passage"))
    assert 8 <= len(store) < 40
    assert run(corpus).texts == 40 - len(store)
    other = copy_catalog(template, tmp_path / "other")
    run(other)
    assert stored(corpus) == stored(other)
    assert fetch(corpus, "select count(*) from runs where kind = 'embed'") == [(1,)]


def test_an_empty_snapshot_embeds_nothing(catalog: Catalog) -> None:
    commit_policy(catalog, Policy("all", ()))
    snapshot = create_snapshot(catalog, "v1")
    assert embed(catalog, snapshot, ENCODER, "query", ONE).texts == 0


def test_a_run_that_ended_before_its_commit_is_recorded_by_the_next(
    corpus: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(job: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("catalog.jobs.Job.commit", fail)
        with pytest.raises(KeyboardInterrupt):
            run(corpus)
    assert run(corpus).texts == 0
    assert fetch(corpus, "select count(*) from runs where kind = 'embed'") == [(1,)]
