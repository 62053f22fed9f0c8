import re

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from curation.signals.batch import PairBatch
from curation.signals.lines import LINES, line_statistics
from curation.signals.settings import SignalSettings

CLOSERS = "\"'”’）)」』】]》〉﹂﹄〗〕}｝»›＂＇］~～"
TERMINALS = "。！？!?.．｡…⋯；;‼⁇⁈⁉"


def statistics(texts: list[str]) -> list[dict[str, float]]:
    rows = {"pair_id": range(len(texts)), "positive": pa.array(texts, pa.string())}
    found = line_statistics(PairBatch(pa.table(rows)), "passage", SignalSettings())
    assert list(found) == [measure.name for measure in LINES.measures]
    return [
        {name: float(column[row]) for name, column in found.items()} for row in range(len(texts))
    ]


def plain_statistics(text: str) -> dict[str, float]:
    """Measure lines in plain Python."""
    lines = [line.strip() for line in text.split("\n") if line.strip()]
    again = [line for at, line in enumerate(lines) if line in lines[:at]]
    ended = [line.rstrip(CLOSERS)[-1:] in tuple(TERMINALS) for line in lines]
    chars = sum(map(len, lines))

    def of_lines(found: int) -> float:
        return found / len(lines) if lines else 0

    return {
        "lines": len(lines),
        "mean_line_chars": of_lines(chars),
        "newline_share": text.count("\n") / len(text) if text else 0,
        "short_line_share": of_lines(sum(len(line) <= 30 for line in lines)),
        "ellipsis_line_share": of_lines(sum(line.endswith(("…", "⋯", "...")) for line in lines)),
        "more_line_share": of_lines(
            sum(re.search(r"(展开|更多|全文)\W*$", line) is not None for line in lines)
        ),
        "ended_line_share": of_lines(sum(ended)),
        "bullet_line_share": of_lines(sum(line[0] in "•‣·●○■□◆▪►➢-–*" for line in lines)),
        "duplicate_line_share": of_lines(len(again)),
        "duplicate_line_char_share": sum(map(len, again)) / chars if chars else 0,
        "ends_sentence": float(bool(ended and ended[-1])),
    }


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("第一行。\n\n  第二行  ", {"lines": 2, "mean_line_chars": 3.5, "newline_share": 2 / 13}),
        ("一" * 30 + "\n" + "二" * 31, {"short_line_share": 0.5}),
        ("等等…\n等等...\n等等。。\n等等", {"ellipsis_line_share": 0.5}),
        ("点击展开\n查看更多>>\n阅读全文…\n更多的人", {"more_line_share": 0.75}),
        ("“好。”\n（对！）\n没有\n3.", {"ended_line_share": 0.75, "ends_sentence": 1}),
        ("好。\n没有", {"ends_sentence": 0}),
        ("”", {"ended_line_share": 0}),  # nothing is left to end
        ("- 一\n• 二\n三-", {"bullet_line_share": 2 / 3}),
        (
            "甲甲\n乙\n 甲甲 \n甲甲",
            {"duplicate_line_share": 0.5, "duplicate_line_char_share": 4 / 7},
        ),
        ("\n \n", {"lines": 0, "newline_share": 2 / 3, "ends_sentence": 0}),
        ("", {"lines": 0, "newline_share": 0}),
        ("一行\r\n两行", {"lines": 2, "mean_line_chars": 2}),
    ],
)
def test_lines_of_written_out_texts(text: str, expected: dict[str, float]) -> None:
    found = statistics([text])[0]
    assert {name: found[name] for name in expected} == pytest.approx(expected)
    assert found == pytest.approx(plain_statistics(text))


PIECES = st.sampled_from(["甲", "乙。", "…", "...", "展开", "更多", ">", "\n", "\n", " ", "-", "”"])


@hypothesis_settings(deadline=None, max_examples=300)
@given(st.lists(st.lists(PIECES, max_size=20).map("".join), max_size=5))
def test_lines_equal_the_plain_count_in_every_row(texts: list[str]) -> None:
    for found, text in zip(statistics(texts), texts, strict=True):
        assert found == pytest.approx(plain_statistics(text), abs=1e-6)


def test_a_thousand_lines_are_compared_with_each_other() -> None:
    lines = [f"第{number % 700}行" for number in range(1_000)]
    alone, with_lines, after = statistics(["第1行", "\n".join(lines), "第1行"])
    assert with_lines["duplicate_line_share"] == pytest.approx(0.3)
    assert alone["duplicate_line_share"] == after["duplicate_line_share"] == 0
