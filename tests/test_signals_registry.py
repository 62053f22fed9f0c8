from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from curation.signals import (
    FAMILIES,
    PairBatch,
    SignalSettings,
    catalog_table,
    compute,
    markdown,
    signals,
    versions,
)
from curation.signals.registry import Columns, Family, Measure, count, registry

ROWS = pa.table(
    {
        "pair_id": pa.array([7, 8, 9], pa.int64()),
        "query": ["今天天气", None, "3.5 版"],
        "positive": ["今天天气很好。", "没有问题的文章", "版本 3.5"],
        "url": ["https://news.example.com/a", None, None],
    }
)


def chosen(batch: PairBatch, side: str, _: SignalSettings) -> Columns:
    """Numbers for tests."""
    return {"first": np.arange(len(batch)), "second": pa.array([None, "a", "b"])}


CHOSEN = Family(
    "chosen",
    ("query", "passage"),
    (count("first", "a number", "rows"), Measure("second", "a name", "name", pa.string())),
    chosen,
)


def test_a_new_signal_is_a_function_and_its_registration() -> None:
    found = compute(ROWS, ["query_first", "passage_second"], families=[*FAMILIES, CHOSEN])
    assert found.to_pydict() == {
        "pair_id": [7, 8, 9],
        "query_first": [0, None, 2],  # null where there is no query
        "passage_second": [None, "a", "b"],
    }


def test_every_signal_has_its_type_and_its_range_and_stands_in_the_order_asked() -> None:
    names = [*reversed(signals)]
    found = compute(ROWS, names)
    assert found.column_names == ["pair_id", *names]
    for name, signal in signals.items():
        column = found[name]
        assert column.type == signal.type
        values = [value for value in column.to_pylist() if value is not None]
        assert all(signal.measure.low is None or value >= signal.measure.low for value in values)
        assert all(signal.measure.high is None or value <= signal.measure.high for value in values)


def test_query_and_pair_signals_are_null_exactly_without_a_query() -> None:
    for name, column in zip(signals, compute(ROWS, list(signals)).columns[1:], strict=True):
        side = signals[name].side
        if side == "passage" and "domain" not in name and "blocked" not in name:
            assert column[1].as_py() is not None or "score" in name, name
        if side != "passage":
            assert column[1].as_py() is None, name


def test_a_record_batch_a_slice_and_chunks_give_the_same_values() -> None:
    names = list(signals)
    whole = compute(ROWS, names)
    assert compute(ROWS.to_batches()[0], names).equals(whole)
    assert compute(pa.concat_tables([ROWS[:1], ROWS[1:]]), names).equals(whole)
    assert compute(ROWS[1:], names).to_pylist() == whole[1:].to_pylist()
    assert compute(ROWS[:0], names).num_rows == 0


def test_families_that_are_not_asked_for_are_not_computed() -> None:
    def fails(batch: PairBatch, side: str, _: SignalSettings) -> Columns:
        raise AssertionError("was computed")

    other = Family("other", ("query",), (count("other", "a number", "rows"),), fails)
    compute(ROWS, ["passage_chars"], families=[*FAMILIES, other])
    only_passages = ROWS.select(["pair_id", "positive"])
    assert compute(only_passages, ["passage_chars"])["passage_chars"].to_pylist() == [7, 7, 6]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["passage_hann_share"], "no signal 'passage_hann_share': did you mean passage_han_share"),
        (["zzz"], "no signal 'zzz': `lode signals` lists them"),
        (["query_chars", "query_chars"], "asked for twice"),
    ],
)
def test_unknown_and_doubled_names_are_refused(names: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        compute(ROWS, names)


def test_a_missing_column_is_named() -> None:
    with pytest.raises(ValueError, match=r"no column 'query' in the batch: it has \['pair_id'"):
        compute(ROWS.select(["pair_id", "positive"]), ["query_chars"])


def test_two_signals_of_one_name_are_refused() -> None:
    with pytest.raises(ValueError, match="two signals are called query_first: rename"):
        registry([CHOSEN, CHOSEN])


def test_a_changed_list_changes_the_versions_it_decides_and_no_others(tmp_path: Path) -> None:
    words = tmp_path / "words.txt"
    words.write_text("红烧肉\n", "utf-8")
    before, after = versions(), versions(SignalSettings(word_lists=(words,)))
    changed = {name for name in signals if before[name] != after[name]}
    assert changed == {name for name in signals if name.endswith("_words")}
    words.write_text("清蒸鱼\n", "utf-8")
    assert versions(SignalSettings(word_lists=(words,)))["query_listed_words"] not in (
        before["query_listed_words"],
        after["query_listed_words"],
    )
    shorter = versions(SignalSettings(language_max_chars=100))
    assert {name for name in signals if before[name] != shorter[name]} == {
        name for name in signals if "_language" in name
    }


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"word_lists": ["/nowhere/words.txt"]}, "word_lists: there is no file /nowhere/words.txt"),
        ({"domain_lists": ["/nowhere"]}, "domain_lists: there is no file /nowhere"),
        ({"language_min_letters": 0}, "language_min_letters is 0: 1 or more"),
        ({"language_max_chars": 5}, r"at least language_min_letters \(10\)"),
    ],
)
def test_settings_are_checked_where_they_are_made(settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SignalSettings(**settings)


def test_every_signal_is_documented_once_and_in_full() -> None:
    table = catalog_table()
    assert table["signal"].to_pylist() == list(signals)
    for row in table.to_pylist():
        assert row["about"]
        assert row["unit"]
        assert row["source"]
    text = markdown()
    for family in FAMILIES:
        assert f"## {family.name}\n" in text
        for measure in family.measures:
            assert f"| `{measure.name}` | " in text
