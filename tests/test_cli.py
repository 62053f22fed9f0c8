"""The command line over a tiny corpus: every reading command, and what it refuses."""

import json
import subprocess
import sys
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from catalog import duck
from catalog.errors import CatalogError, PolicyError, ReadOnlyError
from catalog.lake import Catalog
from catalog.policies import Condition, Policy
from catalog.policy_commit import commit_policy
from catalog.query import run_query
from catalog.results import display_width, write_result
from catalog.snapshots import create_snapshot, diff_snapshots, load_snapshot
from catalog.status import read_status, render_status
from lode import app

LONG = Policy("long", (Condition("short", "rules", require="length(positive) >= 3"),))
ALL = Policy("all", ())


@pytest.fixture
def snapshots(corpus: Catalog) -> Catalog:
    """The tiny corpus with a snapshot of each policy."""
    for policy in (ALL, LONG):
        commit_policy(corpus, policy)
        create_snapshot(corpus, policy.name)
    return corpus


def lode(catalog: Catalog, *words: str) -> str:
    """Run a command and return what it printed."""
    result = CliRunner().invoke(app, [*words, "--catalog", catalog.location.url])
    assert result.exit_code == 0, result.output
    return result.output


@pytest.mark.parametrize(
    "statement",
    [
        "drop table pairs",
        "insert into pairs select * from pairs",
        "delete from lake.pairs",
        "update pairs set query = ''",
        "create view lake.mine as select 1",
        "create table lake.mine as select 1",
        "attach 'x.duckdb' as other",
        "copy (select 1) to 'x.csv'",
        "call ducklake_expire_snapshots('lake', versions => [1])",
        "load sqlite",
        "select 1; drop table pairs",
    ],
)
def test_a_reader_cannot_change_anything(corpus: Catalog, statement: str) -> None:
    before = corpus.version()
    with pytest.raises(ReadOnlyError, match="only reads"), run_query(corpus, statement):
        pass
    assert corpus.version() == before


def test_temporary_tables_and_files_of_ones_own_are_fine(corpus: Catalog, tmp_path: Path) -> None:
    own = tmp_path / "own.parquet"
    pq.write_table(pa.table({"a": [1, 2]}), own)
    sql = f"create temp table t as select count(*) n from '{own}'; select n from t"
    with run_query(corpus, sql) as reader:
        assert reader.read_all().to_pylist() == [{"n": 2}]


def test_a_query_with_a_mistake_says_where(corpus: Catalog) -> None:
    with pytest.raises(CatalogError, match='near "selec"'), run_query(corpus, "selec 1"):
        pass
    with pytest.raises(CatalogError, match="empty"), run_query(corpus, "  "):
        pass


def test_results_come_in_four_formats(
    corpus: Catalog, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sql = "select 1 as a, '中文' as b, [1, 2] as c union all select 2, null, null order by a"
    expected = [{"a": 1, "b": "中文", "c": [1, 2]}, {"a": 2, "b": None, "c": None}]
    for format in ("csv", "json", "parquet"):
        with run_query(corpus, sql) as reader:
            assert write_result(reader, format, tmp_path / format) == 2
    assert pq.read_table(tmp_path / "parquet").to_pylist() == expected
    lines = (tmp_path / "json").read_text().splitlines()
    assert [json.loads(line) for line in lines] == expected
    assert (tmp_path / "csv").read_text() == 'a,b,c\n1,中文,"1, 2"\n2,,\n'
    with run_query(corpus, sql) as reader:
        write_result(reader, "table")
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == "a  b     c"
    assert printed[-1] == "(2 rows)"
    with run_query(corpus, sql) as reader, pytest.raises(ValueError, match="allowed are table"):
        write_result(reader, "xml")


def test_east_asian_characters_are_two_columns_wide() -> None:
    assert [display_width(text) for text in ("ab", "中文", "ａ", "é")] == [2, 4, 2, 1]


def test_a_snapshot_keeps_its_policy_and_its_rows(snapshots: Catalog) -> None:
    counts = {}
    for name in ("all", "long"):
        with run_query(snapshots, "select count(*) n from curated", at=name) as reader:
            counts[name] = reader.read_all().to_pylist()[0]["n"]
    assert counts["all"] > counts["long"]
    one, two = load_snapshot(snapshots, "all"), load_snapshot(snapshots, "long")
    difference = diff_snapshots(snapshots, one, two)
    assert {(change, why) for change, why, _ in difference.reasons} == {("went", "short")}
    assert diff_snapshots(snapshots, two, one).added == difference.removed > 0


def test_a_snapshots_name_is_for_ever(snapshots: Catalog) -> None:
    with pytest.raises(CatalogError, match="immutable"):
        create_snapshot(snapshots, "all", "long")
    assert create_snapshot(snapshots, "all", "all").digest == load_snapshot(snapshots, "all").digest
    with pytest.raises(CatalogError, match="did you mean 'long'"):
        load_snapshot(snapshots, "lon")
    with pytest.raises(PolicyError, match="there is no policy"):
        create_snapshot(snapshots, "other", "nothing")


def test_status_tells_tables_snapshots_and_jobs(snapshots: Catalog) -> None:
    status = read_status(snapshots)
    assert {"pairs"} <= {table.name for table in status.tables}
    assert [one.name for one in status.snapshots] == ["v1", "all", "long"]
    assert "policy long version 1" in render_status(status)


def test_commands_print_what_the_library_returns(snapshots: Catalog, tmp_path: Path) -> None:
    assert "snapshot" in lode(snapshots, "snapshot", "show", "long")
    assert "went" in lode(snapshots, "snapshot", "diff", "all", "long", "--rows", "1")
    assert "short" in lode(snapshots, "policy", "show")
    assert "no problem found" in lode(snapshots, "check")
    assert "0 orphan files" in lode(snapshots, "gc")
    page = tmp_path / "page.html"
    lode(snapshots, "report", "long", "-o", str(page))
    assert "<svg" in page.read_text(encoding="utf-8")


def test_what_connect_prints_opens_the_lake_elsewhere(snapshots: Catalog) -> None:
    with duckdb.connect() as connection:
        for extension in ("ducklake", "sqlite_scanner"):
            duck.load_extension(connection, extension)
        for statement in lode(snapshots, "connect").splitlines()[1:]:
            connection.execute(statement)
        assert connection.execute("select count(*) > 0 from lake.pairs").fetchall() == [(True,)]
        assert connection.execute("select count(*) > 0 from funnel").fetchall() == [(True,)]


def test_the_command_line_starts_without_kernels_or_models() -> None:
    heavy = ("numba", "torch", "transformers", "faiss", "ray", "boto3", "aiohttp")
    code = f"import sys, lode; print([name for name in {heavy!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
