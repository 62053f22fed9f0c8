"""How fast are pages extracted, and how much of their text is kept, beside datatrove's Trafilatura?

    python -m benchmarks.extraction [DATA]      # writes benchmarks/extraction.md, half a minute

Both sides read the same decoded pages in one process and thread, in the same run, by turns; CPU
seconds count. The peer is Trafilatura with the arguments of datatrove's ``Trafilatura`` extractor.
Kept and leaked are measured on the Chinese news pages that come with a reference text, the output
of GNE's test suite:

    kept    share of the reference's character 8-grams that are in the extracted text
    leaked  share of the extracted text's 8-grams that are not in the reference

White space does not count. The reference is itself an extractor's, checked by its authors: lines
such as the editor's name are in it, and some of the articles are cut; both sides meet the same one.
For pages without a reference only speed is measured, and the share of pages with any text.
"""

import re
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq

from benchmarks.machine import DATA, describe
from curation.extraction.blocks import parse_page, read_blocks
from curation.extraction.encodings import decode_page
from curation.extraction.errors import PageError
from curation.extraction.main_content import find_content
from curation.extraction.pages import Page, decompressed, read_archive
from curation.extraction.pairs import html_pairs
from curation.extraction.settings import PageSettings
from curation.extraction.titles import find_title

ROUNDS = 3
GRAM = 8
PACKAGES = ("datatrove", "trafilatura", "lxml", "warcio")
SETTINGS = PageSettings()


def main() -> None:
    data = (Path(sys.argv[1]) if len(sys.argv) > 1 else DATA) / "pages"
    news = data / "gne_chinese_news_html.parquet"
    if not news.is_file():
        sys.exit(f"there is no {news}: name the folder that holds pages/")
    rows = pq.read_table(news).to_pylist()
    crawl = [text for path in sorted(data.glob("*.warc.gz")) for text in read_crawl(path)]
    text = report(rows, crawl)
    Path(__file__).with_suffix(".md").write_text(text, encoding="utf-8")
    print(text)


def read_crawl(path: Path) -> list[str]:
    with path.open("rb") as file:
        pages: list[Page] = list(read_archive(decompressed(file, "gzip"), 1 << 24))
    return [decode_page(page.data, page.charset)[0] for page in pages if not page.reason]


def lode(text: str) -> str:
    root = parse_page(text)
    if root is None:
        return ""
    return "\n".join(block.text for block in find_content(read_blocks(root), find_title(root)))


def lode_pairs(text: str) -> str:
    """Do all that ``lode extract`` does with a decoded page: titles, sections, answers, too."""
    try:
        return "\n".join(pair.positive for pair in html_pairs(text, SETTINGS))
    except PageError:
        return ""


def trafilatura(text: str) -> str:
    from trafilatura import extract

    return extract(text, favor_precision=True, include_comments=False, deduplicate=True) or ""


def trafilatura_recall(text: str) -> str:
    from trafilatura import extract

    return extract(text, favor_recall=True, fast=True, include_comments=False) or ""


SIDES: dict[str, Callable[[str], str]] = {
    "Lode, content": lode,
    "Lode, all pairs": lode_pairs,
    "datatrove's Trafilatura": trafilatura,
    "Trafilatura, fast, favoring recall": trafilatura_recall,
}


def timed(extract: Callable[[str], str], texts: list[str]) -> tuple[float, list[str]]:
    start = time.process_time()
    found = [extract(text) for text in texts]
    return time.process_time() - start, found


def grams(text: str) -> set[str]:
    text = re.sub(r"\s+", "", text)
    return {text[at : at + GRAM] for at in range(max(1, len(text) - GRAM + 1))}


def kept_and_leaked(reference: str, found: str) -> tuple[float, float]:
    wanted, got = grams(reference), grams(found)
    return len(wanted & got) / len(wanted), len(got - wanted) / len(got)


def report(rows: list[dict], crawl: list[str]) -> str:
    news = [row["html"] for row in rows]
    lines = [
        "# Extraction: speed, text kept, boilerplate leaked\n",
        "`python -m benchmarks.extraction`; targets: at least as fast as datatrove's Trafilatura "
        "per core and better in text kept.\n",
        describe(PACKAGES) + "\n",
        f"{len(news)} Chinese news pages ({sum(map(len, news)) / 1e6:.1f}M characters of HTML) and "
        f"{len(crawl)} pages of two WARC samples; CPU ms a page, {ROUNDS} rounds by turns.\n",
        "| | news: min | median | max | crawl: median | pages with text, news | crawl |",
        "|---|---|---|---|---|---|---|",
    ]
    times: dict[str, list[float]] = {name: [] for name in SIDES}
    crawl_times: dict[str, list[float]] = {name: [] for name in SIDES}
    texts: dict[str, list[str]] = {}
    crawl_texts: dict[str, list[str]] = {}
    for extract in SIDES.values():
        extract(news[0])  # imports and tables
    for _ in range(ROUNDS):
        for name, extract in SIDES.items():
            seconds, found = timed(extract, news)
            texts.setdefault(name, found)  # Trafilatura drops what it met in an earlier round
            times[name].append(1e3 * seconds / len(news))
            seconds, found = timed(extract, crawl)
            crawl_texts.setdefault(name, found)
            crawl_times[name].append(1e3 * seconds / len(crawl))
    for name, ms in times.items():
        lines.append(
            f"| {name} | {min(ms):.1f} | {statistics.median(ms):.1f} | {max(ms):.1f} | "
            f"{statistics.median(crawl_times[name]):.1f} | "
            f"{sum(map(bool, texts[name]))} | {sum(map(bool, crawl_texts[name]))} |"
        )
    ours, peer = (statistics.median(times[name]) for name in ("Lode, all pairs", list(SIDES)[2]))
    lines.append(f"\nPer core Lode extracts **{peer / ours:.1f} times** the news pages.\n")
    return "\n".join(lines + quality(rows, texts))


def quality(rows: list[dict], texts: dict[str, list[str]]) -> list[str]:
    at = [index for index, row in enumerate(rows) if row["gne_content"]]
    lines = [
        f"Against the reference text of {len(at)} pages (character {GRAM}-grams, mean of pages):\n",
        "| | kept | leaked | pages with less than half kept | pages with more than half leaked |",
        "|---|---|---|---|---|",
    ]
    for name in SIDES:
        if name == "Lode, all pairs":
            continue  # a section's text is in the content, too
        both = [kept_and_leaked(rows[index]["gne_content"], texts[name][index]) for index in at]
        kept, leaked = zip(*both, strict=True)
        lines.append(
            f"| {name} | {statistics.mean(kept):.3f} | {statistics.mean(leaked):.3f} | "
            f"{sum(one < 0.5 for one in kept)} | {sum(one > 0.5 for one in leaked)} |"
        )
    return [*lines, ""]


if __name__ == "__main__":
    main()
