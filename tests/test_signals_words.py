from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from curation.signals.batch import PairBatch
from curation.signals.settings import SignalSettings
from curation.signals.words import CATEGORIES, WORDS, words


def counts(texts: list[str], *lists: Path) -> list[dict[str, int]]:
    """Count words in passages; categories with none are left out."""
    rows = pa.table({"pair_id": range(len(texts)), "positive": pa.array(texts, pa.string())})
    found = words(PairBatch(rows), "passage", SignalSettings(word_lists=lists))
    columns = {name: np.asarray(found[f"{name}_words"]) for name in CATEGORIES}
    return [
        {name: int(column[row]) for name, column in columns.items() if column[row]}
        for row in range(len(texts))
    ]


def test_words_are_found_behind_width_script_spaces_and_punctuation() -> None:
    assert counts(["请加 微-信 详谈", "請加微信", "今天天气很好"]) == [
        {"advertisement": 1},
        {"advertisement": 1},
        {},
    ]


def test_the_end_of_one_text_and_the_start_of_the_next_are_no_word() -> None:
    assert counts(["我想赌", "球队", "赌球"]) == [{}, {}, {"gambling": 1}]


def test_a_latin_word_stands_alone(tmp_path: Path) -> None:
    mine = tmp_path / "mine.txt"
    mine.write_text("sex\nfree money\n", encoding="utf-8")
    found = counts(["these xylophones", "Essex", "ＳＥＸ和sex.", "Free  Money? free money!"], mine)
    assert found == [{}, {}, {"listed": 2}, {"listed": 2}]


def test_a_latin_word_is_parted_as_the_list_parts_it(tmp_path: Path) -> None:
    mine = tmp_path / "mine.txt"
    mine.write_text("free money\nsex\nshop.example.com\n3.5 mm\n", encoding="utf-8")
    texts = ["free-money", "freemoney", "fre emoney", "s e x", "http://Shop.Example.com/a",
             "shopexample.com", "3.5 mm", "3.5mm", "13.5 mm", "sex2 sex"]  # fmt: skip
    assert [one.get("listed", 0) for one in counts(texts, mine)] == [1, 0, 0, 0, 1, 0, 1, 0, 0, 1]


def test_a_latin_word_inside_another_does_not_hide_one_that_stands_alone(tmp_path: Path) -> None:
    mine = tmp_path / "mine.txt"
    mine.write_text("sex\nxse\n性感sex\n", encoding="utf-8")
    # In the key, essexsex, the word xse begins before the sex that stands alone.
    assert counts(["Essex sex", "性感sexy sex"], mine) == [{"listed": 1}, {"listed": 2}]


def test_the_longest_word_counts_once() -> None:
    # 送彩金 stands inside 注册送彩金.
    assert counts(["注册送彩金"]) == [{"gambling": 1}]


def test_a_users_words_count_under_their_category_or_as_listed(tmp_path: Path) -> None:
    mine = tmp_path / "mine.txt"
    mine.write_text("# own\n红烧肉\n金蟾\tgambling\n甲乙\tnonsense\n", encoding="utf-8")
    assert counts(["红烧肉和金蟾，甲乙"], mine) == [{"gambling": 1, "listed": 2}]


def test_a_list_of_fifty_thousand_words_finds_each(tmp_path: Path) -> None:
    many = tmp_path / "many.txt"
    names = [f"词{number:05d}尾" for number in range(50_000)]
    many.write_text("\n".join(names), encoding="utf-8")
    assert counts([names[0], names[-1], "词99999尾"], many) == [{"listed": 1}, {"listed": 1}, {}]


def test_a_list_that_is_not_utf8_is_named(tmp_path: Path) -> None:
    path = tmp_path / "gbk.txt"
    path.write_bytes("赌博".encode("gbk"))
    with pytest.raises(ValueError, match=r"gbk.txt is not UTF-8"):
        counts(["x"], path)


def test_changed_words_are_another_version(tmp_path: Path) -> None:
    from curation.signals.settings import digest

    path = tmp_path / "mine.txt"
    path.write_text("甲\n", encoding="utf-8")
    before = digest(*WORDS.depends(SignalSettings(word_lists=(path,))))
    path.write_text("乙\n", encoding="utf-8")
    assert digest(*WORDS.depends(SignalSettings(word_lists=(path,)))) != before


def test_an_exception_keeps_a_word_from_being_found_in_a_longer_one(tmp_path: Path) -> None:
    mine = tmp_path / "mine.txt"
    mine.write_text("性\tpornography\n!性能\n!理性\nsex\n! Sex Pistols\n", encoding="utf-8")
    texts = ["性能和理性", "这里有性", "理 性", "理性，性", "sex pistols", "sex and Sex Pistols"]
    assert counts(texts, mine) == [
        {}, {"pornography": 1}, {}, {"pornography": 1}, {}, {"listed": 1},
    ]  # fmt: skip
