"""The extract job: archives and pages become pairs with their origin, once, and can be resumed."""

import json

import pytest
import typer
from typer.testing import CliRunner

from catalog.errors import CatalogError
from catalog.executors import ExecutorSettings
from catalog.lake import Catalog
from curation.extract import extract_pages, find_pages
from curation.extract_commands import register
from curation.ingest import STAGE, find_sources, ingest_files
from curation.reading import SourceFileError
from tests.sources import TWO, jsonl, write
from tests.tiny_catalog import copy_catalog
from tests.web_pages import CONTENT, FIRST, SECOND, page, warc

ALONE = ExecutorSettings(workers=1)
URL = "http://news.cn/1"


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    return Catalog.create(str(tmp_path_factory.mktemp("template") / "corpus"))


@pytest.fixture
def catalog(template, tmp_path):
    return copy_catalog(template, tmp_path / "corpus")


def article(number, extra=""):
    return page(f"<div><p>{number}。{FIRST}<p>{SECOND}</div>{extra}").encode()


def extract(catalog, *paths, sets=(), pages=None, **options):
    return extract_pages(catalog, find_pages(paths, sets, pages), executor=ALONE, **options)


def rows(catalog, sql):
    with catalog.reader() as connection:
        return connection.execute(sql).fetchall()


def counts(catalog):
    tables = ("pairs", "quarantine", "files", "runs")
    return [rows(catalog, f"select count(*) from {table}")[0][0] for table in tables]


def test_an_archive_becomes_pairs_with_url_crawl_date_and_extractor(catalog, tmp_path):
    sections = f"<h2>一、票价</h2><p>{FIRST}</p><h2>二、线路</h2><p>{SECOND}</p>"
    crawl = warc(
        (URL, page().encode("gb18030"), "text/html; charset=gb2312"),
        ("http://news.cn/a.pdf", b"%PDF-1.4", "application/pdf"),
        ("http://news.cn/2", page(f"<div>{sections}</div>", "地铁").encode()),
    )
    path = write(tmp_path, "crawl.warc.gz", crawl)
    result = extract(catalog, path, sets=["source=crawl", "language=zh"])
    assert result.summary() == "4 pairs and passages from 1 files, 1 rows in quarantine"
    found = rows(catalog, "select source, form, query, positive, url, file_row, pair_id & 255, "
                          "meta from pairs order by pair_id")  # fmt: skip
    assert [row[:7] for row in found] == [
        ("crawl", "title-content", "第一条地铁开通", CONTENT, URL, 0, 0),
        ("crawl", "title-content", "地铁", f"一、票价\n{FIRST}\n二、线路\n{SECOND}",
         "http://news.cn/2", 2, 1),
        ("crawl", "title-content", "一、票价", FIRST, "http://news.cn/2", 2, 2),
        ("crawl", "title-content", "二、线路", SECOND, "http://news.cn/2", 2, 3),
    ]  # fmt: skip
    assert json.loads(found[0][7]) == {
        "kind": "title-content", "crawl_date": "2024-03-01T08:00:00Z", "encoding": "gb18030",
        "extractor": "lode/1",
    }  # fmt: skip
    assert json.loads(found[2][7])["heading_path"] == ["地铁"]
    assert rows(catalog, "select row, reason, raw from quarantine") == [
        (1, "is application/pdf, not HTML", b"http://news.cn/a.pdf\n%PDF-1.4")
    ]


def test_questions_and_answers_have_their_own_form(catalog, tmp_path):
    faq = {"@type": "FAQPage", "mainEntity": {"@type": "Question", "name": "多少钱？"}}
    faq["mainEntity"]["acceptedAnswer"] = {"text": "两元。"}
    script = f'<script type="application/ld+json">{json.dumps(faq)}</script>'
    path = write(tmp_path, "faq.html", page("", head=script).encode("big5hkscs", "ignore"))
    extract(catalog, path)
    found = rows(catalog, "select source, form, query, positive, url from pairs")
    assert found == [("web", "question-answer", "多少钱？", "两元。", None)]


def test_a_page_that_takes_too_long_is_a_row_of_quarantine(catalog, tmp_path):
    crawl = warc((URL, page("<p>一" * 300_000).encode()), ("http://news.cn/2", page().encode()))
    result = extract(catalog, write(tmp_path, "a.warc", crawl), pages={"page_cpu_s": 0.3})
    assert (result.rows, result.quarantined) == (1, 1)
    reason = "extraction took more processor time than page_cpu_s"
    assert rows(catalog, "select row, reason from quarantine") == [(0, reason)]


@pytest.mark.parametrize("name", ["cut.warc.gz", "cut.warc"])
def test_a_truncated_archive_keeps_what_came_before(catalog, tmp_path, name):
    padding = "<!-- the format is told by the first 4 KiB -->" * 99
    records = [(f"http://news.cn/{i}", article(i, padding)) for i in range(3)]
    crawl = warc(*records, gzip=name.endswith("gz"))
    result = extract(catalog, write(tmp_path, name, crawl[:-200]))
    assert (result.rows, result.quarantined) == (2, 1)
    ((reason,),) = rows(catalog, "select reason from quarantine")
    assert reason.startswith("the archive is damaged from here on (")


def test_the_same_content_adds_nothing_and_other_settings_need_replace(catalog, tmp_path):
    path = write(tmp_path, "a.warc.gz", warc((URL, page().encode())))
    extract(catalog, path)
    before = counts(catalog)
    copy = write(tmp_path, "b.warc.gz", path.read_bytes())
    assert extract(catalog, path, copy).skipped == [str(path), str(copy)]
    assert counts(catalog) == before
    with pytest.raises(CatalogError, match=r"was ingested with other settings; .*--replace"):
        extract(catalog, path, pages={"min_content_chars": 10_000})
    assert counts(catalog) == before
    again = extract(catalog, path, pages={"min_content_chars": 10_000}, replace=True)
    assert (again.rows, again.quarantined) == (0, 1)  # nothing but a reason is a result, too


def test_a_run_that_stopped_goes_on_with_the_files_that_are_missing(catalog, tmp_path, monkeypatch):
    good = write(tmp_path, "a.warc.gz", warc((URL, page().encode())))
    late = write(tmp_path, "b.html", page(f"<div><p>{SECOND}<p>{FIRST}</div>").encode())
    read = []

    def page_chunks(path, *arguments):
        read.append(path.name)
        if path == late and len(read) < 3:
            raise KeyboardInterrupt
        return original(path, *arguments)

    from curation.reading import formats

    original = formats.page_chunks
    monkeypatch.setattr(formats, "page_chunks", page_chunks)
    with pytest.raises(KeyboardInterrupt):
        extract(catalog, good, late)
    assert counts(catalog) == [0, 0, 0, 0]
    finished = len(read) - 1
    extract(catalog, good, late)
    assert sorted(read) == sorted(["a.warc.gz", "b.html", "b.html"])[: len(read)]
    assert len(read) == finished + 2
    assert rows(catalog, "select count(*), count(distinct pair_id) from pairs") == [(2, 2)]


@pytest.mark.slow
def test_two_workers_extract_what_one_does(template, tmp_path):
    paths = [write(tmp_path, f"{i}.warc.gz", warc((URL, article(i)))) for i in range(3)]
    found = []
    for workers in (1, 2):
        one = copy_catalog(template, tmp_path / f"c{workers}")
        extract_pages(one, find_pages(paths), executor=ExecutorSettings(workers))
        found.append(rows(one, "select * exclude (pair_id) from pairs order by positive"))
    assert found[0] == found[1]
    assert len(found[0]) == 3


def test_a_folder_stands_for_its_pages_and_other_files_are_refused(catalog, tmp_path):
    folder = tmp_path / "site"
    (folder / ".git").mkdir(parents=True)
    for name in ("a.html", "notes.txt", ".git/b.html"):
        write(folder, name, page().encode())
    write(folder, "guide.md", f"# 指南\n{FIRST}{SECOND}\n".encode())
    assert [source.path.name for source in find_pages([folder, folder])] == ["a.html", "guide.md"]
    assert extract(catalog, folder).rows == 2
    (empty := tmp_path / "empty").mkdir()
    rowwise = write(tmp_path, "rows.jsonl", jsonl(*TWO))
    with pytest.raises(SourceFileError, match=r"is jsonl, which holds no web pages; read it with"):
        find_pages([rowwise])
    with pytest.raises(SourceFileError, match=r"is a folder without pages; its files end in .warc"):
        find_pages([empty])
    fake = write(tmp_path, "fake.warc.gz", jsonl(*TWO))
    with pytest.raises(SourceFileError, match=r"is named warc but begins with"):
        find_pages([fake])
    with pytest.raises(ValueError, match="there is nothing to extract"):
        find_pages([])


def test_ingest_reads_pages_beside_other_sources_and_refuses_to_map_their_columns(
    catalog, tmp_path
):
    paths = [write(tmp_path, "a.html", page().encode()), write(tmp_path, "b.jsonl", jsonl(*TWO))]
    assert ingest_files(catalog, find_sources(paths), executor=ALONE).rows == 3
    with pytest.raises(ValueError, match=r"pages have no columns to map \(query\); leave"):
        ingest_files(catalog, find_sources(paths[:1], ["query=x"]), replace=True, executor=ALONE)


def test_the_command_says_what_it_did(catalog, tmp_path):
    app = typer.Typer()
    register(app)
    app.command("other")(lambda: None)
    path = write(tmp_path, "a.warc.gz", warc((URL, page().encode())))
    arguments = ["extract", str(path), "-c", str(tmp_path / "corpus"), "-w", "1"]
    for expected in (
        "1 pairs and passages from 1 files, 0 rows in quarantine\n",
        "1 files skipped: the catalog holds their content\n",
    ):
        assert CliRunner().invoke(app, arguments).output == expected
    wrong = CliRunner().invoke(app, [*arguments, "--kind", "faq"])
    assert "found 'faq'; allowed are title-content" in str(wrong.exception)


def test_progress_counts_bytes_of_the_files(catalog, tmp_path):
    path = write(tmp_path, "a.warc.gz", warc((URL, page().encode())))
    seen = []
    extract(catalog, path, progress=lambda stage, done: seen.append((stage, done)))
    assert seen[-1] == (STAGE, path.stat().st_size)
