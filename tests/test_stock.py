import pickle
from collections.abc import Callable

import pyarrow as pa
import pytest
from datatrove.pipeline.filters import C4ParagraphFilter, LambdaFilter, RegexFilter
from datatrove.pipeline.filters.base_filter import BaseFilter

from curation.signals import FAMILIES, compute, versions
from curation.stock import stock_filter_signal

ROWS = pa.table(
    {
        "pair_id": pa.array([1, 2, 3], pa.int64()),
        "query": ["今天天气", None, "坏的问题"],
        "positive": ["天气很好。", "重复\n重复\n重复\n重复", "坏的回答"],
        "url": ["https://example.com", None, None],
    }
)


def verdicts(filter: BaseFilter, side: str) -> list[tuple[bool | None, str | None]]:
    family = stock_filter_signal("stock", filter, side)
    found = compute(
        ROWS, [f"{side}_stock_kept", f"{side}_stock_reason"], families=[*FAMILIES, family]
    )
    return list(zip(*(found.column(number).to_pylist() for number in (1, 2)), strict=True))


def test_the_verdict_and_the_reason_become_columns_and_no_row_is_dropped() -> None:
    paragraphs = C4ParagraphFilter()
    paragraphs.min_paragraph_len = 2
    found = verdicts(paragraphs, "passage")
    assert found == [(False, "< 3 paragraphs"), (True, None), (False, "< 3 paragraphs")]


def test_a_missing_query_is_not_judged() -> None:
    assert verdicts(RegexFilter("坏"), "query") == [(True, None), (None, None), (False, None)]


def test_a_pair_is_judged_as_one_text() -> None:
    only_newlines = LambdaFilter(lambda document: document.text == "今天天气\n天气很好。")
    assert verdicts(only_newlines, "pair") == [(True, None), (None, None), (False, None)]


def test_the_filter_sees_id_and_url() -> None:
    with_url = LambdaFilter(lambda d: d.id == "1" and d.metadata["url"] == "https://example.com")
    assert verdicts(with_url, "passage")[0] == (True, None)


class InBatches(BaseFilter):
    """Refuses what its batch says, and fails on one text."""

    def __init__(self) -> None:
        super().__init__(batch_size=2)
        self.sizes: list[int] = []

    def filter(self, doc: object) -> bool:
        raise NotImplementedError

    def filter_batch(self, batch: list) -> list[tuple[bool, str]]:
        self.sizes.append(len(batch))
        if any("重复" in doc.text for doc in batch):
            raise ZeroDivisionError("no words")
        return [(False, doc.text[:1]) for doc in batch]


def test_a_filter_that_fails_on_a_text_says_so_there_and_judges_the_others() -> None:
    failing = InBatches()
    assert verdicts(failing, "passage") == [
        (False, "天"),
        (None, "ZeroDivisionError: no words"),
        (False, "坏"),
    ]
    assert failing.sizes == [2, 1, 1, 1]


def test_a_filter_that_cannot_run_at_all_is_an_error() -> None:
    def needs_a_package(_: object) -> bool:
        raise ImportError("install spacy")

    with pytest.raises(ImportError, match="install spacy"):
        verdicts(LambdaFilter(needs_a_package), "passage")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: stock_filter_signal("a b", RegexFilter("x"), "query"), "'a b' cannot be part"),
        (lambda: stock_filter_signal("a", RegexFilter("x"), "title"), "query, passage, pair"),
        (lambda: stock_filter_signal("a", print, "query"), "is no datatrove filter"),
    ],
)
def test_refuses_what_is_no_filter(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_a_family_travels_to_workers_and_has_a_version_of_its_own() -> None:
    first = stock_filter_signal("a", RegexFilter("x"), "query")
    assert pickle.loads(pickle.dumps(first.compute)).name == "a"
    second = stock_filter_signal("a", RegexFilter("y"), "query", version=2)
    assert versions(families=[first])["query_a_kept"] != versions(families=[second])["query_a_kept"]
