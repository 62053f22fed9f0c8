"""Work that must end the same wherever its tasks run, on a tiny corpus."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from catalog.evaluation_sets import EvaluationSet
from catalog.executors import ExecutorSettings
from catalog.lake import Catalog
from catalog.policies import Condition, Policy
from catalog.policy_commit import commit_policy
from catalog.snapshots import create_snapshot
from curation.curate import curate
from curation.decontaminate import decontaminate
from curation.demo import generate
from curation.extract import extract_pages, find_pages
from curation.ingest import find_sources, ingest_files
from curation.recipes import load_recipe, load_sources
from mining.embed import embed
from mining.encoder import LEXICAL, SIDES, EncoderSettings
from mining.mine import mine
from mining.mine_settings import MineSettings
from mining.score import score
from tests.tiny_catalog import fetch
from tests.web_pages import ARTICLE, CONTENT, page, warc

ALONE = ExecutorSettings(workers=1)


def curate_and_mine(
    folder: Path, executor: ExecutorSettings, rest: ExecutorSettings = ALONE
) -> list[Any]:
    """Return the snapshot's digest and every candidate with its score.

    Curation and mining run on ``executor``, ingest and embedding on ``rest``.
    """
    sources = load_sources(generate(folder / "raw", 200).recipe)
    catalog = Catalog.create(str(folder / "corpus"))
    # One file, and no neighbors' neighbors: few tasks, as each costs seconds beside its work.
    found = find_sources(recipe={"news": sources["news"]})
    ingest_files(catalog, found, executor=rest)
    recipe = load_recipe("conan-v1")
    recipe = replace(recipe, duplicates={**recipe.duplicates, "neighbors": 0})
    curate(catalog, recipe, executor)
    snapshot = create_snapshot(catalog, "v1")
    encoder = EncoderSettings(LEXICAL)
    for side in SIDES:
        embed(catalog, snapshot, encoder, side, rest)
    mine(catalog, snapshot, MineSettings(depth=10), encoder, executor)
    candidates = "query_id, passage_ids, scores, filtered_by from candidates order by query_id"
    return [snapshot.digest, *fetch(catalog, f"select {candidates}")]


def write_crawl(folder: Path) -> Path:
    """Write two archives of three pages and a broken one; no two writings have the same bytes."""
    folder.mkdir()
    for name in ("a", "b"):
        pages = [
            (
                f"http://news.cn/{name}/{n}",
                page(f"{ARTICLE}<p>{name}{n}</p>", f"{name}报{n}").encode(),
            )
            for n in range(3)
        ]
        (folder / f"{name}.warc.gz").write_bytes(warc(*pages, ("http://news.cn/0", b"")))
    return folder


def extract_and_score(folder: Path, crawl: Path, executor: ExecutorSettings) -> list[Any]:
    """Return the snapshot's digest, what is broken or stands in an evaluation set, and scores.

    Extraction, decontamination, embedding and scoring run on ``executor``.
    """
    catalog = Catalog.create(str(folder))
    extract_pages(catalog, find_pages([crawl]), executor=executor)
    decontaminate(catalog, [EvaluationSet("news", ["corpus:0"], [CONTENT])], executor)
    commit_policy(catalog, Policy("all", (Condition("any", "rules", require="true"),)))
    snapshot = create_snapshot(catalog, "v1")
    assert score(catalog, snapshot, EncoderSettings("lexical-16"), executor).pairs == snapshot.kept
    tables = ("quarantine", "contamination", "scores")
    return [snapshot.digest, *(fetch(catalog, f"from {name} order by all") for name in tables)]
