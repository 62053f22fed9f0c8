import pytest

from catalog import files
from catalog.files import delete_file_rows, first_pair_id, known_files, reserve_file_ids
from catalog.lake import Catalog
from tests.processes import run_in_processes
from tests.tiny_catalog import ZHIHU, A, B, add_file, fetch


def test_a_file_gets_one_number_for_ever(catalog: Catalog) -> None:
    assert reserve_file_ids(catalog, "one", [("a", "1"), ("b", "2")]) == [1, 2]
    assert reserve_file_ids(catalog, "two", [("a", "1")]) == [3]
    # A job that was killed and asks again, for more.
    assert reserve_file_ids(catalog, "one", [("b", "2"), ("c", "3"), ("a", "1")]) == [2, 4, 1]


def reserve(url: str, job: str) -> None:
    reserve_file_ids(Catalog.open(url), job, [("a", "1"), ("b", "2")])


def test_jobs_that_reserve_at_once_never_share_a_number(catalog: Catalog) -> None:
    run_in_processes(reserve, [(catalog.location.url, f"job{number}") for number in range(4)])
    rows = fetch(catalog, "select file_id from file_numbers order by file_id")
    assert [number for (number,) in rows] == list(range(1, 9))


def test_pair_ids_say_which_file_they_are_from(tiny_corpus: Catalog) -> None:
    assert (first_pair_id(1), first_pair_id(2)) == (A, B)
    assert fetch(tiny_corpus, "select distinct pair_id >> 32, source from pairs order by 1") == [
        (1, "zhihu"),
        (2, "news"),
    ]
    assert first_pair_id(files.FILE_ID_END) == 1 << 63  # one too many for a signed id


def test_file_numbers_end_before_ids_overflow(
    catalog: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "FILE_ID_END", 3)
    reserve_file_ids(catalog, "one", [("a", "1"), ("b", "2")])
    with pytest.raises(ValueError, match="file number 3 does not fit"):
        reserve_file_ids(catalog, "two", [("c", "3")])
    assert fetch(catalog, "select count(*) from file_numbers") == [(2,)]


def test_deleting_a_file_takes_what_derives_from_it_but_no_history(corpus: Catalog) -> None:
    before = corpus.version()
    corpus.transact(lambda c: delete_file_rows(c, 1))
    for table in ("pairs", "signals_0001", "scores"):
        assert fetch(corpus, f"select count(*) from {table} where pair_id < {B}") == [(0,)]
    assert fetch(corpus, "select count(*) from pairs") == [(4,)]
    assert fetch(corpus, "select count(*) from quarantine") == [(0,)]
    for table in ("text_ids", "duplicates"):  # to be made anew: ids hung on what is gone
        assert fetch(corpus, f"select count(*) from {table}") == [(0,)]
    with corpus.reader() as connection:
        assert [file.path for file in known_files(connection)] == ["news.jsonl"]
    with corpus.reader(version=before) as connection:
        assert [file.path for file in known_files(connection)] == ["zhihu.jsonl", "news.jsonl"]
        assert connection.execute("select count(*) from pairs").fetchall() == [(11,)]
    assert add_file(corpus, "again.jsonl", ZHIHU) == 3  # numbers are not used twice
