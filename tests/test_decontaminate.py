"""Decontamination: what stands in an evaluation set is found, however it is written."""

import json
import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from benchmarks.machine import DATA
from catalog.contamination import SetContamination, snapshot_contamination
from catalog.evaluation_sets import EvaluationSet, read_evaluation_sets
from catalog.executors import ExecutorSettings
from catalog.lake import Catalog
from catalog.policies import Condition, Policy
from catalog.policy_commit import commit_policy
from catalog.snapshots import create_snapshot
from curation.contamination_index import BANDS, ContaminationIndex
from curation.decontaminate import decontaminate
from curation.ingest import find_sources, ingest_files
from curation.texts import from_strings, normalize
from lode import app
from tests.tiny_catalog import fetch

ALONE = ExecutorSettings(workers=1)
QUESTION = "请问苹果手机的屏幕碎了以后应该去哪里维修比较便宜？"
PASSAGE = "屏幕碎了可以先看是否在保修期内，然后到官方售后网点检测报价，再决定是否自费更换。"
SETS = [
    EvaluationSet(
        "sts", ["sentence1:0", "sentence2:0", "sentence1:1"], [QUESTION, "你好", PASSAGE]
    ),
    EvaluationSet("search", ["queries:7", "corpus:a"], [QUESTION, "另一段没有人用过的文字。"]),
]  # fmt: skip
ALL = 'select pair_id >> 32, pair_id & 4294967295, side, "set", place, kind from contamination'


def read_into(catalog: Catalog, folder: Path, name: str, rows: list[tuple[str, str]]) -> None:
    path = folder / f"{name}.jsonl"
    lines = (json.dumps({"query": q, "positive": p}, ensure_ascii=False) for q, p in rows)
    path.write_text("\n".join(lines), encoding="utf-8")
    ingest_files(catalog, find_sources([str(path)]), executor=ALONE)


def found(catalog: Catalog) -> list[tuple[int, int, str, str, str, str]]:
    return fetch(catalog, f"{ALL} order by all")


def similarity(left: str, right: str) -> float:
    """Write Jaccard of character n-grams out."""
    n = BANDS.ngram_chars
    sets = [{text[i : i + n] for i in range(len(text) - n + 1)} for text in (left, right)]
    return len(sets[0] & sets[1]) / max(1, len(sets[0] | sets[1]))


def test_it_finds_what_brute_force_finds() -> None:
    numbers = np.random.default_rng(5)
    alphabet = [chr(0x4E00 + i) for i in range(300)]
    evaluation = ["".join(numbers.choice(alphabet, numbers.integers(8, 80))) for _ in range(60)]
    corpus = []
    for text in evaluation:
        for changes in (0, 1, 2, 4):
            letters = list(text)
            for place in numbers.integers(0, len(letters), changes):
                letters[place] = str(numbers.choice(alphabet))
            corpus.append("".join(letters))
    index, of_text = ContaminationIndex.build(evaluation)
    matches = index.match(normalize(from_strings(corpus)), 0.7)
    got = set(zip(matches.rows.tolist(), matches.texts.tolist(), strict=True))
    expected = {
        (row, int(of_text.reshape(-1)[number])): similarity(text, other)
        for row, text in enumerate(corpus)
        for number, other in enumerate(evaluation)
        if similarity(text, other) >= 0.7
    }
    assert got == set(expected)
    assert 80 < len(expected) < 240  # both sides of the floor are there
    for row, text, value in zip(matches.rows, matches.texts, matches.jaccard, strict=True):
        assert value == pytest.approx(expected[int(row), int(text)], abs=1e-6)
    assert matches.is_equal.sum() >= 60


@pytest.mark.parametrize(
    ("text", "is_equal"),
    [
        ("请问苹果手机的屏幕碎了以后应该去哪里维修比较便宜", True),  # without punctuation
        ("請問蘋果手機的屏幕碎了以後應該去哪裏維修比較便宜？", True),  # traditional
        (" 请问 苹果手机的屏幕碎了以后,应该去哪里维修比较便宜? ", True),  # width and spaces
        ("请问苹果手机的屏幕碎了以后应该去哪里维修比较便宜呢？", False),
    ],
)
def test_variants_of_a_text_are_the_text(text: str, is_equal: bool) -> None:
    index, _ = ContaminationIndex.build([QUESTION, PASSAGE])
    matches = index.match(normalize(from_strings([PASSAGE[:9], text, None])), 0.7)
    assert matches.rows.tolist() == [1]
    assert matches.is_equal.tolist() == [is_equal]


def test_short_texts_are_only_compared_for_equality() -> None:
    index, _ = ContaminationIndex.build(["你好", "好"])
    matches = index.match(normalize(from_strings(["你好", "你好吗", "好！", ""])), 0.7)
    assert sorted(matches.rows.tolist()) == [0, 2]


def test_every_match_names_pair_side_set_and_place(catalog: Catalog, tmp_path: Path) -> None:
    near = PASSAGE.replace("再决定", "最后再决定")
    read_into(
        catalog, tmp_path, "a", [(QUESTION, "不相干的回答。"), ("不相干？", near), ("甲？", "乙。")]
    )
    done = decontaminate(catalog, SETS, ALONE)
    assert (done.pairs, done.found) == (3, 3)
    (file,) = {row[0] for row in found(catalog)}
    assert found(catalog) == [
        (file, 0, "query", "search", "queries:7", "exact"),
        (file, 0, "query", "sts", "sentence1:0", "exact"),
        (file, 1, "passage", "sts", "sentence1:1", "near"),
    ]
    (value,) = fetch(catalog, "select jaccard from contamination where kind = 'near'")[0]
    assert value == pytest.approx(
        similarity(re.sub("[，。]", "", PASSAGE), re.sub("[，。]", "", near)), abs=1e-6
    )


def test_only_what_was_not_compared_is_compared(catalog: Catalog, tmp_path: Path) -> None:
    read_into(catalog, tmp_path, "a", [(QUESTION, "回答。")])
    assert decontaminate(catalog, SETS[:1], ALONE).found == 1
    assert decontaminate(catalog, SETS[:1], ALONE).job_id is None
    assert decontaminate(catalog, SETS, ALONE).found == 1  # the set that came later
    read_into(catalog, tmp_path, "b", [("你好", PASSAGE)])
    done = decontaminate(catalog, SETS, ALONE)
    assert (done.pairs, done.found) == (1, 2)
    assert len(found(catalog)) == 4
    changed = EvaluationSet("sts", ["sentence1:0"], [PASSAGE])
    assert decontaminate(catalog, [changed], ALONE).pairs == 2
    assert [row[2:5] for row in found(catalog)] == [
        ("query", "search", "queries:7"), ("passage", "sts", "sentence1:0"),
    ]  # fmt: skip
    assert decontaminate(catalog, [changed, SETS[1]], ALONE).job_id is None


def test_a_policy_drops_what_it_says_and_a_snapshot_says_what_it_holds(
    catalog: Catalog, tmp_path: Path
) -> None:
    rows = [(QUESTION, "一。"), ("问题？", PASSAGE), ("你好", "二。"), ("别的？", "三。")]
    read_into(catalog, tmp_path, "a", rows)

    def kept(require: str) -> list[int]:
        commit_policy(catalog, Policy("p", (Condition("clean", "decontaminate", require=require),)))
        return [
            row for (row,) in fetch(
                catalog, "select pair_id & 4294967295 from verdicts where kept order by all"
            )
        ]  # fmt: skip

    assert kept("query_contamination < 0.8 and passage_contamination < 0.8") == [0, 1, 2, 3]
    decontaminate(catalog, SETS, ALONE)
    assert kept("query_contamination < 0.8 and passage_contamination < 0.8") == [3]
    assert kept("passage_contamination < 0.8") == [0, 2, 3]
    assert kept("not list_contains(contaminated_sets, 'search')") == [1, 2, 3]
    snapshot = create_snapshot(catalog, "v1", "p")
    assert snapshot_contamination(catalog, snapshot) == [
        SetContamination("search", 0, 0, 0), SetContamination("sts", 2, 2, 2),
    ]  # fmt: skip


def test_the_commands_compare_and_report(catalog: Catalog, tmp_path: Path) -> None:
    read_into(catalog, tmp_path, "a", [(QUESTION, "一。"), ("别的？", "二。")])
    write(tmp_path / "leak.jsonl", json.dumps({"text": QUESTION}, ensure_ascii=False))

    def lode(*words: str) -> str:
        result = CliRunner().invoke(app, [*words, "--catalog", catalog.location.url])
        assert result.exit_code == 0, result.output
        return result.output

    commit_policy(catalog, Policy("all", ()))
    create_snapshot(catalog, "v1")
    assert "no evaluation set was compared" in lode("contamination", "v1")
    printed = lode("decontaminate", str(tmp_path / "leak.jsonl"), "--workers", "1")
    assert "1 sets with 1 texts; compared 2 pairs, 1 matches" in printed
    assert re.search(r"^leak +1 +1 +1$", lode("contamination", "v1"), re.MULTILINE)


def test_sets_are_read_in_the_forms_that_people_have(tmp_path: Path) -> None:
    (tmp_path / "sts").mkdir()
    pq.write_table(
        pa.table({"sentence1": ["甲", None], "sentence2": ["乙", "丙"], "score": [1.0, 0.0]}),
        tmp_path / "sts" / "pairs.parquet",
    )
    beir = tmp_path / "retrieval" / "wiki"
    beir.mkdir(parents=True)
    (beir / "corpus.jsonl").write_text('{"_id": "d1", "title": "题", "text": "文"}\n', "utf-8")
    (beir / "queries.jsonl").write_text('{"_id": "q1", "text": "问"}\n', "utf-8")
    (tmp_path / "classes.jsonl").write_text('{"text": "类", "label": 3}\n', "utf-8")
    sets = {one.name: one for one in read_evaluation_sets([tmp_path])}
    assert {name: list(zip(one.places, one.texts, strict=True)) for name, one in sets.items()} == {
        "pairs": [("sentence1:0", "甲"), ("sentence2:0", "乙"), ("sentence2:1", "丙")],
        "wiki": [("corpus:d1", "文"), ("corpus.title:d1", "题"), ("queries:q1", "问")],
        "classes": [("text:0", "类")],
    }
    assert read_evaluation_sets([beir])[0].digest == sets["wiki"].digest


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda folder: folder / "none", "does not exist"),
        (lambda folder: folder, "holds no evaluation set"),
        (lambda folder: write(folder / "a.jsonl", '{"label": 1}'), "has no text; it has label"),
        (lambda folder: write(folder / "a.jsonl", "{"), "cannot be read as jsonl"),
        (lambda folder: write(folder / "a.parquet", "x"), "cannot be read as parquet"),
        (lambda folder: write(folder / "a.jsonl", '{"text": " "}'), "holds no text"),
    ],
)
def test_what_is_no_set_is_refused(tmp_path: Path, make, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_evaluation_sets([make(tmp_path)])


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.slow
@pytest.mark.data
@pytest.mark.skipif(not DATA.exists(), reason=f"the shared corpus of real pairs is not in {DATA}")
def test_every_real_leak_is_found(catalog: Catalog, tmp_path: Path) -> None:
    table = pq.read_table(
        DATA / "pairs" / "misc_pairs.parquet", columns=["text1", "text2", "source"]
    )
    own = table.filter(pa.compute.is_in(table["source"], pa.array(["afqmc", "bq", "lcqmc"])))
    path = tmp_path / "pairs.parquet"
    pq.write_table(own, path)
    ingest_files(
        catalog, find_sources([str(path)], ["query=text1", "positive=text2"]), executor=ALONE
    )
    names = ("AFQMC.dev", "BQ.test", "LCQMC.test")
    sets = read_evaluation_sets([DATA / "eval" / "sts" / f"{name}.parquet" for name in names])
    decontaminate(catalog, sets, ALONE)
    texts = set(own["text1"].to_pylist()) | set(own["text2"].to_pylist())
    for one in sets:
        leaked = {p for p, text in zip(one.places, one.texts, strict=True) if text in texts}
        exact = fetch(
            catalog,
            "select distinct place from contamination where kind = 'exact' "
            f"and \"set\" = '{one.name}'",
        )
        assert leaked <= {place for (place,) in exact}
        assert len(leaked) > 150
