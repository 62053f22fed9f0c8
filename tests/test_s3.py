"""Data on S3: a real server of its protocol, also one that goes away in the middle."""

import importlib.util
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from catalog.errors import CatalogError
from catalog.executors import ExecutorSettings
from catalog.export import ExportSettings, export_pairs
from catalog.jobs import open_job
from catalog.lake import Catalog
from catalog.location import resolve
from catalog.maintenance import check_catalog, collect_garbage, expire_versions
from catalog.pack import build_pack
from catalog.s3 import Bucket, find_access
from catalog.snapshots import create_snapshot, diff_snapshots, load_snapshot
from tests.postgres_server import MakeUrl, PostgresServer, has_postgres
from tests.processes import run_in_processes, start_process
from tests.s3_server import SECRET, S3Server
from tests.s3_writers import counted, problems, write_elsewhere, write_job, write_task
from tests.tiny_catalog import fetch, make_corpus

ALONE = ExecutorSettings(workers=1)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.s3,
    pytest.mark.skipif(
        importlib.util.find_spec("moto") is None, reason="moto, an S3 server, is not installed"
    ),
]
with_postgres = [
    pytest.mark.postgres,
    pytest.mark.skipif(not has_postgres(), reason="PostgreSQL's initdb is not installed"),
]


def url_of(s3: str, tmp_path: Path) -> str:
    """A catalog of a folder whose data are in a bucket."""
    return f"{tmp_path / 'corpus'}?data={s3}/team/corpus"


def test_a_corpus_on_s3_is_the_same_corpus(s3: str, tmp_path: Path, tiny_corpus: Catalog) -> None:
    catalog = Catalog.create(url_of(s3, tmp_path))
    make_corpus(catalog)
    made, local = load_snapshot(catalog, "v1"), load_snapshot(tiny_corpus, "v1")
    assert (made.kept, made.digest) == (local.kept, local.digest)
    assert not (tmp_path / "corpus" / "data").exists()
    paths = [file.path for file in Bucket.of(f"{s3}/team/corpus").files()]
    assert any(path.startswith("main/pairs/ingest-") for path in paths)
    assert check_catalog(catalog) == []
    catalog.transact(lambda c: c.execute("delete from pairs where source = 'news'"))
    assert diff_snapshots(catalog, made, create_snapshot(catalog, "v2")).removed == 3
    export_pairs(catalog, made, tmp_path / "out.jsonl", ExportSettings("jsonl"))
    assert len((tmp_path / "out.jsonl").read_text().splitlines()) == local.kept
    assert len(build_pack(catalog, made, tmp_path / "pack")) == local.kept


def test_gc_finds_orphans_and_uploads_that_were_never_completed(s3: str, tmp_path: Path) -> None:
    url = url_of(s3, tmp_path)
    catalog = Catalog.create(url)
    write_job(url, "whole")
    with open_job(catalog, "made", {"name": "unfinished"}, {}) as job:
        write_task(job, 1)
    bucket = Bucket.of(catalog.location.data)
    key = f"{bucket.prefix}main/text_ids/made-0123456789ab-write-00000-000.parquet"
    bucket.access.client.create_multipart_upload(Bucket=bucket.name, Key=key)
    # moto says of every upload that it was begun in 2010: it alone is old enough.
    assert [file.upload is None for file in collect_garbage(catalog, dry_run=True).files] == [False]
    before = {file.path for file in bucket.files()}
    cleaned = collect_garbage(catalog, older_than_s=-1)
    assert len(cleaned.files) == 2
    assert sorted(file.upload is None for file in cleaned.files) == [False, True]
    after = {file.path for file in bucket.files()}
    assert before - after == {file.path for file in cleaned.files}
    assert counted(catalog) == 3
    catalog.transact(lambda c: c.execute("drop table text_ids"))
    expire_versions(catalog, older_than_s=-1)
    assert not any("text_ids" in file.path for file in bucket.files())


def test_check_finds_an_object_that_changed_and_one_that_is_gone(s3: str, tmp_path: Path) -> None:
    url = url_of(s3, tmp_path)
    catalog = Catalog.create(url)
    write_job(url, "a")
    bucket = Bucket.of(catalog.location.data)
    (found,) = [file for file in bucket.files() if "text_ids" in file.path]
    target = {"Bucket": bucket.name, "Key": bucket.prefix + found.path}
    content = bytearray(bucket.access.client.get_object(**target)["Body"].read())
    content[10] ^= 1
    bucket.access.client.put_object(**target, Body=bytes(content))
    (problem,) = check_catalog(catalog)
    assert problem == (
        f"{bucket.place(found.path)} has changed since it was registered (checksum differs)"
    )
    bucket.delete(found)
    assert check_catalog(catalog) == [f"{bucket.place(found.path)} is missing"]


def failure_of(url: str, name: str) -> str | None:
    try:
        write_job(url, name)
    except CatalogError as error:
        return str(error)
    return None


@pytest.mark.parametrize("step", [3, pytest.param(1, marks=pytest.mark.slow)])
def test_a_server_that_goes_away_leaves_nothing_half_done(
    s3: str, s3_server: S3Server, tmp_path: Path, step: int
) -> None:
    """The same job is run on a server that stops after more and more requests."""
    url = url_of(s3, tmp_path)
    catalog = Catalog.create(url)
    failures = 0
    for requests in range(0, 100, step):
        s3_server.answer(requests)
        message = failure_of(url, "only")
        s3_server.answer()
        if message is None:
            break
        failures += 1
        assert "run the same command again" in message
        assert SECRET not in message
        assert counted(catalog) == 0
        assert problems(catalog) == []
    assert failures >= 2
    assert counted(catalog) == 3
    assert problems(catalog) == []


@pytest.mark.parametrize("metadata", ["folder", pytest.param("postgres", marks=with_postgres)])
def test_eight_writers_at_once_lose_nothing_and_double_nothing(
    s3: str, s3_server: S3Server, tmp_path: Path, request: pytest.FixtureRequest, metadata: str
) -> None:
    if metadata == "folder":
        url = url_of(s3, tmp_path)
    else:
        url = request.getfixturevalue("make_url")("s3_writers", f"{s3}/shared")
    catalog = Catalog.create(url)
    jobs = [(f"job {number}", number) for number in range(8)]
    everyone = [(s3_server.environment, url, [job]) for job in jobs]
    run_in_processes(write_elsewhere, everyone)
    run_in_processes(write_elsewhere, everyone[:2])
    assert counted(catalog) == 24
    assert problems(catalog) == []
    assert fetch(catalog, "select count(*) from runs where kind = 'made'") == [(8,)]


@pytest.mark.postgres
@pytest.mark.skipif(not has_postgres(), reason="PostgreSQL's initdb is not installed")
def test_a_database_that_dies_leaves_whole_jobs_only(
    s3: str, s3_server: S3Server, make_url: MakeUrl, postgres: PostgresServer
) -> None:
    url = make_url("s3_killed", f"{s3}/shared")
    catalog = Catalog.create(url)
    jobs = [[(f"job {number}", number) for number in range(at, at + 500)] for at in (0, 5000)]
    writers = [start_process(write_elsewhere, (s3_server.environment, url, some)) for some in jobs]
    deadline = time.monotonic() + 120
    while counted(catalog) < 6:
        assert time.monotonic() < deadline
        assert all(writer.is_alive() for writer in writers)
    postgres.kill()
    for writer in writers:
        writer.join(60)
        assert writer.exitcode not in (None, 0)
    with pytest.raises(CatalogError, match="cannot open the catalog"):
        write_job(url, "job 0")
    postgres.run("start")
    landed = fetch(catalog, "select count(*) from runs where kind = 'made'")[0][0]
    assert counted(catalog) == 3 * landed
    assert problems(catalog) == []
    for name, task in jobs[0][: landed + 1]:  # at most so many were this writer's
        write_job(url, name, task)
    assert counted(catalog) > 3 * landed
    assert problems(catalog) == []


def test_no_secret_is_stored_or_said(
    s3: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lode import app

    monkeypatch.setenv("AWS_SESSION_TOKEN", "token-of-the-tests-only")
    monkeypatch.setenv("PGPASSWORD", "password-of-the-tests-only")
    url = url_of(s3, tmp_path)
    (tmp_path / "pairs.jsonl").write_text('{"query": "问", "positive": "答"}\n')
    said = ""
    for words in (
        ["init"],
        ["ingest", str(tmp_path / "pairs.jsonl"), "--workers", "1"],
        ["sql", "from duckdb_secrets()"],
        ["sql", "from read_parquet('s3://nowhere/none.parquet')"],
        ["status"],
    ):
        done = CliRunner().invoke(app, [*words, "-c", url])
        said += f"{done.output}{done.exception}"
    assert "1 pairs and passages" in said
    assert "404" in said
    secrets = [SECRET, "token-of-the-tests-only", "password-of-the-tests-only"]
    assert not any(secret in said for secret in secrets)
    bucket = Bucket.of(resolve(url).data)
    content = b"".join(p.read_bytes() for p in (tmp_path / "corpus").rglob("*") if p.is_file())
    for file in bucket.files():
        key = bucket.prefix + file.path
        content += bucket.access.client.get_object(Bucket=bucket.name, Key=key)["Body"].read()
    assert b"pairs.jsonl" in content
    assert not any(secret.encode() in content for secret in secrets)
    assert not any(secret in repr(find_access()) for secret in secrets)


def test_what_is_wrong_is_said_before_any_work(
    s3: str, s3_server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(CatalogError, match=r"s3://lode-none/x/: .*make the bucket first"):
        Catalog.create(f"{tmp_path / 'a'}?data=s3://lode-none/x")
    Catalog.create(url_of(s3, tmp_path))
    with pytest.raises(CatalogError, match=r"is at s3://lode-.*/team/corpus, not at .*/data; name"):
        Catalog.open(str(tmp_path / "corpus"))
    s3_server.answer(0)
    with pytest.raises(CatalogError, match="when S3 answers, run the same command again"):
        Catalog.create(f"{tmp_path / 'b'}?data={s3}/b")
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    with pytest.raises(CatalogError, match="no credentials for S3 were found; set AWS_ACCESS_KEY"):
        Catalog.open(url_of(s3, tmp_path))


@pytest.mark.parametrize("metadata", ["folder", pytest.param("postgres", marks=with_postgres)])
@pytest.mark.thorough
def test_curation_on_s3_ends_with_the_digest_of_a_local_catalog(
    s3: str, tmp_path: Path, request: pytest.FixtureRequest, metadata: str
) -> None:
    from curation.curate import curate
    from curation.demo import generate
    from curation.ingest import find_sources, ingest_files
    from curation.recipes import load_recipe, load_sources

    remote = url_of(s3, tmp_path)
    if metadata == "postgres":
        remote = request.getfixturevalue("make_url")("s3_curated", f"{s3}/shared")
    corpus = generate(tmp_path / "raw", 200)
    digests = set()
    for url in (str(tmp_path / "local"), remote):
        catalog = Catalog.create(url)
        for _ in range(2):
            ingest_files(catalog, find_sources(recipe=load_sources(corpus.recipe)), executor=ALONE)
        curate(catalog, load_recipe("conan-v1"), ALONE)
        digests.add(create_snapshot(catalog, "v1").digest)
        assert check_catalog(catalog) == []
    assert len(digests) == 1
