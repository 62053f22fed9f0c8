"""Work that must end the same wherever its tasks run: curation and mining of a tiny corpus."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from catalog.executors import ExecutorSettings
from catalog.lake import Catalog
from catalog.snapshots import create_snapshot
from curation.curate import curate
from curation.demo import generate
from curation.ingest import find_sources, ingest_files
from curation.recipes import load_recipe, load_sources
from mining.embed import embed
from mining.encoder import LEXICAL, SIDES, EncoderSettings
from mining.mine import mine
from mining.mine_settings import MineSettings
from tests.tiny_catalog import fetch

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
