"""Reading: a bad row goes to quarantine with its bytes, a bad file stops with what to do."""

import io
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from curation.reading import SourceFileError, SourceSettings
from tests.sources import TWO, as_arrow, as_parquet, jsonl, pack, read, reasons, sides, write

GOOD = b'{"query": "q", "positive": "p"}\n'


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"query": "q", "positive": 5}', "positive is a number, not a text"),
        (b'{"query": {"a": 1}, "positive": "p"}', "query is an object, not a text"),
        (b'{"query": "q"}', "positive is missing"),
        (b'{"query": null, "positive": "p"}', "query is missing"),
        (b'{"query": "", "positive": "p"}', "query is empty"),
        ('{"query": "q", "positive": " \u3000\u200b\\n"}'.encode(), "positive is empty"),
        (b'{"query": "q", "positive": "a\\u0000b"}', "positive holds a NUL character"),
        (b'{"query": "q", "positive": "' + b"x" * 101 + b'"}',
         "positive is longer than max_text_bytes"),
        (b'{"query": "q", "positive": "\xff\xfe"}', "row is not valid UTF-8"),
        (b'{"query": "q", "positive": "\\ud800"}', "row holds a lone surrogate"),
        (b'{"query": "q", "positive": "p"', "row is not valid JSON: "),
        (b"\0\0\0", "row is not valid JSON: "),
        (b'["q", "p"]', "row is a list, not an object"),
        (b'"text"', "row is a text, not an object"),
        (b"null", "row is null, not an object"),
        (b'{"query": "q", "positive": "' + b"x" * 999 + b'"}', "row is longer than max_row_bytes"),
        (b'{"query": "q", "positive": "p", "z": "' + b"z" * 99 + b'"}',
         "meta is longer than max_text_bytes"),
    ],
)  # fmt: skip
def test_a_bad_line_is_quarantined_with_its_bytes(tmp_path, line, reason):
    path = write(tmp_path, "a.jsonl", GOOD + line + b"\n\n" + GOOD)
    settings = SourceSettings(max_text_bytes=100, max_row_bytes=900)
    pairs, quarantine = read(path, settings, file_id=9)
    assert [pair["pair_id"] for pair in pairs] == [9 << 32, (9 << 32) + 3]
    assert [(row["file_id"], row["row"], row["raw"]) for row in quarantine] == [(9, 1, line)]
    assert quarantine[0]["reason"].startswith(reason)  # the JSON parser's own words may follow


def test_raw_bytes_are_cut(tmp_path):
    line = b'{"query": 1, "positive": "' + b"x" * (1 << 17) + b'"}'
    _, quarantine = read(write(tmp_path, "a.jsonl", GOOD + line))
    assert quarantine[0]["raw"] == line[: 1 << 16]


def parquet_of_bytes(path, values, *, as_texts):
    positives = pa.array(values, pa.binary())
    if as_texts:
        positives = positives.view(pa.string())
    size = len(values)
    pq.write_table(
        pa.table({"query": ["q"] * size, "positive": positives, "id": range(size)}), path
    )
    return path


def test_broken_utf8_in_parquet_costs_one_row(tmp_path):
    values = ["好".encode(), b"\xe5\xa5", b"fine", b"\xff", b""]
    path = parquet_of_bytes(tmp_path / "a.parquet", values, as_texts=True)
    pairs, quarantine = read(path)
    assert [pair["file_row"] for pair in pairs] == [0, 2]
    assert reasons(quarantine) == [
        (1, "positive is not valid UTF-8"),
        (3, "positive is not valid UTF-8"),
        (4, "positive is empty"),
    ]
    assert quarantine[0]["raw"] == b'{"query":"q","positive":"\xe5\xa5","id":1}'


def test_texts_that_a_parquet_file_calls_binary_are_texts(tmp_path):
    values = ["好".encode(), b"\xff"]
    path = parquet_of_bytes(tmp_path / "a.parquet", values, as_texts=False)
    pairs, quarantine = read(path)
    assert sides(pairs) == [("q", "好")]
    assert reasons(quarantine) == [(1, "positive is not valid UTF-8")]


@pytest.mark.parametrize(
    "column",
    [
        pa.array(["a", "b", "a"]).dictionary_encode(),
        pa.array(["a", "b", "a"], pa.large_string()),
        pa.array(["a", "b", "a"], pa.string_view()),
    ],
)
def test_any_arrow_text_type_is_a_text(tmp_path, column):
    table = pa.table({"query": ["1", "2", "3"], "positive": column})
    with pa.ipc.new_file(tmp_path / "a.arrow", table.schema) as writer:
        writer.write_table(table)
    assert [pair["positive"] for pair in read(tmp_path / "a.arrow")[0]] == ["a", "b", "a"]


def test_a_column_of_another_type_is_no_text(tmp_path):
    path = write(tmp_path, "a.parquet", as_parquet([{"query": "q", "positive": 3}]))
    with pytest.raises(ValueError, match="no columns are known"):
        read(path)
    with pytest.raises(
        SourceFileError, match=r"not one of its rows is a pair \(1 rows: positive is a num"
    ):
        read(path, SourceSettings(fields={"query": "query", "positive": "positive"}))


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        (b"q,p,more", "row has 3 fields, the header 2"),
        (b"q", "row has 1 fields, the header 2"),
        (b"q,\xff", "row is not valid UTF-8"),
        (b"q,", "positive is empty"),
        (b"q,a\0b", "positive holds a NUL character"),
        (b"q," + b"x" * 300, "row is longer than max_row_bytes"),
        (b'q,"a\nb",c', "row has 3 fields, the header 2"),
    ],
)
def test_a_bad_csv_record_is_quarantined_with_its_bytes(tmp_path, record, reason):
    path = write(tmp_path, "a.csv", b"query,positive\nq1,p1\n" + record + b"\n\nq3,p3\n")
    pairs, quarantine = read(path, SourceSettings(max_row_bytes=200))
    assert [(pair["query"], pair["file_row"]) for pair in pairs] == [("q1", 0), ("q3", 2)]
    assert [(row["row"], row["reason"], row["raw"]) for row in quarantine] == [(1, reason, record)]


@pytest.mark.parametrize("rows_after", [3, 50])
def test_a_quote_that_is_never_closed_costs_its_line_only(tmp_path, rows_after):
    rest = b"".join(b"q%d,p%d\n" % (row, row) for row in range(rows_after))
    path = write(tmp_path, "a.csv", b'query,positive\nq,"open\n' + rest)
    pairs, quarantine = read(path, SourceSettings(max_row_bytes=100))
    assert len(pairs) == rows_after
    assert [(row["reason"], row["raw"]) for row in quarantine] == [
        ("a quote is opened and never closed", b'q,"open')
    ]


def long_rows(count=3000):
    return [{"query": f"问题{i * 7919}", "positive": f"答案{i * 104729}"} for i in range(count)]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", b"", "is empty"),
        ("a.jsonl", b"\n\n", "holds no rows"),
        ("a.jsonl.gz", pack(b""), "holds no rows"),
        ("a.csv", b"query,positive\n", "holds no rows"),
        ("a.csv", b"query,query\na,b\n", "empty or equal names"),
        ("a.csv", "问题,答案\n".encode("gb18030"), "the header cannot be read.*iconv"),
        ("a.jsonl", '{"query": "q"}'.encode("utf-16"), "is UTF-16"),
        ("a.parquet", jsonl(*TWO), "is named parquet but begins with"),
        ("a.parquet", as_parquet()[:-20], "cannot be read"),
        ("a.parquet.gz", pack(as_parquet()), "is parquet in gzip; decompress"),
        ("a.arrow", as_arrow(pa.ipc.new_file)[:-20], "cannot be read"),
        ("a.arrow", as_arrow(pa.ipc.new_stream)[:-8], "has no end mark"),
        ("a.arrow", as_arrow(pa.ipc.new_file, names=["query", "query"]), "columns of equal names"),
        ("a.json", json.dumps(TWO).encode()[:-1], "the JSON array has no end"),
        ("a.json", json.dumps(TWO).encode() + b"{}", "more after the JSON array"),
        ("a.txt", b"hello", "has no format that is known.*readable are JSONL"),
        ("a.zip", b"PK\3\4....", "has no format that is known"),
        ("a.jsonl", b"not json\n", "none of its first 1 rows can be read"),
        ("a.jsonl", jsonl({"a": "1", "b": "2"}), "no columns are known.*columns are a, b"),
        ("a.jsonl", jsonl({"query": "", "positive": "p"}), "not one of its rows is a pair"),
        ("a.parquet", as_parquet()[:4] + b"0" * 99, "cannot be read"),
    ],
)  # fmt: skip
def test_a_bad_file_is_an_error_that_says_what_to_do(tmp_path, name, content, message):
    with pytest.raises(ValueError, match=f"(?s){name}.*{message}"):
        read(write(tmp_path, name, content))


def test_a_missing_file_is_an_error(tmp_path):
    with pytest.raises(SourceFileError, match="does not exist"):
        read(tmp_path / "none.jsonl")


@pytest.mark.parametrize("compress", [pack, zstandard.compress])
def test_a_truncated_file_says_which_row_was_reached(tmp_path, compress, monkeypatch):
    monkeypatch.setattr("curation.reading.lines.BLOCK_BYTES", 4096)
    content = compress(jsonl(*long_rows(9000)))
    path = write(tmp_path, "a.jsonl.x", content[: len(content) * 3 // 4])
    with pytest.raises(
        SourceFileError, match=r"Truncated.*\(reached row [\d,]+\); get the file"
    ) as error:
        read(path)
    assert 1000 < error.value.row < 9000


def test_damage_inside_a_parquet_file_says_which_row_was_reached(tmp_path):
    content = bytearray(as_parquet(long_rows(), row_group_size=1000, compression="zstd"))
    groups = pq.ParquetFile(io.BytesIO(content)).metadata
    start = groups.row_group(2).column(1).data_page_offset
    content[start : start + 500] = b"\xff" * 500
    path = write(tmp_path, "a.parquet", bytes(content))
    with pytest.raises(SourceFileError, match=r"cannot be read: .*\(reached row 2,000\)"):
        read(path, batch_rows=1000)


def test_the_error_survives_the_way_back_from_a_worker():
    import pickle

    error = SourceFileError("a.jsonl", "is empty", "leave it out", 3)
    assert (
        str(pickle.loads(pickle.dumps(error)))
        == str(error)
        == ("a.jsonl: is empty (reached row 3); leave it out")
    )


def test_ordinals_beyond_32_bits_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("curation.reading.reader.ORDINALS", 2)
    with pytest.raises(SourceFileError, match="makes more than 2 rows; split the file"):
        read(write(tmp_path, "a.jsonl", GOOD * 3))
