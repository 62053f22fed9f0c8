import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import duckdb
import pytest

from catalog import duck
from catalog.errors import CatalogError, CatalogMissingError
from catalog.lake import Catalog, table_names
from catalog.location import resolve
from catalog.schema import TABLES, sql_type
from tests.processes import run_in_processes, start_process
from tests.tiny_catalog import KEPT, fetch


def count_up(connection: duck.Connection) -> None:
    connection.execute("update counters set value = value + 1 where counter = 'file_id'")


def counted(catalog: Catalog) -> int:
    [(value,)] = fetch(catalog, "select value from counters where counter = 'file_id'")
    return int(value)


def test_a_new_catalog_has_every_table_with_its_columns(empty_catalog: Catalog) -> None:
    with empty_catalog.reader() as connection:
        assert table_names(connection) == set(TABLES)
        for name, schema in TABLES.items():
            described = connection.execute(f"describe {name}").fetchall()
            assert [(c, kind.lower(), null) for c, kind, null, *_ in described] == [
                (f.name, sql_type(f.type).replace("timestamptz", "timestamp with time zone"),
                 "YES" if f.nullable else "NO")
                for f in schema
            ]  # fmt: skip


def test_creating_again_opens_what_is_there(corpus: Catalog) -> None:
    version = corpus.version()
    again = Catalog.create(corpus.location.url)
    assert again.version() == version
    assert fetch(again, "select count(*) from pairs") == [(11,)]


def test_a_place_without_a_catalog_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(CatalogMissingError, match=f"lode init {tmp_path}/none"):
        Catalog.open(str(tmp_path / "none"))
    assert not (tmp_path / "none").exists()


def test_a_lake_of_someone_else_is_not_taken_for_a_catalog(tmp_path: Path) -> None:
    other = Catalog(resolve(str(tmp_path)))
    with duckdb.connect() as connection:
        for extension in other.extensions:
            duck.load_extension(connection, extension)
        connection.execute(other.attach_sql(read_only=False))
        connection.execute("create table lake.theirs(x int)")
    with pytest.raises(CatalogMissingError, match="holds a lake without Lode's tables"):
        Catalog.open(str(tmp_path))


def test_a_file_that_is_no_catalog_is_refused(tmp_path: Path) -> None:
    (tmp_path / "catalog.sqlite").write_bytes(b"not a database " * 100)
    with pytest.raises(CatalogError, match=r"cannot open the catalog at .* not a database"):
        Catalog.open(str(tmp_path))


def test_a_catalog_that_was_moved_opens_and_can_be_written(corpus: Catalog, tmp_path: Path) -> None:
    moved = tmp_path / "elsewhere" / "it's here"
    moved.parent.mkdir()
    shutil.move(corpus.location.work, moved)
    there = Catalog.open(str(moved))
    assert fetch(there, "select count(*) from curated where query is not null") == [(len(KEPT),)]
    there.transact(
        lambda c: c.execute("insert into counters select 'x' || i, i from range(99) t(i)")
    )
    assert fetch(there, "select count(*) from counters") == [(101,)]
    assert not corpus.location.work.exists()


def test_a_reader_cannot_write(tiny_corpus: Catalog) -> None:
    with tiny_corpus.reader() as connection, pytest.raises(duckdb.Error, match="read-only"):
        connection.execute("delete from pairs")


def test_a_reader_sees_the_version_that_it_asks_for(catalog: Catalog) -> None:
    before = catalog.version()
    catalog.transact(count_up)
    assert counted(catalog) == 1
    with catalog.reader(version=before) as connection:
        rows = connection.execute("select value from counters where counter = 'file_id'").fetchall()
    assert rows == [(0,)]


def test_a_change_that_fails_leaves_nothing(catalog: Catalog) -> None:
    version = catalog.version()

    def fail(connection: duck.Connection) -> None:
        count_up(connection)
        connection.execute("create table half(x int)")
        raise ValueError("in the middle")

    with pytest.raises(ValueError, match="in the middle"):
        catalog.transact(fail)
    assert counted(catalog) == 0
    assert catalog.version() == version


def test_a_conflict_is_tried_again_and_other_errors_are_not(catalog: Catalog) -> None:
    tries = []

    def conflict_once(connection: duck.Connection) -> str:
        tries.append(1)
        count_up(connection)
        if len(tries) == 1:
            raise duckdb.TransactionException("Failed to commit: database is locked")
        return "done"

    assert catalog.transact(conflict_once) == "done"
    assert (len(tries), counted(catalog)) == (2, 1)
    with pytest.raises(duckdb.CatalogException, match="nosuch"):
        catalog.transact(lambda c: tries.append(1) or c.execute("delete from nosuch"))
    assert len(tries) == 3


def test_a_full_disk_is_not_tried_again() -> None:
    wrapped = "Failed to commit DuckLake transaction.\nFailed to commit: "
    assert duck.is_retriable(duckdb.Error(wrapped + "database is locked"))
    assert not duck.is_retriable(duckdb.Error(wrapped + "database or disk is full"))
    assert not duck.is_retriable(duckdb.Error("Binder Error: no such column"))


def test_connections_spill_into_folders_of_their_own(tiny_corpus: Catalog) -> None:
    # DuckDB names its spill files alike in every process: sharing a folder crashes both.
    spill = "set memory_limit = '50MB'; set threads = 1"
    query = "select count(*) from (select md5(i::varchar) as s from range(600_000) t(i) order by s)"
    with tiny_corpus.reader() as one, tiny_corpus.reader() as two:
        places = {c.execute("select current_setting('temp_directory')").fetchall()[0][0]
                  for c in (one, two)}  # fmt: skip
        assert len(places) == 2
        one.execute(spill)
        assert one.execute(query).fetchall() == [(600_000,)]
    assert not any(Path(place).exists() for place in places)


def commit_often(url: str, name: str, times: int) -> None:
    catalog = Catalog(resolve(url))
    for number in range(times):

        def change(connection: duck.Connection, number: int = number) -> None:
            connection.execute("insert into counters values (?, ?)", [name, number])
            count_up(connection)

        catalog.transact(change)


@pytest.mark.parametrize("times", [2, pytest.param(10, marks=pytest.mark.slow)])
def test_eight_processes_commit_at_once_and_no_commit_is_lost(catalog: Catalog, times: int) -> None:
    before = catalog.version()
    url = catalog.location.url
    run_in_processes(commit_often, [(url, f"p{number}", times) for number in range(8)])
    assert counted(catalog) == 8 * times
    assert catalog.version() == before + 8 * times
    rows = fetch(catalog, "select counter, list(value order by value) from counters group by all")
    assert {name: numbers for name, numbers in rows if name.startswith("p")} == {
        f"p{number}": list(range(times)) for number in range(8)
    }


def commit_for_ever(url: str) -> None:
    catalog = Catalog(resolve(url))
    while True:
        catalog.transact(count_up)
        with Path(url, "acknowledged").open("ab") as stream:
            stream.write(b".")


def test_a_writer_that_is_killed_loses_nothing_that_was_acknowledged(catalog: Catalog) -> None:
    url = catalog.location.url
    for number in range(10):
        process = start_process(commit_for_ever, (url,))
        began = (Path(url) / "acknowledged").stat().st_size if number else 0
        while not (p := Path(url, "acknowledged")).exists() or p.stat().st_size == began:
            time.sleep(0.005)
        time.sleep(0.013 * number)
        process.kill()
        process.join()
        acknowledged = p.stat().st_size
        assert acknowledged <= counted(catalog) <= acknowledged + number + 1


# -- disks that are full or read-only: in a mount namespace of the test's own ---------------------

ON_DISK = """
import sys
from pathlib import Path
import numpy as np
import pyarrow as pa
from catalog.errors import CatalogError
from catalog.jobs import open_job
from catalog.lake import Catalog
from catalog.location import resolve

def attempt(name, action):
    try:
        print(name, "->", action())
    except CatalogError as error:
        print(name, "CatalogError", error)

def run_job():
    # Bytes that do not compress: more than the disk has room for.
    ids = np.random.default_rng(0).integers(0, 2**62, 200_000)
    rows = pa.table({"pair_id": pa.array(ids, pa.int64())})
    with open_job(catalog, "fill", {}, {}) as job:
        with job.output.task("rows", 0) as out:
            out.write("text_ids", rows)

def write(rows):
    catalog.transact(lambda c: c.execute(
        f"insert into policies select uuid()::text, 1, uuid()::text, '', now() from range({rows})"))

url = sys.argv[1]
catalog = Catalog(resolve(url))
attempt("open", lambda: len(Catalog.open(url).location.url) > 0)
attempt("create", lambda: Catalog.create(url + "/new").version())
attempt("job", run_job)
attempt("write", lambda: write(50_000))
with catalog.reader() as c:
    print("read", c.execute("select count(*) from policies").fetchall())
"""


def on_disk(catalog: Catalog, mount: str) -> dict[str, str]:
    """Run ``ON_DISK`` with the catalog on a disk that ``mount`` makes of its folder ``$1``."""
    if shutil.which("unshare") is None:
        pytest.skip("there is no unshare to make a mount namespace with")
    script = f'set -e; {mount}; exec "$2" -c "$0" "$1/corpus"'
    folder = str(catalog.location.work.parent)
    command = ["unshare", "-rm", "sh", "-c", script, ON_DISK, folder, sys.executable]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if "unshare" in done.stderr or "mount" in done.stderr:
        pytest.skip(f"this machine allows no mount namespaces: {done.stderr.strip()}")
    assert done.returncode == 0, done.stderr
    lines = [line.partition(" ") for line in done.stdout.splitlines()]
    return {name: said for name, _, said in lines}


def test_a_read_only_disk_can_be_read_and_says_that_it_cannot_be_written(corpus: Catalog) -> None:
    counted(corpus)  # leaves the files beside the metadata that a reader needs
    said = on_disk(corpus, 'mount --bind "$1" "$1"; mount -o remount,ro,bind "$1"')
    assert said["open"] == "-> True"
    for name in ("create", "job", "write"):
        assert said[name].startswith("CatalogError cannot write to"), said
        assert "Read-only file system" in said[name]
    assert said["read"] == "[(1,)]"


def test_a_full_disk_says_so_and_nothing_is_changed(corpus: Catalog) -> None:
    # 500 kB are free: a job's plan fits, its rows do not.
    mount = (
        'size=$(($(du -sk "$1/corpus" | cut -f1) + 500))k; mkdir "$1/disk"; '
        'mount -t tmpfs -o size=$size none "$1/disk"; cp -r "$1/corpus" "$1/disk"; '
        'mount --bind "$1/disk/corpus" "$1/corpus"'
    )
    said = on_disk(corpus, mount)
    assert "No space left on device; free some space and run the same" in said["job"]
    assert "No space left on device; nothing was changed" in said["write"]
    assert said["read"] == "[(1,)]"


def test_readers_work_while_others_commit(catalog: Catalog) -> None:
    stop = threading.Event()
    seen: list[int] = []

    def read() -> None:
        while not stop.is_set():
            seen.append(counted(catalog))

    thread = threading.Thread(target=read)
    thread.start()
    for _ in range(5):
        catalog.transact(count_up)
    stop.set()
    thread.join()
    assert seen == sorted(seen)
    assert counted(catalog) == 5
