"""Training without a catalog: files become one, once, and a run keeps its data."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from catalog.errors import CatalogError
from catalog.lake import Catalog, scalar
from catalog.pack import PackSettings, build_pack
from tests.processes import run_in_processes
from trainer.own_data import catalog_of

pytestmark = pytest.mark.slow

FLAG = [
    {"query": f"问题{i}", "pos": [f"答案{i}"], "neg": [f"错误{i}", f"另一错误{i}"]}
    for i in range(4)
]


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    """Write JSON lines."""
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    return path


def count(catalog: Catalog, table: str) -> int:
    """Count the rows of a table."""
    with catalog.reader() as connection:
        return scalar(connection, f"select count(*) from {table}")


def test_flagembedding_files_become_a_snapshot_with_their_negatives(tmp_path: Path) -> None:
    file = write(tmp_path / "train.jsonl", FLAG)
    catalog, snapshot = catalog_of([str(file)], tmp_path / "run")
    assert (snapshot.name, snapshot.kept, snapshot.pairs) == ("data", 4, 4)
    pack = build_pack(catalog, snapshot, tmp_path / "pack", PackSettings(candidates_run=None))
    queries = pack.texts("query", pack.pairs().query)
    given, offsets = pack.negatives(np.arange(4))
    own = pack.texts("passage", given[offsets[0] : offsets[1]])
    assert sorted(own) == sorted(f"{kind}{queries[0][-1]}" for kind in ("错误", "另一错误"))


@pytest.mark.parametrize(
    ("row", "task", "negatives"),
    [
        ({"anchor": "a", "positive": "b", "negative": "c"}, "retrieval", ["c"]),
        ({"query": "a", "positive": "b"}, "retrieval", None),
        ({"sentence1": "a", "sentence2": "b", "score": 0.5}, "sts", None),
    ],
)
def test_other_forms_are_read_by_their_names(
    row: dict[str, Any], task: str, negatives: list[str] | None, tmp_path: Path
) -> None:
    catalog, _ = catalog_of([write(tmp_path / "x.jsonl", [row])], tmp_path / "run")
    with catalog.reader() as connection:
        sql = "select task, query, positive, negatives from pairs where query is not null"
        assert connection.execute(sql).fetchall() == [(task, "a", "b", negatives)]


def test_the_same_files_again_add_nothing(tmp_path: Path) -> None:
    file = write(tmp_path / "train.jsonl", FLAG)
    catalog, first = catalog_of([file], tmp_path / "run")
    version = catalog.version()
    moved = file.rename(tmp_path / "moved.jsonl")
    again, second = catalog_of([moved], tmp_path / "run")
    assert second == first
    assert again.version() == version
    assert count(again, "pairs where query is not null") == 4


def test_other_data_is_refused_and_changes_nothing(tmp_path: Path) -> None:
    file = write(tmp_path / "train.jsonl", FLAG)
    more = write(tmp_path / "more.jsonl", [{"query": "q", "pos": ["p"]}])
    catalog, _ = catalog_of([file], tmp_path / "run")
    version = catalog.version()
    write(file, FLAG[:3])
    changed = [file]
    with pytest.raises(CatalogError, match=r"train\.jsonl has changed"):
        catalog_of(changed, tmp_path / "run")
    write(file, FLAG)
    for given in ([file, more], [more]):
        with pytest.raises(CatalogError, match="has other data"):
            catalog_of(given, tmp_path / "run")
    assert catalog.version() == version


def test_rows_that_cannot_be_read_are_counted_and_none_left_is_refused(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = write(tmp_path / "train.jsonl", [*FLAG, {"query": "", "pos": []}])
    _, snapshot = catalog_of([file], tmp_path / "run")
    assert snapshot.kept == 4
    assert "1 rows could not be read" in caplog.text
    documents = write(tmp_path / "corpus.jsonl", [{"_id": "1", "title": "t", "text": "x"}])
    with pytest.raises(CatalogError, match="no pair could be read"):
        catalog_of([documents], tmp_path / "other")


def test_a_file_that_does_not_exist_makes_no_run(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="does not exist"):
        catalog_of([tmp_path / "none.jsonl"], tmp_path / "run")
    assert not (tmp_path / "run").exists()


def _make(file: str, out: str) -> None:
    assert catalog_of([file], Path(out))[1].kept == 4


def test_processes_of_one_run_make_its_catalog_once(tmp_path: Path) -> None:
    file = write(tmp_path / "train.jsonl", FLAG)
    run_in_processes(_make, [(str(file), str(tmp_path / "run"))] * 2)
    catalog, _ = catalog_of([file], tmp_path / "run")
    assert (count(catalog, "pairs where query is not null"), count(catalog, "files")) == (4, 1)


def test_the_trainer_module_is_the_command_for_many_processes() -> None:
    words = [sys.executable, "-m", "trainer", "--local_rank=1", "--help"]
    said = {
        rank: subprocess.run(
            words, env={**os.environ, "RANK": rank}, capture_output=True, text=True, check=True
        ).stdout
        for rank in ("0", "1")
    }
    assert "--snapshot" in said["0"]
    assert said["1"] == ""
