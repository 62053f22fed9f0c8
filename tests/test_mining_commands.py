"""The commands of mining, over a tiny catalog, as a user types them."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from catalog.lake import Catalog
from catalog.snapshots import create_snapshot
from lode import app
from tests.pack_catalog import make_catalog, pair
from tests.tiny_catalog import fetch

ROWS = [pair(1, n, f"怎么做第{n}道菜", f"第{n}道菜要先洗菜，再切{n}刀。") for n in range(40)]


@pytest.fixture(scope="module")
def mined(tmp_path_factory: pytest.TempPathFactory) -> Catalog:
    catalog = make_catalog(tmp_path_factory.mktemp("commands") / "corpus", ROWS)
    create_snapshot(catalog, "v1", "keep")
    lode(catalog, "mine", "v1", "--depth", "30", "--workers", "1")
    return catalog


def lode(catalog: Catalog, *words: str) -> str:
    result = CliRunner().invoke(app, [*words, "--catalog", catalog.location.url])
    assert result.exit_code == 0, f"{result.output}\n{result.exception!r}"
    return result.output


def test_texts_are_embedded_once(mined: Catalog) -> None:
    assert "query: 0 texts embedded by lexical" in lode(mined, "embed", "v1", "--side", "query")
    printed = lode(mined, "embed", "v1", "--model", "lexical-16", "--workers", "1")
    assert "query: 40 texts" in printed
    assert "passage: 40 texts" in printed


def test_scores_can_stand_in_a_policy(mined: Catalog) -> None:
    assert "40 pairs scored by lexical" in lode(mined, "score", "v1", "--workers", "1")
    assert "0 pairs scored" in lode(mined, "score", "v1", "--workers", "1")
    scores = [score for (score,) in fetch(mined, "select score from scores order by pair_id")]
    assert len(scores) == 40
    assert all(0 < score <= 1 for score in scores)


def test_mining_says_what_it_found_and_does_it_once(mined: Catalog) -> None:
    before = fetch(mined, "select count(*) from candidates")
    printed = lode(mined, "mine", "v1", "--depth", "30", "--workers", "1")
    assert "40 queries, 40 passages" in printed
    assert "positive" in printed
    assert fetch(mined, "select count(*) from candidates") == before == [(40,)]


def test_several_searches_are_fused(mined: Catalog) -> None:
    words = ["--search", "exact", "--search", "bm25", "--depth", "5", "--no-margin"]
    assert "40 queries" in lode(mined, "mine", "v1", *words, "--workers", "1")
    settings = fetch(mined, "select settings from runs where kind = 'mine' order by finished_at")
    assert json.loads(settings[-1][0])["miners"] == ["exact", "bm25"]


def test_a_pack_takes_the_newest_run_scores_and_vectors(mined: Catalog, tmp_path: Path) -> None:
    lode(mined, "score", "v1", "--workers", "1")
    printed = lode(
        mined, "pack", "v1", str(tmp_path / "v1"), "--scores", "lexical", "--vectors", "lexical"
    )
    assert "40 pairs, 40 queries, 40 passages, 40 candidate lists" in printed
    assert "without candidates" in lode(
        mined, "pack", "v1", str(tmp_path / "plain"), "--no-candidates"
    )


def test_mistakes_name_what_is_meant(mined: Catalog, tmp_path: Path) -> None:
    for words, message in (
        (["embed", "v1", "--side", "querry"], "did you mean 'query'"),
        (["mine", "v1", "--search", "exakt"], "name one or more of exact"),
        (["mine", "v1", "--relative-margin", "1.5"], "0 < margin <= 1"),
        (["mine", "v2"], "v1"),
        (["pack", "v1", str(tmp_path), "--run", "mine-x"], "mining run"),
        (["embed", "v1", "--model", "./no-such-model"], "there is no model folder"),
    ):
        result = CliRunner().invoke(app, [*words, "--catalog", mined.location.url])
        assert message in str(result.exception), (words, result.exception)


def test_retrieval_is_evaluated_on_judged_folders(tmp_path: Path) -> None:
    folder = tmp_path / "menu"
    (folder / "qrels").mkdir(parents=True)
    texts = [("d1", "红烧肉的做法"), ("d2", "钢琴入门"), ("d3", "高速公路")]
    rows = [json.dumps({"_id": key, "title": "", "text": text}) for key, text in texts]
    (folder / "corpus.jsonl").write_text("\n".join(rows), encoding="utf-8")
    query = json.dumps({"_id": "q1", "text": "怎么学钢琴"})
    (folder / "queries.jsonl").write_text(query, encoding="utf-8")
    (folder / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\nq1\td2\t1\n")
    for model in ("lexical", "bm25"):
        result = CliRunner().invoke(app, ["evaluate", "retrieval", str(folder), "-m", model])
        assert result.exit_code == 0, result.exception
        header, row = result.output.splitlines()
        assert header.split() == ["collection", "ndcg@10", "recall@10", "recall@100", "mrr@10"]
        assert row.split() == ["menu", "1.0000", "1.0000", "1.0000", "1.0000"]
