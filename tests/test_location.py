from pathlib import Path

import pytest

from catalog.lake import Catalog
from catalog.location import resolve


def test_a_folder_holds_metadata_data_and_work(tmp_path: Path) -> None:
    found = resolve(str(tmp_path / "corpus"))
    assert found.is_local
    assert found.sqlite_path == tmp_path / "corpus" / "catalog.sqlite"
    assert found.data == str(tmp_path / "corpus" / "data")
    assert found.work == tmp_path / "corpus"


def test_the_environment_names_the_catalog_where_no_one_else_does(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("LODE_CATALOG", raising=False)
    assert resolve(None).work == tmp_path / "corpus"
    monkeypatch.setenv("LODE_CATALOG", str(tmp_path / "other"))
    assert resolve(None).work == tmp_path / "other"
    assert resolve("here").work == tmp_path / "here"


@pytest.mark.parametrize("scheme", ["postgres", "postgresql"])
def test_a_postgres_url_names_three_places(scheme: str) -> None:
    url = f"{scheme}://lode%40team@db.example:5433/corpus?data=s3://bucket/prefix&work=/shared/jobs"
    found = resolve(url)
    assert not found.is_local
    assert found.metadata == "postgres:host=db.example port=5433 dbname=corpus user=lode@team"
    assert found.data == "s3://bucket/prefix"
    assert found.work == Path("/shared/jobs")
    assert Catalog(found).extensions == ["ducklake", "postgres_scanner", "httpfs"]


def test_a_postgres_url_needs_no_host_nor_user() -> None:
    found = resolve("postgres:///corpus?data=/d&work=/w")
    assert found.metadata == "postgres:dbname=corpus"


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("postgres://u:secret@h/d?data=/d&work=/w", "put the password into PGPASSWORD"),
        ("postgres://u@h/d?work=/w", "data=… is missing"),
        ("postgres://u@h/d?data=/d", "work=… is missing"),
        ("postgres://u@h/d?data=/d&work=/w&wrok=/x", "unknown option 'wrok'; allowed are data"),
        ("mysql://h/d", "the scheme 'mysql' is not known"),
    ],
)
def test_a_url_that_cannot_be_right_says_why(url: str, message: str) -> None:
    with pytest.raises(ValueError, match="catalog") as caught:
        resolve(url)
    assert message in str(caught.value)
    assert "secret" not in str(caught.value)
