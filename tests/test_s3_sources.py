"""Source files on S3: read as files here are, from a real server of its protocol."""

import glob
import importlib.util
import io
import os
from collections.abc import Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from typer.testing import CliRunner

import lode
from catalog.errors import CatalogError
from catalog.executors import ExecutorSettings
from catalog.lake import Catalog
from catalog.maintenance import check_catalog
from catalog.s3 import find_access
from curation.extract import extract_pages, find_pages
from curation.ingest import ReadFiles, find_sources, ingest_files
from curation.reading import SourceFileError
from curation.reading.formats import SOURCE_SUFFIXES
from curation.reading.objects import FIRST_BYTES, ObjectPath, find_object, find_objects
from curation.recipes import load_sources
from tests.s3_server import S3Server
from tests.sources import TWO, as_arrow, as_csv, as_parquet, jsonl, pack
from tests.tiny_catalog import copy_catalog, fetch
from tests.web_pages import page, warc

ALONE = ExecutorSettings(workers=1)
BROKEN = b'{"query": "q3"}\nno json\n{"query": "", "positive": "p"}\n'
FILES = {
    "a.jsonl": jsonl(*TWO) + BROKEN,
    "b.jsonl.gz": pack(jsonl(*TWO).replace(b"q2", b"q3")),
    "c.jsonl.zst": zstandard.compress(jsonl(*TWO).replace(b"q2", b"q4")),
    "d.csv": as_csv(",").replace(b"q2", b"q5"),
    "e.parquet": as_parquet([{"query": f"q{n}", "positive": f"p{n} " * 50} for n in range(3_000)]),
    "f.arrow": as_arrow(pa.ipc.new_stream),
    "g.arrow": as_arrow(pa.ipc.new_file, [{"a": "q7", "b": "p7"}]),
    "h.json": b'[{"query": "q8", "positive": "p8"},\n {"query": "q9", "positive": "p9"}]',
    "sub/i.tsv": as_csv("\t").replace(b"q2", b"q10"),
}

pytestmark = [
    pytest.mark.s3,
    pytest.mark.skipif(
        importlib.util.find_spec("moto") is None, reason="moto, an S3 server, is not installed"
    ),
]


def put(place: str, files: Mapping[str, bytes]) -> None:
    """Write objects below a place."""
    bucket, _, folder = place.removeprefix("s3://").partition("/")
    client = find_access().client
    for name, content in files.items():
        key = f"{folder}/{name}" if folder else name
        client.put_object(Bucket=bucket, Key=key, Body=content)


def ingest(catalog: Catalog, *patterns: str, replace: bool = False) -> list[str]:
    """Ingest, and return the files that were read by their last names."""
    done = ingest_files(catalog, find_sources(patterns), replace=replace, executor=ALONE)
    return [Path(file.path).name for file in done.files]


def failure_of(catalog: Catalog, pattern: str) -> str | None:
    try:
        ingest(catalog, pattern)
    except CatalogError as error:
        return str(error)
    return None


def content(catalog: Catalog) -> list[object]:
    """Everything that an ingest makes, but where its files were."""
    return [
        fetch(catalog, "select * from pairs order by pair_id"),
        fetch(catalog, "select * from quarantine order by all"),
        fetch(catalog, "select file_id, source, size, rows, quarantined from files order by 1"),
        fetch(catalog, "select source, form, task, fields from sources order by 1"),
    ]


def test_every_format_is_read_as_it_is_here(
    s3: str, tmp_path: Path, empty_catalog: Catalog
) -> None:
    here, there = (copy_catalog(empty_catalog, tmp_path / name) for name in ("here", "there"))
    for name, data in FILES.items():
        path = tmp_path / "raw" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    put(f"{s3}/raw", FILES)
    # By the same order, as the numbers of files are part of the ids.
    names = list(FILES)
    ingest(here, *(str(tmp_path / "raw" / name) for name in names))
    assert len(ingest(there, f"{s3}/raw")) == len(names)  # a folder, at any depth
    assert content(there) == content(here)
    assert fetch(there, "select count(*) from quarantine") == [(3,)]
    places = fetch(there, "select path, sha256 from files order by file_id")
    assert [path for path, _ in places] == [f"{s3}/raw/{name}" for name in names]
    assert all(identity.startswith("etag:") for _, identity in places)
    assert fetch(there, "select distinct path from sources where source = 'a'") == [
        (f"{s3}/raw/a.jsonl",)
    ]
    assert check_catalog(there) == []
    assert ingest(there, f"{s3}/raw/**") == []  # all of it is in the catalog


def test_a_changed_object_is_refused_and_the_same_content_adds_nothing(
    s3: str, catalog: Catalog
) -> None:
    put(s3, {"a.jsonl": jsonl(*TWO), "copy.jsonl": jsonl(*TWO)})
    assert ingest(catalog, f"{s3}/*.jsonl") == ["a.jsonl"]
    put(s3, {"a.jsonl": jsonl({"query": "new", "positive": "text"})})
    with pytest.raises(CatalogError, match=rf"{s3}/a\.jsonl has changed since it was ingested"):
        ingest(catalog, f"{s3}/a.jsonl")
    assert ingest(catalog, f"{s3}/a.jsonl", replace=True) == ["a.jsonl"]
    assert fetch(catalog, "select query from pairs") == [("new",)]


@pytest.mark.parametrize(
    "pattern",
    ["*", "*.jsonl", "*/*.jsonl", "**/*.jsonl", "**", "part-?.csv", "part-[0-1].csv",
     "part-[!0].csv", "d*/**/x.*", "a b/*", "[[]1].csv"],
)  # fmt: skip
def test_patterns_mean_what_they_mean_here(s3: str, tmp_path: Path, pattern: str) -> None:
    names = [
        "a.jsonl", ".hidden.jsonl", "part-0.csv", "part-1.csv", "part-10.csv", "d1/x.jsonl",
        "d1/d2/x.jsonl", "d1/.tmp/x.jsonl", "d3/x.csv", "a b/中文.csv", "[1].csv",
    ]  # fmt: skip
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"1")
    put(s3, dict.fromkeys(names, b"1"))
    here = glob.glob(pattern, root_dir=tmp_path, recursive=True)
    files = sorted({name for name in here if (tmp_path / name).is_file()})
    assert files
    found = [one.key for one in find_objects(f"{s3}/{pattern}", SOURCE_SUFFIXES)]
    assert sorted(found) == files


def test_a_name_with_the_signs_of_a_pattern_is_itself(s3: str, catalog: Catalog) -> None:
    put(s3, {"x[1].jsonl": jsonl(*TWO)})
    assert ingest(catalog, f"{s3}/x[1].jsonl") == ["x[1].jsonl"]


def test_what_is_wrong_is_said_before_anything_is_read(
    s3: str, catalog: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(s3, {"set/state.json": b"{}", "set/data-0.arrow": b"1", "empty.jsonl": b"", "x/y.txt": b""})
    for place, said in (
        ("s3://", "names no bucket"),
        ("s3://lode-none/x/*.jsonl", r"s3://lode-none: does not exist; check the bucket's name"),
        ("s3://lode-none/x", r"s3://lode-none: does not exist"),
        (f"{s3}/none/*.jsonl", r"none/\*\.jsonl: matches no object"),
        (f"{s3}/none", "none: does not exist; check bucket and key"),
        (f"{s3}/x/", "x/: is a folder without a source file; these end in .arrow"),
        (f"{s3}/set", r"save_to_disk .*name its Arrow files: s3://lode-\d+/set/\*\.arrow"),
        (f"{s3}/empty.jsonl", r"empty\.jsonl: is empty; leave it out"),
    ):
        with pytest.raises((SourceFileError, ValueError), match=said):
            ingest(catalog, place)
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    done = CliRunner().invoke(lode.app, ["ingest", f"{s3}/a.jsonl", "-c", catalog.location.url])
    assert "no credentials for S3 were found; set AWS_ACCESS_KEY_ID" in str(done.exception)
    assert fetch(catalog, "select count(*) from files") == [(0,)]


@pytest.mark.slow
def test_a_server_that_goes_away_costs_only_what_is_not_read_yet(
    s3: str, s3_server: S3Server, catalog: Catalog
) -> None:
    """The same command is run on a server that stops after more and more requests."""
    put(s3, {f"{n}.jsonl": jsonl({"query": f"q{n}", "positive": f"p{n}"}) for n in range(3)})
    failures, kept = 0, 0
    for requests in range(0, 200, 2):
        s3_server.answer(requests)
        said = failure_of(catalog, f"{s3}/*.jsonl")
        s3_server.answer()
        if said is None:
            break
        failures += 1
        assert "when S3 answers, run the same command again" in said
        assert fetch(catalog, "select count(*) from pairs") == [(0,)]
        kept = max(kept, len(list(catalog.jobs_folder.glob("ingest-*/manifests/read-*"))))
    assert failures >= 3
    assert kept in (1, 2)  # and these files were not read again
    assert fetch(catalog, "select query from pairs order by 1") == [("q0",), ("q1",), ("q2",)]
    assert check_catalog(catalog) == []


def test_an_object_that_is_replaced_meanwhile_is_not_read(s3: str) -> None:
    put(s3, {"a.jsonl": jsonl(*TWO) * 10_000})
    path = find_object(f"{s3}/a.jsonl")
    with path.open() as stream:
        assert stream.read(10) == b'{"query":"'
        put(s3, {"a.jsonl": jsonl(*TWO) * 10_000 + b"\n"})
        with pytest.raises(CatalogError, match=r"a\.jsonl: changed while it was read"):
            stream.read()
    # The same before a worker begins: the plan says which content is meant.
    (source,) = find_sources([str(path)])
    task = {
        "path": str(path), "sha256": path.identity, "bytes": source.bytes, "file_id": 1,
        "settings": source.settings.as_document(),
    }  # fmt: skip
    with pytest.raises(SourceFileError, match="changed while it was read"):
        list(ReadFiles([task]).run())


def test_a_connection_that_breaks_in_the_middle_is_tried_again(
    s3: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = os.urandom(3 * FIRST_BYTES)
    put(s3, {"data": data})
    path = find_object(f"{s3}/data")
    broken = []

    def cut(self: ObjectPath, amount: int | None = None) -> bytes:
        from botocore.exceptions import ReadTimeoutError

        if len(broken) % 2 == 0:
            broken.append(1)
            raise ReadTimeoutError(endpoint_url="here", error="the line was cut")
        broken.append(0)
        return bytes(self._raw_stream.read(amount))

    monkeypatch.setattr("botocore.response.StreamingBody.read", cut)
    with path.open() as stream:
        assert stream.read() == data
    assert sum(broken) >= 2


def test_any_place_of_an_object_can_be_read(s3: str) -> None:
    data = os.urandom(5 * FIRST_BYTES)
    put(s3, {"data": data})
    with find_object(f"{s3}/data").open() as stream:
        for start, count in ((0, 5), (FIRST_BYTES - 3, 9), (7, 2 * FIRST_BYTES), (len(data), 1)):
            assert stream.seek(start) == start
            assert stream.read(count) == data[start : start + count]
        assert stream.seek(-4, io.SEEK_END) == len(data) - 4
        assert stream.read() == data[-4:]


def test_a_whole_file_takes_few_requests(s3: str, s3_server: S3Server) -> None:
    """64 kB to 8 MB, twice as much each time: what a look at the first bytes costs is little."""
    put(s3, {"data": bytes(20 << 20)})
    path = find_object(f"{s3}/data")
    s3_server.answer(12)
    with path.open() as stream:
        while stream.read(1 << 20):
            pass
    s3_server.answer()


def test_pages_and_recipes_name_objects_too(s3: str, catalog: Catalog, tmp_path: Path) -> None:
    crawl = warc(("https://example.com/1", page().encode()))
    put(f"{s3}/crawl", {"a.warc.gz": crawl, "b.jsonl": b"{}"})
    done = extract_pages(catalog, find_pages([f"{s3}/crawl/"]), executor=ALONE)
    assert (done.rows, done.quarantined) == (1, 0)
    assert fetch(catalog, "select url from pairs") == [("https://example.com/1",)]
    put(f"{s3}/raw", {"x.jsonl": jsonl(*TWO)})
    recipe = tmp_path / "mine.toml"
    recipe.write_text(f'[sources.forum]\npaths = ["{s3}/raw/*.jsonl"]\nlicense = "CC0"\n')
    ingest_files(catalog, find_sources(recipe=load_sources(recipe)), executor=ALONE)
    assert fetch(catalog, "select license, path from sources where source = 'forum'") == [
        ("CC0", f"{s3}/raw/x.jsonl")
    ]


def test_the_command_reads_row_groups_of_a_large_parquet(s3: str, catalog: Catalog) -> None:
    rows = [{"query": f"q{n}", "positive": os.urandom(500).hex()} for n in range(4_000)]
    out = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), out, row_group_size=1_000)
    put(s3, {"many.parquet": out.getvalue()})
    words = ["ingest", f"{s3}/many.parquet", "-c", catalog.location.url]
    done = CliRunner().invoke(lode.app, words)
    assert done.exit_code == 0, done.output
    assert "4,000 pairs" in done.output
    stored = fetch(catalog, "select query, positive from pairs order by pair_id")
    assert stored == [(row["query"], row["positive"]) for row in rows]
