"""Reading: files of every format give the same pairs, in batches of bounded size."""

import json

import pyarrow as pa
import pyarrow.compute as pc
import pytest
import zstandard

from curation.reading import SourceFileError, SourceSettings, inspect, read_pairs
from curation.texts import from_strings, normalize, text_keys
from tests.sources import (
    TWO,
    as_arrow,
    as_csv,
    as_parquet,
    jsonl,
    pack,
    read,
    reasons,
    sides,
    write,
)


@pytest.mark.parametrize(
    ("name", "content", "format_name"),
    [
        ("a.jsonl", jsonl(*TWO), "jsonl"),
        ("a.json", jsonl(*TWO), "jsonl"),
        ("a.jsonl", jsonl(*TWO)[:-1], "jsonl"),  # no line end at the end
        ("a.jsonl", b"\xef\xbb\xbf" + jsonl(*TWO).replace(b"\n", b"\r\n"), "jsonl"),
        ("a.jsonl.gz", pack(jsonl(TWO[0])) + pack(jsonl(TWO[1])), "jsonl (gzip)"),
        ("a.jsonl.zst", zstandard.compress(jsonl(*TWO)), "jsonl (zstd)"),
        ("a.json", json.dumps(TWO, indent=2).encode(), "json-array"),
        ("a.json.gz", pack(json.dumps(TWO).encode()), "json-array (gzip)"),
        ("a.csv", as_csv(","), "csv"),
        ("a.csv", b"\xef\xbb\xbf" + as_csv(",", "\r\n"), "csv"),
        ("a.tsv", as_csv("\t"), "tsv"),
        ("a.tsv.gz", pack(as_csv("\t")), "tsv (gzip)"),
        ("a.parquet", as_parquet(), "parquet"),
        ("no_suffix", as_parquet(), "parquet"),
        ("a.arrow", as_arrow(pa.ipc.new_file), "arrow"),
        ("a.arrow", as_arrow(pa.ipc.new_stream), "arrow"),
    ],
)
def test_every_format_gives_the_same_pairs(tmp_path, name, content, format_name):
    path = write(tmp_path, name, content)
    assert inspect(path).format == format_name
    pairs, quarantine = read(path)
    assert sides(pairs) == [(row["query"], row["positive"]) for row in TWO]
    assert quarantine == []
    assert {pair["source"] for pair in pairs} == {path.name.split(".")[0]}


def test_a_pair_has_ids_that_say_its_row_and_keys_of_its_normalized_texts(tmp_path):
    path = write(tmp_path, "a.jsonl", jsonl(*TWO, {"query": " Ｑ２！", "positive": "P2。"}))
    pairs, _ = read(path, file_id=5)
    assert [pair["pair_id"] for pair in pairs] == [(5 << 32) + row for row in range(3)]
    assert [pair["file_row"] for pair in pairs] == [0, 1, 2]
    expected = text_keys(normalize(from_strings(["因为散射"])))[0].as_py()
    assert pairs[0]["positive_key"] == expected
    assert pairs[1]["pair_key"] == pairs[2]["pair_key"] != pairs[0]["pair_key"]
    assert pairs[2]["query"] == " Ｑ２！"  # stored as it was read


def test_a_hugging_face_folder_is_read_without_the_datasets_library(tmp_path):
    datasets = pytest.importorskip("datasets")
    train = datasets.Dataset.from_list(TWO)
    train.save_to_disk(tmp_path / "one", num_shards=2)
    assert sides(read(tmp_path / "one")[0]) == sides(TWO)
    datasets.DatasetDict({"train": train, "dev": train.select([1])}).save_to_disk(tmp_path / "all")
    pairs, _ = read(tmp_path / "all" / "dev")
    assert sides(pairs) == [("q2", "p2")]
    assert pairs[0]["source"] == "all.dev"
    with pytest.raises(
        SourceFileError, match="several splits; read one of its folders: train, dev"
    ):
        read(tmp_path / "all")


def test_a_csv_field_may_hold_quotes_delimiters_and_line_ends(tmp_path):
    content = b'query,positive\r\n"a ""b"", c","line 1\r\nline 2"\r\nq,p\r\n'
    pairs, quarantine = read(write(tmp_path, "a.csv", content))
    assert sides(pairs) == [('a "b", c', "line 1\r\nline 2"), ("q", "p")]
    assert quarantine == []


def test_csv_quotes_can_be_characters_like_others(tmp_path):
    path = write(tmp_path, "a.tsv", b'query\tpositive\n"open\tp1\nq2\tp2\n')
    assert sides(read(path, SourceSettings(csv_quotes=False))[0]) == [('"open', "p1"), ("q2", "p2")]


def test_json_arrays_are_cut_between_any_two_bytes(tmp_path, monkeypatch):
    rows = [{"query": 'a"]},\\', "positive": "[1]", "more": {"b": [[], {}]}}, *TWO]
    path = write(tmp_path, "a.json", json.dumps(rows).encode())
    whole = read(path)
    for size in (1, 2, 7):
        monkeypatch.setattr("curation.reading.lines.BLOCK_BYTES", size)
        assert read(path) == whole
    assert sides(whole[0])[0] == ('a"]},\\', "[1]")


def test_lines_are_cut_between_any_two_bytes(tmp_path, monkeypatch):
    path = write(tmp_path, "a.jsonl", jsonl(*TWO, {"query": "x" * 300, "positive": "p"}, *TWO))
    settings = SourceSettings(max_row_bytes=100)
    whole = read(path, settings)
    for size in (4, 30, 99, 100, 101, 150):
        monkeypatch.setattr("curation.reading.lines.BLOCK_BYTES", size)
        pairs, quarantine = read(path, settings)
        assert pairs == whole[0]
        assert reasons(quarantine) == [(2, "row is longer than max_row_bytes")]


def test_batches_have_at_most_the_wanted_rows_and_the_same_content(tmp_path):
    rows = [{"query": f"q{i}", "positive": f"p{i}"} for i in range(10)]
    for name, content in (
        ("a.jsonl", jsonl(*rows)),
        ("a.parquet", as_parquet(rows, row_group_size=4)),
        ("b.arrow", as_arrow(pa.ipc.new_stream, rows, max_chunksize=4)),
    ):
        path = write(tmp_path, name, content)
        sizes = [batch.rows for batch in read_pairs(path, SourceSettings(), 1, batch_rows=3)]
        assert max(sizes) <= 3
        assert sum(sizes) == 10
        assert read(path, batch_rows=3) == read(path)


def test_the_column_check_and_the_text_check_are_one_rule():
    from curation.reading.faults import Faults
    from curation.reading.soundness import column_faults, text_fault

    texts = ["", " ", "\u200b", "\u3000\t", "a", " a", "\u200ba", "a\0", "\0", "好" * 4, "好" * 3,
             "x" * 10, "x" * 11, "\u2028", "\U000e0001", "\ufeff.", "\u00ad"]  # fmt: skip
    faults = Faults()
    column_faults(pa.array([*texts, None]), "it", 10, faults)
    expected = {
        at: f"it {text_fault(text, 10)}" for at, text in enumerate(texts) if text_fault(text, 10)
    }
    assert {at: next(iter(why)) for at, why in faults.reasons.items()} == expected
    assert {0, 1, 2, 3, 7, 8, 9, 12, 13, 14, 16} == set(expected)


def test_a_sliced_column_is_read_from_its_own_rows(tmp_path):
    rows = [{"query": f"q{i}", "positive": f"p{i}" if i % 3 else ""} for i in range(10)]
    pairs, quarantine = read(write(tmp_path, "a.parquet", as_parquet(rows)), batch_rows=4)
    assert [pair["query"] for pair in pairs] == [f"q{i}" for i in range(10) if i % 3]
    assert [row["row"] for row in quarantine] == [0, 3, 6, 9]
    assert pc.count_distinct(pa.array([str(pair["positive_key"]) for pair in pairs])).as_py() == 6
