"""Exports: the same pairs in every format, with the negatives that were asked for, or refused."""

import json
import os
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import zstandard
from typer.testing import CliRunner

from catalog.errors import CatalogError
from catalog.export import ExportSettings, NegativeSettings, export_pairs, negative_settings
from catalog.export import files as export_files
from catalog.export.negatives import parse_ranks
from catalog.export.queries import choose_negatives
from catalog.lake import Catalog
from catalog.ranges import preferences
from catalog.records import now, to_json
from catalog.schema import FILE_SHIFT
from catalog.snapshots import create_snapshot, load_snapshot
from lode import app
from mining.retrieval_eval import load_collection
from tests.pack_catalog import candidates, make_catalog, pair, scores, write_tables
from tests.tiny_catalog import copy_catalog

F = 1 << FILE_SHIFT
META = '{"prompt":"为这个问题找答案：","type":"normal","id":7}'
ROWS = [
    pair(1, 0, "怎么学钢琴", "先学指法。", negatives=["多吃水果。", "找一位老师。"]),
    pair(1, 1, "怎么学钢琴", "找一位老师。"),
    pair(1, 2, "什么是光合作用", "植物把光变成能量。", meta=META),
    pair(1, 3, "今天天气", "晴。", label=1.0),
    pair(1, 4, "今天天气", "钢琴很贵。", label=0.0),
    pair(1, 5, "两句话", "两句相像的话", task="sts", label=0.4),
    pair(1, 6, "没有正例", "无关。", label=0.0),
    pair(1, 7, "坏的", "广告", source="dropped"),
    *(pair(1, n, None, f"第{n}段话。") for n in range(10, 30)),
]
PIANO, LIGHT, WEATHER = F, F + 2, F + 3
TOO_CLOSE = 8
# Query: (passage, score, reason); the second of the piano's is a text that came with a pair.
LISTS = {
    PIANO: [(F + 10, 0.875, TOO_CLOSE), *((F + n, 0.75 - n / 256, 0) for n in range(11, 25))],
    LIGHT: [(F + n, 0.5, 0) for n in (29, 28, 27)],
    WEATHER: [(F + 10, 0.5, 0)],
}
RUN = "mine-1"
Row = dict[str, Any]


def record_run(catalog: Catalog, name: str, run: str, model: str = "bge") -> None:
    """Record a mining run of a snapshot, as ``lode mine`` does."""
    snapshot = load_snapshot(catalog, name)
    settings = {
        "snapshot": name,
        "snapshot_digest": snapshot.digest,
        "embeddings": {"query": {"model": model}},
    }
    sql = "insert into runs values (?, 'mine', '', ?, [], '', ?, ?, 'done', 1)"
    catalog.transact(lambda c: c.execute(sql, [run, to_json(settings), now(), now()]))


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Catalog:
    catalog = make_catalog(tmp_path_factory.mktemp("export") / "corpus", ROWS)
    create_snapshot(catalog, "v1")
    # Mined and scored later than the snapshot's version of the lake.
    write_tables(catalog, {"candidates": candidates(RUN, LISTS)})
    write_tables(catalog, {"scores": scores("bge", "1", {F + n: n / 8 for n in (0, 1, 2)})})
    record_run(catalog, "v1", RUN)
    return catalog


@pytest.fixture
def mined(template: Catalog, tmp_path: Path) -> Catalog:
    return copy_catalog(template, tmp_path / "corpus")


def export(
    catalog: Catalog, path: Path, format: str, n: int | None = None, **more: Any
) -> tuple[list[Row], Counter[str]]:
    """Export, and read lines of JSON back."""
    model = more.pop("score_model", None)
    negatives = None if n is None else NegativeSettings(n, **more)
    settings = ExportSettings(format, negatives, model)
    made = export_pairs(catalog, load_snapshot(catalog, "v1"), path, settings, overwrite=True)
    assert sorted(p.name for p in path.parent.glob(".*")) == []
    lines = path.read_text().splitlines() if path.suffix == ".jsonl" else []
    return [json.loads(line) for line in lines], Counter(made.counts)


def texts(*numbers: int) -> list[str]:
    return [f"第{number}段话。" for number in numbers]


def test_every_format_holds_the_kept_pairs_in_the_order_of_their_ids(
    template: Catalog, tmp_path: Path
) -> None:
    kept = [row for row in ROWS if row["query"] and row["source"] != "dropped"]
    wanted = [(row["query"], row["positive"]) for row in kept]
    rows, _ = export(template, tmp_path / "a.jsonl", "jsonl")
    assert [(row["query"], row["positive"]) for row in rows] == wanted
    rows, _ = export(template, tmp_path / "b.jsonl", "sentence-transformers")
    assert [(row["anchor"], row["positive"]) for row in rows] == wanted
    assert rows[0]["negative_1"] == "多吃水果。"
    assert rows[5]["score"] == 0.4
    export(template, tmp_path / "c.parquet", "parquet")
    table = pq.read_table(tmp_path / "c.parquet")
    assert [(row["query"], row["positive"]) for row in table.to_pylist()] == wanted
    datasets = pytest.importorskip("datasets")
    export(template, tmp_path / "d", "hf")
    assert datasets.load_from_disk(str(tmp_path / "d"))["query"][:] == [q for q, _ in wanted]


def test_given_negatives_come_first_and_the_best_kept_candidates_fill_up(
    template: Catalog, tmp_path: Path
) -> None:
    rows, counts = export(template, tmp_path / "fe.jsonl", "flagembedding", 4)
    assert rows == [
        {
            "query": "怎么学钢琴",
            "pos": ["先学指法。", "找一位老师。"],
            "neg": ["多吃水果。", *texts(11, 12, 13)],  # a positive is no negative, 10 was removed
        },
        {
            "query": "什么是光合作用",
            "pos": ["植物把光变成能量。"],
            "neg": texts(29, 28, 27),
            "neg_scores": [0.5, 0.5, 0.5],
            "prompt": "为这个问题找答案：",
            "type": "normal",
        },
        # Judged irrelevant by a person: a negative that came with the data.
        {"query": "今天天气", "pos": ["晴。"], "neg": ["钢琴很贵。", *texts(10)]},
    ]
    assert counts["short"] == 2
    # Only judged irrelevant, and a graded pair of sts: neither has an answer to learn from.
    assert counts["without_positive"] == 2
    record = json.loads((tmp_path / "fe.jsonl.lode.json").read_text())
    assert record["negatives"] == {
        "n": 4, "run": RUN, "ranks": None, "seed": None, "keeps_given": True,
    }  # fmt: skip
    assert record["counts"]["short"] == 2


def test_given_negatives_can_be_left_out_and_can_be_enough(
    template: Catalog, tmp_path: Path
) -> None:
    path = tmp_path / "fe.jsonl"
    rows, _ = export(template, path, "flagembedding", 2, keeps_given=False)
    assert [row["neg"] for row in rows] == [texts(11, 12), texts(29, 28), texts(10)]
    assert rows[0]["neg_scores"] == [0.75 - 11 / 256, 0.75 - 12 / 256]
    rows, counts = export(template, path, "flagembedding", 1)
    assert [row["neg"] for row in rows] == [["多吃水果。"], texts(29), ["钢琴很贵。"]]
    assert counts["short"] == 0
    rows, _ = export(template, path, "flagembedding", 0)
    assert [row["neg"] for row in rows] == [[], [], []]


def test_a_candidate_with_a_given_text_gives_it_its_score_and_is_there_once() -> None:
    pairs = [{"positive": "p", "negatives": ["a", "b"], "label": None, "task": "retrieval"}]
    found = [
        {"positive": text, "rank": rank, "score": rank / 8}
        for text, rank in [("c", 5), ("a", 2), ("p", 3), ("d", 4)]  # by preference
    ]
    chosen = choose_negatives(pairs, found, NegativeSettings(4))
    assert chosen == [("a", 0.25), ("b", None), ("d", 0.5), ("c", 0.625)]
    # The fourth in preference has no place left, whatever its rank.
    assert [text for text, _ in choose_negatives(pairs, found, NegativeSettings(3))] == list("abc")


def test_a_range_of_ranks_counts_removed_candidates_too(template: Catalog, tmp_path: Path) -> None:
    rows, _ = export(
        template, tmp_path / "fe.jsonl", "flagembedding", 3, ranks=(2, 4), keeps_given=False
    )
    assert [row["neg"] for row in rows] == [texts(12, 13), texts(27), []]


def test_a_sample_is_the_one_that_preferences_draw(template: Catalog, tmp_path: Path) -> None:
    rows, _ = export(
        template, tmp_path / "fe.jsonl", "flagembedding", 3, ranks=(2, 14), seed=5,
        keeps_given=False,
    )  # fmt: skip
    ids = np.array([[passage for passage, _, _ in LISTS[PIANO]]])
    flags = np.array([[reason for _, _, reason in LISTS[PIANO]]], np.uint8)
    (places,) = preferences(np.array([PIANO]), ids, flags, (2, 14), 5)
    drawn = ids[0][(places >= 0) & (places < 3)]
    assert rows[0]["neg"] == texts(*(drawn - F))
    assert rows[0]["neg"] != texts(12, 13, 14)
    again, _ = export(
        template, tmp_path / "fe.jsonl", "flagembedding", 3, ranks=(2, 14), seed=6,
        keeps_given=False,
    )  # fmt: skip
    assert again[0]["neg"] != rows[0]["neg"]


def test_tuples_have_all_their_columns(template: Catalog, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    path = tmp_path / "st.parquet"
    _, counts = export(template, path, "sentence-transformers", 3)
    loaded = datasets.load_dataset(
        "parquet", data_files=str(path), split="train", cache_dir=str(tmp_path / "cache")
    )
    assert loaded.column_names == ["anchor", "positive", "negative_1", "negative_2", "negative_3"]
    assert loaded.to_list() == [
        dict(zip(loaded.column_names, row, strict=True))
        for row in [
            ["怎么学钢琴", "先学指法。", "多吃水果。", *texts(11, 12)],
            ["怎么学钢琴", "找一位老师。", "多吃水果。", *texts(11, 12)],
            ["什么是光合作用", "植物把光变成能量。", *texts(29, 28, 27)],
        ]
    ]
    assert counts == {"short": 1, "pairs_left_out": 1, "without_positive": 2}
    rows, _ = export(template, tmp_path / "st.jsonl", "sentence-transformers", 1)
    assert rows[0] == {"anchor": "怎么学钢琴", "positive": "先学指法。", "negative": "多吃水果。"}


@pytest.mark.parametrize("format", ["jsonl", "parquet", "hf"])
def test_pairs_carry_the_negatives_of_their_query(
    template: Catalog, tmp_path: Path, format: str
) -> None:
    path = tmp_path / f"pairs.{format}"
    rows, _ = export(template, path, format, 2)
    if format == "parquet":
        rows = pq.read_table(path).to_pylist()
    if format == "hf":
        rows = pytest.importorskip("datasets").load_from_disk(str(path)).to_list()
    assert [row["pair_id"] - F for row in rows] == [0, 1, 2, 3, 4, 5, 6]
    assert rows[1]["negatives"] == ["多吃水果。", *texts(11)]
    assert rows[1]["negative_scores"] == [None, 0.75 - 11 / 256]
    assert rows[4]["label"] == 0


def test_beir_holds_all_passages_and_the_judgments(template: Catalog, tmp_path: Path) -> None:
    _, counts = export(template, tmp_path / "beir", "beir")
    corpus = [json.loads(line) for line in (tmp_path / "beir" / "corpus.jsonl").open()]
    kept = [row for row in ROWS if row["source"] != "dropped"]
    assert corpus == [
        {"_id": str(row["pair_id"]), "title": "", "text": row["positive"]} for row in kept
    ]
    assert counts == {"passages": len(kept), "queries": 4}
    assert (tmp_path / "beir" / "qrels" / "test.tsv").read_text().splitlines() == [
        "query-id\tcorpus-id\tscore",
        *(f"{F + query}\t{F + passage}\t{score}" for query, passage, score in [
            (0, 0, 1), (0, 1, 1), (2, 2, 1), (3, 3, 1), (3, 4, 0), (6, 6, 0)
        ]),
    ]  # fmt: skip
    collection = load_collection(tmp_path / "beir")
    assert collection.queries == ["怎么学钢琴", "什么是光合作用", "今天天气"]  # with a positive
    assert len(collection.passages) == len(kept)


def test_scores_stand_beside_texts_where_all_are_known(template: Catalog, tmp_path: Path) -> None:
    rows, counts = export(
        template, tmp_path / "fe.jsonl", "flagembedding", 2, keeps_given=False, score_model="bge"
    )
    assert [row.get("pos_scores") for row in rows] == [[0.0, 0.125], [0.25], None]
    assert [len(row["neg_scores"]) for row in rows] == [2, 2, 1]
    assert counts["with_pos_scores"] == 2
    assert counts["with_neg_scores"] == 3


def test_scores_of_two_models_or_revisions_are_not_mixed(mined: Catalog, tmp_path: Path) -> None:
    path = tmp_path / "fe.jsonl"
    write_tables(mined, {"scores": scores("m3e", "1", {F: 0.5})})
    with pytest.raises(CatalogError, match="by m3e, those of negatives by bge"):
        export(mined, path, "flagembedding", 2, score_model="m3e")
    with pytest.raises(CatalogError, match="did you mean 'm3e'"):
        export(mined, path, "flagembedding", 2, score_model="m3")
    write_tables(mined, {"scores": scores("bge", "2", {F: 0.5})})
    with pytest.raises(CatalogError, match=r"several revisions \(1, 2\)"):
        export(mined, path, "flagembedding", 2, score_model="bge")
    assert not path.exists()


def test_a_run_is_of_the_snapshot_that_is_exported(mined: Catalog, tmp_path: Path) -> None:
    path = tmp_path / "fe.jsonl"
    write_tables(mined, {"pairs": [pair(2, 0, "新问题", "新回答")]})
    create_snapshot(mined, "v2")
    v2 = load_snapshot(mined, "v2")
    settings = ExportSettings("flagembedding", NegativeSettings(2))
    with pytest.raises(CatalogError, match="v2 was not mined yet; run: lode mine v2"):
        export_pairs(mined, v2, path, settings)
    of_v1 = replace(settings, negatives=NegativeSettings(2, RUN))
    with pytest.raises(CatalogError, match="mined snapshot v1, which keeps other rows than v2"):
        export_pairs(mined, v2, path, of_v1)
    with pytest.raises(CatalogError, match="there is no mining run 'nine'"):
        export(mined, path, "flagembedding", 2, run="nine")
    assert list(tmp_path.glob("*fe.jsonl*")) == []


def test_the_newest_run_is_taken_unless_one_is_named(mined: Catalog, tmp_path: Path) -> None:
    write_tables(mined, {"candidates": candidates("mine-2", {LIGHT: [(F + 20, 0.5, 0)]})})
    record_run(mined, "v1", "mine-2")
    rows, counts = export(mined, tmp_path / "fe.jsonl", "flagembedding", 1, keeps_given=False)
    assert [row["neg"] for row in rows] == [[], texts(20), []]
    assert counts["short"] == 2
    rows, _ = export(mined, tmp_path / "fe.jsonl", "flagembedding", 1, keeps_given=False, run=RUN)
    assert [row["neg"] for row in rows] == [texts(11), texts(29), texts(10)]


def test_a_candidate_without_a_text_is_refused(mined: Catalog, tmp_path: Path) -> None:
    write_tables(mined, {"candidates": candidates("mine-2", {LIGHT: [(F + 99, 0.5, 0)]})})
    record_run(mined, "v1", "mine-2")
    with pytest.raises(CatalogError, match=f"1 candidates name passages .*first: {F + 99}"):
        export(mined, tmp_path / "fe.jsonl", "flagembedding", 1)
    assert list(tmp_path.glob("*fe.jsonl*")) == []


def test_an_export_does_not_replace_a_file_unasked(template: Catalog, tmp_path: Path) -> None:
    snapshot = load_snapshot(template, "v1")
    target = tmp_path / "out.jsonl.zst"
    target.write_text("mine")
    with pytest.raises(CatalogError, match="exists"):
        export_pairs(template, snapshot, target, ExportSettings())
    assert target.read_text() == "mine"
    made = export_pairs(template, snapshot, target, ExportSettings(), overwrite=True)
    assert made.rows == snapshot.kept
    with target.open("rb") as stream:
        lines = zstandard.ZstdDecompressor().stream_reader(stream).read().splitlines()
    assert len(lines) == made.rows
    export_pairs(template, snapshot, target, ExportSettings("hf"), overwrite=True)
    assert (target / "state.json").is_file()


def test_what_fails_half_way_leaves_what_was_there(
    template: Catalog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "fe.jsonl"
    path.write_text("mine")
    (tmp_path / ".fe.jsonl.tmp").mkdir()
    (tmp_path / ".fe.jsonl.tmp" / "fe.jsonl").write_text("of a killed export")

    def disk_full(rows: Any) -> bytes:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(export_files.orjson, "dumps", disk_full)
        with pytest.raises(CatalogError, match="No space left on device; free some space"):
            export(template, path, "flagembedding", 2)
    assert path.read_text() == "mine"
    assert os.listdir(tmp_path) == ["fe.jsonl"]
    export(template, path, "flagembedding", 2)
    assert sorted(os.listdir(tmp_path)) == ["fe.jsonl", "fe.jsonl.lode.json"]


def test_datasets_of_many_shards_load(
    template: Catalog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(export_files, "SHARD_ROWS", 2)
    monkeypatch.setattr(export_files, "BATCH_ROWS", 2)
    export(template, tmp_path / "hf", "hf", 2)
    assert len(list((tmp_path / "hf").glob("*.arrow"))) == 4
    assert len(datasets.load_from_disk(str(tmp_path / "hf"))) == 7


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--format", "csv"], "allowed are jsonl, parquet"),
        (["--format", "beir", "--negatives", "7"], "leave out --negatives"),
        (["--score-model", "bge"], "choose --format flagembedding"),
        (["--ranks", "2-200"], "say how many: --negatives 7"),
        (["--no-given-negatives"], "say how many: --negatives 7"),
        (["--negatives", "7", "--seed", "1"], "add --sample"),
        (["--negatives", "7", "--ranks", "2:200"], "such as 2-200"),
        (["--negatives", "7", "--ranks", "9-3"], "0 <= start < stop"),
        (["--negatives", "-1"], "at least 0"),
        (["--format", "sentence-transformers"], "say how many with --negatives"),
    ],
)
def test_settings_that_cannot_be_obeyed_are_refused(
    template: Catalog, tmp_path: Path, words: list[str], message: str
) -> None:
    path = tmp_path / "out.parquet"
    command = ["export", "v1", "-o", str(path), "--catalog", template.location.url, *words]
    result = CliRunner().invoke(app, command)
    assert result.exit_code != 0
    assert message in f"{result.output}{result.exception}"
    assert os.listdir(tmp_path) == []


def test_the_command_says_what_it_wrote(template: Catalog, tmp_path: Path) -> None:
    path = tmp_path / "fe.jsonl"
    result = CliRunner().invoke(
        app,
        [
            "export", "v1", "-o", str(path), "-f", "flagembedding", "--negatives", "3",
            "--ranks", "1-200", "--sample", "--seed", "1", "-c", template.location.url,
        ],
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert result.output.splitlines() == [
        f"3 rows written to {path}",
        "  2 queries have fewer negatives than asked for",
        "  2 queries without a positive left out",
        "  1 lines have the scores of all their negatives",
        f"  negatives of run {RUN}",
    ]


def test_a_draw_without_a_number_is_the_one_of_seed_0() -> None:
    made = negative_settings(7, None, "2-200", sample=True, seed=None, keeps_given=True)
    assert made == NegativeSettings(7, None, (2, 200), 0)
    assert parse_ranks("0-30") == (0, 30)
    assert negative_settings(None, None, None, sample=False, seed=None, keeps_given=True) is None
