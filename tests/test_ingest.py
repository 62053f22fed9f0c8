"""Ingest: files become visible together or not at all, and the same content only once."""

import gzip
import json
import os
import resource
import subprocess

import pytest

from catalog.errors import CatalogError
from catalog.executors import ExecutorSettings
from catalog.lake import Catalog
from curation.ingest import STAGE, ReadFiles, describe_sources, find_sources, ingest_files
from curation.reading import SourceFileError
from tests.sources import TWO, as_parquet, jsonl, write

ALONE = ExecutorSettings(workers=1)
TABLES = ("pairs", "quarantine", "files", "sources", "runs", "task_files")


@pytest.fixture
def catalog(tmp_path):
    return Catalog.create(str(tmp_path / "corpus"))


def ingest(catalog, *paths, maps=(), sets=(), **options):
    return ingest_files(catalog, find_sources(paths, maps, sets), executor=ALONE, **options)


def rows(catalog, sql, version=None):
    with catalog.reader(version) as connection:
        return connection.execute(sql).fetchall()


def counts(catalog):
    return {table: rows(catalog, f"select count(*) from {table}")[0][0] for table in TABLES}


def test_files_become_pairs_quarantine_and_a_record_of_what_was_read(catalog, tmp_path):
    bad = b'{"query": "q", "positive": ""}\n'
    first = write(tmp_path, "news.jsonl", jsonl(*TWO) + bad)
    second = write(tmp_path, "a.parquet", as_parquet([{"text1": "x", "text2": "y", "site": "s1"}]))
    sources = find_sources([first], sets=["form=title-content", "language=zh", "license=MIT"])
    sources += find_sources([second], ["query=text1", "positive=text2", "source=site"])
    result = ingest_files(catalog, sources, executor=ALONE)
    assert result.summary() == "3 pairs and passages from 2 files, 1 rows in quarantine"
    assert rows(catalog, "select source, form, query from pairs order by pair_id") == [
        ("news", "title-content", TWO[0]["query"]),
        ("news", "title-content", "q2"),
        ("s1", "text-text", "x"),
    ]
    assert rows(catalog, "select file_id, row, reason, raw from quarantine") == [
        (1, 2, "positive is empty", bad[:-1])
    ]
    files = rows(catalog, "select file_id, source, path, size, rows, quarantined from files")
    assert sorted(files) == [
        (1, "news", str(first), first.stat().st_size, 2, 1),
        (2, "a", str(second), second.stat().st_size, 1, 0),
    ]
    known = (
        "select source, form, task, language, license, path, fields from sources order by source"
    )
    assert rows(catalog, known) == [
        ("news", "title-content", "retrieval", "zh", "MIT", str(first),
         '{"positive":"positive","query":"query"}'),
        ("s1", "text-text", "retrieval", None, None, str(second),
         '{"positive":"text2","query":"text1","source":"site"}'),
    ]  # fmt: skip
    assert rows(catalog, "select count(*) from pairs where pair_id >> 32 not in (1, 2)") == [(0,)]


def test_the_same_content_adds_nothing_under_any_name(catalog, tmp_path):
    path = write(tmp_path, "a.jsonl", jsonl(*TWO))
    ingest(catalog, path)
    before, version = counts(catalog), catalog.version()
    copy = write(tmp_path, "copy.jsonl", path.read_bytes())
    result = ingest(catalog, path, copy)
    assert result.skipped == [str(path), str(copy)]
    assert result.summary() == "2 files skipped: the catalog holds their content"
    assert (counts(catalog), catalog.version()) == (before, version)


def test_two_files_of_one_content_are_read_once(catalog, tmp_path):
    paths = [write(tmp_path, name, jsonl(*TWO)) for name in ("a.jsonl", "b.jsonl")]
    assert ingest(catalog, *paths).skipped == [str(paths[1])]
    assert counts(catalog)["pairs"] == 2


def test_a_changed_file_is_refused_unless_it_replaces_the_old_one(catalog, tmp_path):
    path = write(tmp_path, "a.jsonl", jsonl(*TWO))
    other = write(tmp_path, "b.jsonl", jsonl({"query": "b", "positive": "b"}))
    ingest(catalog, path, other)
    before, version = counts(catalog), catalog.version()
    path.write_bytes(jsonl({"query": "new", "positive": "p"}))
    with pytest.raises(CatalogError, match=r"a\.jsonl has changed since .* with --replace"):
        ingest(catalog, path)
    assert counts(catalog) == before
    result = ingest(catalog, path, replace=True)
    assert result.replaced == [str(path)]
    assert rows(catalog, "select query from pairs order by query") == [("b",), ("new",)]
    assert rows(catalog, "select count(*), count(distinct path) from files") == [(2, 2)]
    assert rows(catalog, "select count(*) from pairs", version) == [(3,)]  # the past stays
    path.write_bytes(jsonl(*TWO))  # and back again
    assert ingest(catalog, path, replace=True).rows == 2
    assert counts(catalog)["pairs"] == 3


def test_files_can_change_places_but_not_become_another(catalog, tmp_path):
    rows_of = [jsonl({"query": name, "positive": "p"}) for name in ("1", "2")]
    paths = [write(tmp_path, f"{i}.jsonl", content) for i, content in enumerate(rows_of)]
    ingest(catalog, *paths)
    paths[0].write_bytes(rows_of[1])
    with pytest.raises(CatalogError, match=r"0\.jsonl now has the content of another file"):
        ingest(catalog, paths[0], replace=True)
    paths[1].write_bytes(rows_of[0])
    assert len(ingest(catalog, *paths, replace=True).replaced) == 2
    found = rows(catalog, "select source, query from pairs order by source")
    assert found == [("0", "2"), ("1", "1")]


def test_other_settings_are_refused_unless_they_replace_the_old_ones(catalog, tmp_path):
    path = write(tmp_path, "a.jsonl", jsonl({"text1": "a", "text2": "b"}))
    ingest(catalog, path)
    swap = ["query=text2", "positive=text1"]
    with pytest.raises(CatalogError, match=r"was ingested with other settings; .*--replace"):
        ingest(catalog, path, maps=swap)
    ingest(catalog, path, maps=swap, replace=True)
    assert rows(catalog, "select query, positive from pairs") == [("b", "a")]
    assert ingest(catalog, path, maps=swap).skipped == [str(path)]


@pytest.mark.parametrize("workers", [1, 2])
def test_a_bad_file_among_good_ones_commits_nothing(catalog, tmp_path, workers):
    good = [
        write(tmp_path, f"{i}.jsonl", jsonl({"query": f"{i}", "positive": "p"})) for i in (1, 2)
    ]
    compressed = gzip.compress(jsonl(*({"query": f"q{i}", "positive": "p"} for i in range(9000))))
    bad = write(tmp_path, "bad.jsonl.gz", compressed[:-9])  # well beyond what planning looks at
    version = catalog.version()
    before = counts(catalog)
    with pytest.raises(SourceFileError, match=r"bad\.jsonl\.gz: cannot be read as gzip"):
        ingest_files(catalog, find_sources([*good, bad]), executor=ExecutorSettings(workers))
    assert counts(catalog) == before
    assert ingest(catalog, *good).rows == 2
    assert catalog.version() > version
    assert rows(catalog, "select query from pairs order by query") == [("1",), ("2",)]


def test_a_truncated_parquet_file_is_refused_before_a_job_begins(catalog, tmp_path):
    good = write(tmp_path, "good.jsonl", jsonl(*TWO))
    bad = write(tmp_path, "bad.parquet", as_parquet()[:-9])
    with pytest.raises(SourceFileError, match=r"bad\.parquet: cannot be read"):
        ingest(catalog, good, bad)
    assert not catalog.jobs_folder.exists() or not list(catalog.jobs_folder.iterdir())


def test_a_file_that_changes_while_it_is_read_is_an_error(tmp_path):
    path = write(tmp_path, "a.jsonl", jsonl(*TWO))
    source = find_sources([path])[0]
    task = {
        "path": str(path), "bytes": source.bytes, "file_id": 1,
        "settings": source.settings.as_document(),
    }  # fmt: skip
    batches = ReadFiles([task]).run()
    next(batches)
    with path.open("ab") as stream:
        stream.write(jsonl(*TWO))
    with pytest.raises(SourceFileError, match="changed while it was read"):
        next(batches)


def test_a_file_that_another_run_commits_meanwhile_is_not_committed_twice(catalog, tmp_path):
    paths = [
        write(tmp_path, f"{i}.jsonl", jsonl({"query": f"{i}", "positive": "p"})) for i in (1, 2)
    ]
    rival = []

    def progress(stage, done):
        if not rival:
            rival.append(ingest(catalog, paths[0]))

    with pytest.raises(CatalogError, match=r"1\.jsonl was ingested by another run"):
        ingest(catalog, *paths, progress=progress)
    assert rows(catalog, "select query from pairs") == [("1",)]
    result = ingest(catalog, *paths)
    assert (result.rows, result.skipped) == (1, [str(paths[0])])


def test_progress_counts_the_bytes_that_were_announced(catalog, tmp_path):
    path = write(tmp_path, "a.jsonl", jsonl(*TWO) * 50)
    seen = []
    ingest(catalog, path, progress=lambda stage, done: seen.append((stage, done)))
    assert seen[-1] == (STAGE, find_sources([path])[0].bytes)


def test_a_column_of_endless_names_does_not_name_sources(catalog, tmp_path, monkeypatch):
    monkeypatch.setattr("curation.ingest.MAX_SOURCES", 2)
    content = jsonl(*({"query": "q", "positive": "p", "id": f"{i}"} for i in range(3)))
    with pytest.raises(SourceFileError, match="source column has more than 2 values"):
        ingest(catalog, write(tmp_path, "a.jsonl", content), maps=["source=id"])
    assert counts(catalog)["pairs"] == 0


def test_a_hugging_face_folder_with_splits_is_ingested_split_by_split(catalog, tmp_path):
    datasets = pytest.importorskip("datasets")
    train = datasets.Dataset.from_list(TWO)
    splits = datasets.DatasetDict({"train": train, "dev": datasets.Dataset.from_list(TWO[:1])})
    splits.save_to_disk(tmp_path / "data", num_shards={"train": 2, "dev": 1})
    result = ingest(catalog, tmp_path / "data")
    assert result.rows == 3
    assert rows(catalog, "select source, count(*) from pairs group by 1 order by 1") == [
        ("data.dev", 1), ("data.train", 2),
    ]  # fmt: skip
    assert ingest(catalog, tmp_path / "data").rows == 0


# What is read -----------------------------------------------------------------------------------


def test_a_recipe_names_files_or_says_how_files_of_that_name_are_read(tmp_path):
    for name in ("a.jsonl", "b.jsonl", "c.jsonl"):
        write(tmp_path, name, jsonl(*TWO))
    recipe = {
        "first": {"paths": [str(tmp_path / "a*.jsonl")], "form": "title-content"},
        "b": {"form": "input-output"},
    }
    sources = find_sources([tmp_path / "[bc].jsonl"], sets=["language=zh"], recipe=recipe)
    found = [(s.path.name, s.settings.source, s.settings.form) for s in sources]
    assert found == [
        ("a.jsonl", "first", "title-content"),
        ("b.jsonl", "b", "input-output"),
        ("c.jsonl", "{stem}", "auto"),
    ]
    assert {source.settings.language for source in sources} == {"zh"}


def test_a_folder_stands_for_its_files(tmp_path):
    for name in ("z.jsonl.zst", "b/a.parquet", "notes.txt", ".hidden.jsonl"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        write(tmp_path, name, b"x")
    assert [source.path.name for source in find_sources([tmp_path])] == ["a.parquet", "z.jsonl.zst"]


def test_files_that_are_read_alike_are_described_in_one_line(tmp_path):
    for i in range(5):
        write(tmp_path, f"{i}.jsonl", jsonl(*TWO))
    lines = describe_sources(find_sources([tmp_path]))
    assert lines == [
        "0.jsonl … 4.jsonl (5 files): jsonl, pair; columns found by their names: query = query, "
        "positive = positive; source named after the file, form text-text, task retrieval"
    ]


@pytest.mark.parametrize(
    ("files", "recipe", "message"),
    [
        ((), {}, "nothing to read"),
        (("none*.jsonl",), {}, "matches no file"),
        (("none.jsonl",), {}, "does not exist"),
        ((".",), {}, "a folder without a source file"),
        (
            (),
            {"web": {"frm": "text-text"}},
            r"\[sources.web\]: unknown key 'frm'; did you mean 'form'",
        ),
        ((), {"web": {"fields": "x"}}, r"\[sources.web\]: fields is 'x'; it must be a table"),
    ],
)
def test_what_cannot_be_read_is_refused(tmp_path, monkeypatch, files, recipe, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=message):
        find_sources(files, recipe=recipe)


def test_one_file_cannot_be_read_in_two_ways_at_once(tmp_path):
    path = str(write(tmp_path, "a.jsonl", jsonl(*TWO)))
    recipe = {"x": {"paths": [path]}, "y": {"paths": [path]}}
    with pytest.raises(ValueError, match="named twice with different settings"):
        find_sources(recipe=recipe)


# Disks ------------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 3 MB."""
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(folder)],
        capture_output=True,
        check=False,
    )
    if mounted.returncode:
        pytest.skip(f"cannot mount a small file system here: {mounted.stderr.decode().strip()}")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def noise(count):
    return jsonl(*({"query": os.urandom(600).hex(), "positive": f"p{i}"} for i in range(count)))


def test_a_full_disk_commits_nothing_and_the_next_run_goes_on(small_disk, tmp_path):
    catalog = Catalog.create(str(small_disk / "corpus"))
    path = write(tmp_path, "a.jsonl", noise(9000))
    with pytest.raises(CatalogError, match="No space left on device; free some space"):
        ingest(catalog, path)
    subprocess.run(["mount", "-o", "remount,size=90m", str(small_disk)], check=True)
    assert rows(catalog, "select count(*) from pairs") == [(0,)]
    assert ingest(catalog, path).rows == 9000
    assert rows(catalog, "select count(*), count(distinct pair_id) from pairs") == [(9000, 9000)]


def test_a_limit_on_file_size_commits_nothing(catalog, tmp_path):
    path = write(tmp_path, "a.jsonl", noise(9000))
    unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, unlimited[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            ingest(catalog, path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)
    assert counts(catalog)["pairs"] == 0
    assert ingest(catalog, path).rows == 9000


@pytest.fixture
def read_only(tmp_path):
    """Make a folder read-only, for root too."""
    mounted = []

    def make(folder):
        subprocess.run(
            ["mount", "--bind", str(folder), str(folder)], capture_output=True, check=False
        )
        done = subprocess.run(
            ["mount", "-o", "remount,ro,bind", str(folder)], capture_output=True, check=False
        )
        if done.returncode:
            pytest.skip(f"cannot make a folder read-only here: {done.stderr.decode().strip()}")
        mounted.append(folder)

    yield make
    for folder in mounted:
        subprocess.run(["umount", "-l", str(folder)], capture_output=True, check=False)


def test_a_read_only_catalog_is_an_error_and_read_only_sources_are_not(
    catalog, tmp_path, read_only
):
    folder = tmp_path / "sources"
    folder.mkdir()
    path = write(folder, "a.jsonl", jsonl(*TWO))
    read_only(folder)
    read_only(tmp_path / "corpus")
    with pytest.raises((OSError, CatalogError), match=r"(?i)read.?only"):
        ingest(catalog, path)
    subprocess.run(["umount", "-l", str(tmp_path / "corpus")], check=True)
    assert ingest(catalog, path).rows == 2


def test_the_settings_of_a_run_are_recorded(catalog, tmp_path):
    path = write(tmp_path, "a.jsonl", jsonl(*TWO))
    result = ingest(catalog, path, sets=["form=title-content"], recipe="mine")
    [(kind, recipe, settings)] = rows(catalog, "select kind, recipe, settings from runs")
    assert (kind, recipe) == ("ingest", "mine")
    settings = json.loads(settings)
    assert settings["settings"][settings["files"][str(path)]]["form"] == "title-content"
    assert result.job_id.startswith("ingest-")
