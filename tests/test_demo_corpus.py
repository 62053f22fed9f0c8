import json
import re
import tomllib
from collections import Counter
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from curation.demo import DemoCorpus, generate
from curation.demo.__main__ import main
from curation.demo.choices import Choices
from curation.demo.corpus import DEFECTS_OF, QUARANTINED
from curation.demo.defects import BLOCKED_DOMAINS, ROUND_TRIPS
from curation.demo.grammar import Scene, parse
from curation.demo.passages import MIN_CHARS, SOURCES, Author
from curation.demo.topics import all_topics
from curation.recipes import load_sources
from curation.sources import find_sources
from curation.texts import decode, encode, normalize

Row = dict[str, Any]
HAN = re.compile(r"[\u4e00-\u9fff]")
# How much of a text two clean passages may share: 5-grams of the normalised text.
MAX_CLEAN_JACCARD = 0.6


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> DemoCorpus:
    return generate(tmp_path_factory.mktemp("demo"))


@pytest.fixture(scope="module")
def rows(corpus: DemoCorpus) -> dict[str, Row]:
    """Every row that can be read, by id."""
    found = [row for path in corpus.files for row in _read(path)]
    return {row["id"]: row for row in found}


@pytest.fixture(scope="module")
def clean(rows: dict[str, Row]) -> list[Row]:
    return [row for row in rows.values() if row["defect"] is None]


def test_equal_settings_give_equal_bytes_and_another_seed_does_not(tmp_path: Path) -> None:
    first, second = (generate(tmp_path / name, rows=300, seed=1) for name in "ab")
    other = generate(tmp_path / "c", rows=300, seed=2)
    for one, two in zip(first.files, second.files, strict=True):
        assert one.read_bytes() == two.read_bytes()
    assert first.recipe.read_bytes() == second.recipe.read_bytes()
    assert not any(
        one.read_bytes() == two.read_bytes()
        for one, two in zip(first.files, other.files, strict=True)
    )


def test_a_row_does_not_depend_on_how_many_rows_there_are(tmp_path: Path) -> None:
    few, many = (generate(tmp_path / str(rows), rows=rows, seed=1) for rows in (300, 900))
    for short, long in zip(few.files, many.files, strict=True):
        start = _read(short)
        assert _read(long)[: len(start)] == start


def test_all_rows_are_counted_and_every_defect_is_planted_often(
    corpus: DemoCorpus, rows: dict[str, Row]
) -> None:
    found = Counter(row["defect"] for row in rows.values())
    assert corpus.rows == 20_000
    assert found[None] == corpus.clean
    for defect, planted in corpus.planted.items():
        unreadable = defect in ("bad_json", "broken_utf8")
        assert found[defect] == (0 if unreadable else planted), defect
        assert planted >= (5 if defect in QUARANTINED else 60), defect
    assert set(corpus.planted) == {defect for shares in DEFECTS_OF.values() for defect in shares}
    assert 0.12 < sum(corpus.planted.values()) / corpus.rows < 0.15


def test_clean_passages_are_varied_chinese_of_60_to_600_characters(clean: list[Row]) -> None:
    lengths = [len(row["positive"]) for row in clean if row["task"] != "sts"]
    assert np.mean(np.array(lengths) >= MIN_CHARS) > 0.97
    assert max(lengths) < 700
    assert np.std(lengths) > 100
    for row in clean:
        assert len(HAN.findall(row["positive"])) > 0.4 * len(row["positive"])
        assert not set("{}#|[]") & set(row["query"] + row["positive"]), row


def test_no_two_clean_passages_are_near_duplicates_and_no_two_queries_are_equal(
    clean: list[Row],
) -> None:
    passages = [row["positive"] for row in clean]
    edited = passages[0].replace("，", "；", 1) + "完"
    (found,) = _most_alike([*passages, edited], MAX_CLEAN_JACCARD)
    assert {*found[1:]} == {passages[0], edited}
    asked = Counter(row["query"] for row in clean)
    assert [query for query, count in asked.items() if count > 1] == []


def test_a_passage_tells_of_what_its_query_names(clean: list[Row]) -> None:
    """No other passage shares more 2-grams with the query than its own, for 9 queries of 10."""
    chosen = [row for row in clean if row["source"] == "retrieval"]
    grams = [_grams(row["positive"], 2) for row in chosen]
    best = 0
    for at, row in enumerate(chosen):
        asked = _grams(row["query"], 2)
        overlap = [len(asked & other) for other in grams]
        best += overlap[at] == max(overlap)
    assert best > 0.9 * len(chosen)


def test_hard_negatives_share_the_subject_or_the_question_but_are_other_passages(
    clean: list[Row],
) -> None:
    given = [row for row in clean if row.get("negatives")]
    assert len(given) > 200
    for row in given:
        same_subject, same_aspect = row["negatives"]
        assert len({row["positive"], same_subject, same_aspect}) == 3
    shared = [len(_grams(row["query"], 2) & _grams(row["negatives"][0], 2)) for row in given]
    assert np.median(shared) >= 4


def test_sts_rows_are_labeled_and_the_labels_mean_something(clean: list[Row]) -> None:
    by_label: dict[float, list[float]] = {}
    for row in clean:
        if row["task"] == "sts":
            one, two = _grams(row["query"], 2), _grams(row["positive"], 2)
            by_label.setdefault(row["label"], []).append(len(one & two) / len(one | two))
    assert sorted(by_label) == [0.0, 0.5, 1.0]
    assert np.mean(by_label[1.0]) > np.mean(by_label[0.0]) + 0.2


def test_special_rows_are_not_defects(clean: list[Row]) -> None:
    details = Counter(row["detail"] for row in clean)
    assert details["traditional"] > 500
    assert sum(len(row["query"]) <= 6 for row in clean) > 20  # legitimate short titles


def test_an_exact_duplicate_repeats_an_earlier_clean_row(rows: dict[str, Row]) -> None:
    for row in _planted(rows, "exact_duplicate"):
        twin = rows[row["twin"]]
        assert (row["query"], row["positive"]) == (twin["query"], twin["positive"])
        assert twin["id"] < row["id"]
        assert twin["defect"] is None


def test_a_near_duplicate_differs_from_its_twin_and_is_0_8_alike(rows: dict[str, Row]) -> None:
    planted = _planted(rows, "near_duplicate")
    assert {row["detail"] for row in planted} == {"edited", "width", "script", "appended"}
    for row in planted:
        twin = rows[row["twin"]]
        one, two = (_grams(text, 5) for text in _normal([row["positive"], twin["positive"]]))
        assert row["positive"] != twin["positive"]
        assert len(one & two) / len(one | two) > 0.8, row["detail"]


def test_foreign_passages_hold_no_chinese_sentence(rows: dict[str, Row]) -> None:
    planted = _planted(rows, "wrong_language")
    assert {row["detail"] for row in planted} == {"english", "japanese", "russian", "korean"}
    for row in planted:
        if row["detail"] == "japanese":
            assert re.search(r"[\u3040-\u30ff]{2}", row["positive"])
        else:
            assert not HAN.search(row["positive"])


def test_mojibake_is_what_the_wrong_encoding_makes_of_chinese(rows: dict[str, Row]) -> None:
    assert ROUND_TRIPS["utf-8 read as gbk"]("你好") == "浣犲ソ"
    assert ROUND_TRIPS["gbk read as latin-1"]("你好") == "ÄãºÃ"
    assert "锟斤拷" in ROUND_TRIPS["gbk read as utf-8, then as gbk"]("你好")
    planted = _planted(rows, "mojibake")
    assert {row["detail"] for row in planted} == set(ROUND_TRIPS)
    readable = Counter("".join(row["positive"] for row in rows.values() if row["defect"] is None))
    for row in planted:
        strange = sum(character not in readable for character in row["positive"])
        assert strange > 0.2 * len(row["positive"]), row["detail"]


def test_advertisements_name_a_number_to_call_or_add(rows: dict[str, Row]) -> None:
    planted = _planted(rows, "advertisement")
    assert {row["detail"] for row in planted} == {"partial", "whole"}
    for row in planted:
        assert re.search(r"154[- ]?\d{4}[- ]?\d{4}|9\d{9}|[a-z]+_?\d{3,}", row["positive"])


def test_repetition_repeats_more_than_half_of_the_passage(rows: dict[str, Row]) -> None:
    for row in _planted(rows, "repetition"):
        assert len(_grams(row["positive"], 5)) < 0.5 * len(row["positive"])


def test_short_and_echoed_answers_say_nothing_new(rows: dict[str, Row]) -> None:
    assert all(len(row["positive"]) <= 4 for row in _planted(rows, "too_short"))
    for row in _planted(rows, "echo"):
        assert row["positive"].replace(row["query"], "").strip("请问“”？，。") == ""


def test_blocked_domains_are_on_the_list_that_is_written(
    corpus: DemoCorpus, rows: dict[str, Row]
) -> None:
    listed = corpus.block_list.read_text().split()
    assert listed == list(BLOCKED_DOMAINS)
    for row in _planted(rows, "blocked_domain"):
        assert any(re.search(rf"//(\w+\.)?{re.escape(name)}/", row["url"]) for name in listed)
    assert not any(
        name in (row.get("url") or "")
        for row in rows.values()
        if row["defect"] is None
        for name in listed
    )


@pytest.mark.parametrize(
    ("defect", "pattern"),
    [
        ("html_leftovers", r"<\w+ [^>]*>.*</\w+>"),
        ("separators", r"([-=*_—~·|])\1{10,}"),
        ("boilerplate", r"展开全文|分享到|转发|版权所有|上一篇|编辑|登录|注册|相关阅读|推荐"),
        ("abnormal_characters", r"[\ue000-\uf8ff]|[\x01-\x08\x0b-\x1f\x7f]|[■-◿★☆※♠♥]"),
    ],
)
def test_a_defect_shows_its_marks(defect: str, pattern: str, rows: dict[str, Row]) -> None:
    for row in _planted(rows, defect):
        assert re.search(pattern, row["positive"], re.DOTALL), row


def test_broken_lines_are_broken_and_all_others_are_not(corpus: DemoCorpus) -> None:
    lines = [line for path in corpus.files if path.suffix == ".zst" for line in _lines(path)]
    kinds = Counter(map(_fault, lines))
    assert kinds["bad_json"] == corpus.planted["bad_json"]
    assert kinds["broken_utf8"] == corpus.planted["broken_utf8"]


def test_the_recipe_reads_every_file_and_maps_columns_that_are_there(corpus: DemoCorpus) -> None:
    assert load_sources(corpus.recipe).keys() == {path.name.split(".")[0] for path in corpus.files}
    found = find_sources(recipe=load_sources(corpus.recipe))
    assert [source.path for source in found] == [path.resolve() for path in corpus.files]
    for source in found:
        assert set(source.settings.fields.values()) <= _read(source.path)[0].keys()
    recipe = tomllib.loads(corpus.recipe.read_text(encoding="utf-8"))
    assert recipe["signals"]["domain_lists"] == [corpus.block_list.name]


def test_the_command_writes_the_corpus_and_counts_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main([str(tmp_path / "demo"), "--rows", "200"])
    assert "200 rows in 6 files" in capsys.readouterr().out


def test_too_few_rows_are_refused_and_nothing_is_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="rows is 5: at least 6, one for each source"):
        generate(tmp_path / "demo", rows=5)
    assert not (tmp_path / "demo").exists()


def test_a_slot_keeps_its_word_and_a_numbered_slot_has_another() -> None:
    words = {"city": [parse("甲"), parse("乙"), parse("丙")]}
    for row in range(50):
        scene = Scene(words, {}, Choices.of(1, "test", row))
        first, again, second, third = parse("{city},{city},{city2},{city3}").write(scene).split(",")
        assert first == again
        assert len({first, second, third}) == 3


def test_a_topic_without_a_new_subject_says_where_to_add_words() -> None:
    (metro,) = (topic for topic in all_topics() if topic.name == "metro")
    author = Author(SOURCES[0], seed=1)
    author._scene(replace(metro, subject=parse("一号线")), 0)
    with pytest.raises(ValueError, match=r"no new subject after 1; .* in .*metro\.toml"):
        author._scene(replace(metro, subject=parse("一号线")), 1)


def test_wordings_nest_numbers_stay_in_range_and_bars_outside_brackets_are_bars() -> None:
    scenes = [Scene({}, {}, Choices.of(1, "test", row)) for row in range(300)]
    written = {parse("[a[b|c]|{3..5}] | d").write(scene) for scene in scenes}
    assert written == {"ab | d", "ac | d", "3 | d", "4 | d", "5 | d"}


@pytest.mark.parametrize(("text", "message"), [("[a", "1 . without"), ("a]", "no . for the .")])
def test_brackets_that_do_not_match_are_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse(text)


def test_every_topic_belongs_to_a_source_and_has_words_for_its_slots() -> None:
    topics = all_topics()
    assert len(topics) >= 25
    assert {topic.source for topic in topics} == {
        "news", "qa", "web", "instruction", "sts", "retrieval",
    }  # fmt: skip


def _read(path: Path) -> list[Row]:
    if path.suffix == ".parquet":
        table: list[Row] = pq.read_table(path).to_pylist()
        return table
    return [json.loads(line) for line in _lines(path) if _fault(line) is None]


def _lines(path: Path) -> list[bytes]:
    with pa.CompressedInputStream(pa.OSFile(str(path)), "zstd") as stream:
        content: bytes = stream.read()
    return content.splitlines()


def _fault(line: bytes) -> str | None:
    try:
        json.loads(line.decode())
    except UnicodeDecodeError:
        return "broken_utf8"
    except json.JSONDecodeError:
        return "bad_json"
    return None


def _planted(rows: dict[str, Row], defect: str) -> list[Row]:
    found = [row for row in rows.values() if row["defect"] == defect]
    assert found
    return found


def _normal(texts: list[str]) -> list[str]:
    normal: list[str] = encode(normalize(decode(pa.array(texts)))).to_pylist()
    return normal


def _grams(text: str, size: int) -> set[str]:
    return {text[i : i + size] for i in range(max(1, len(text) - size + 1))}


def _most_alike(texts: list[str], floor: float) -> list[tuple[float, str, str]]:
    """Find the pairs with a Jaccard of at least the floor, exact, among those that 16 bands of 3
    MinHashes bring together: 0.98 of the pairs at 0.6, all above 0.75.
    """
    grams = [_gram_hashes(text) for text in _normal(texts)]
    starts = np.concatenate([[0], np.cumsum([len(one) for one in grams])[:-1]])
    flat = np.concatenate(grams)
    choices = Choices.of(1, "hash")
    multipliers = np.array([choices.below(2**63, f"{i}") * 2 + 1 for i in range(48)], "u8")
    smallest = np.stack([np.minimum.reduceat(flat * one, starts) for one in multipliers], axis=1)
    together: dict[tuple[int, ...], list[int]] = {}
    for at, row in enumerate(smallest.tolist()):
        for band in range(0, 48, 3):
            together.setdefault((band, *row[band : band + 3]), []).append(at)
    pairs = {pair for group in together.values() for pair in combinations(group, 2)}
    assert len(pairs) > 1000  # the bands bring something together
    alike = [(_jaccard(grams[one], grams[two]), texts[one], texts[two]) for one, two in pairs]
    return sorted((found for found in alike if found[0] >= floor), reverse=True)


def _gram_hashes(text: str) -> npt.NDArray[np.uint64]:
    """Hash the different 5-grams of a text."""
    codes = np.frombuffer(text.ljust(5).encode("utf-32-le"), "u4").astype("u8")
    mixed = np.zeros(len(codes) - 4, "u8")
    for place in range(5):
        mixed = (mixed ^ codes[place : len(codes) - 4 + place]) * np.uint64(0x9E3779B97F4A7C15)
        mixed ^= mixed >> np.uint64(29)
    return np.unique(mixed)


def _jaccard(one: npt.NDArray[np.uint64], two: npt.NDArray[np.uint64]) -> float:
    shared = len(np.intersect1d(one, two, assume_unique=True))
    return shared / (len(one) + len(two) - shared)
