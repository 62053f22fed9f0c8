"""Peers' files through ingest, curation, mining and export: the same data, with hard negatives."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from catalog.executors import ExecutorSettings
from catalog.export import ExportSettings, NegativeSettings, export_pairs
from catalog.lake import Catalog
from catalog.policies import Policy
from catalog.snapshots import create_snapshot, load_snapshot
from curation.curate import curate
from curation.ingest import find_sources, ingest_files
from curation.recipes import Recipe
from curation.texts import from_strings, instructed_keys, normalize, text_keys
from mining.embed import embed
from mining.encoder import EncoderSettings
from mining.mine import mine
from mining.mine_settings import MineSettings
from tests.sources import jsonl, read, write

pytestmark = pytest.mark.slow

PEERS = Path(__file__).parents[2] / "shared" / "data" / "peers"
ALONE = ExecutorSettings(workers=1)
ENCODER = EncoderSettings("lexical-64", threads=1)
NEGATIVES = 7
FILES = (
    "FlagEmbedding/toy_finetune_data.jsonl",
    "FlagEmbedding/msmarco.jsonl",
    "NeMo-Curator/hard-neg-input-data.jsonl.zst",
    "text2vec/bge_finetune_data.jsonl.zst",
)
Lines = list[dict[str, Any]]
TOY = [
    {
        "query": f"怎么做第{n}道菜？",
        "pos": [f"第{n}道菜要先洗菜，再切{n}刀。", f"第{n}道菜最后放盐。"][: 1 + n % 2],
        "neg": [f"第{n + 1}道菜不放盐。"] if n % 3 == 0 else [],
    }
    for n in range(12)
]


def mined(folder: Path, paths: Sequence[Path]) -> Catalog:
    """Take files as far as candidates; everything is kept."""
    catalog = Catalog.create(str(folder))
    ingest_files(catalog, find_sources(paths, sets=["task=retrieval"]), executor=ALONE)
    curate(catalog, Recipe("all", folder, Policy("all", ())), ALONE)
    create_snapshot(catalog, "v1")
    snapshot = load_snapshot(catalog, "v1")
    for side in ("query", "passage"):
        embed(catalog, snapshot, ENCODER, side, ALONE)
    mine(catalog, snapshot, MineSettings(depth=50), ENCODER, ALONE)
    return catalog


def export(catalog: Catalog, path: Path, format: str, **more: Any) -> None:
    settings = ExportSettings(format, NegativeSettings(NEGATIVES, **more))
    export_pairs(catalog, load_snapshot(catalog, "v1"), path, settings)


def lines(path: Path) -> Lines:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def keys(texts: Sequence[str], prompts: Sequence[str | None] | None = None) -> list[object]:
    """Return the keys by which Lode knows equal texts, those with prompts of their own apart."""
    own = pa.array(prompts or [None] * len(texts), pa.string())
    found: list[object] = instructed_keys(
        text_keys(normalize(from_strings(texts))), own
    ).to_pylist()
    return found


def asked(*sources: Path) -> Lines:
    """Read the pairs of files; given negatives are passages without a query beside them."""
    pairs = [pair for source in sources for pair in read(source)[0]]
    return [pair for pair in pairs if pair["query"] is not None]


def answers(pairs: Lines) -> dict[object, set[object]]:
    """Return the positives of every query, by key."""
    found: dict[object, set[object]] = {}
    for pair in pairs:
        found.setdefault(pair["query_key"], set()).add(pair["positive_key"])
    return found


def check(catalog: Catalog, sources: Sequence[Path], folder: Path) -> None:
    """Compare an export with its sources, and read it back as Lode reads peers' files."""
    wanted = answers(asked(*sources))
    export(catalog, folder / "all.jsonl", "flagembedding")
    export(catalog, folder / "mined.jsonl", "flagembedding", keeps_given=False)
    export(catalog, folder / "tuples.jsonl", "sentence-transformers", keeps_given=False)
    for name in ("all", "mined"):
        assert answers(asked(folder / f"{name}.jsonl")) == wanted
    rows = lines(folder / "mined.jsonl")
    assert any(len(row["neg"]) == NEGATIVES for row in rows)
    for row in rows:
        (query,) = keys([row["query"]], [row.get("prompt")])
        negatives = set(keys(row["neg"]))
        assert negatives.isdisjoint(wanted[query])
        assert len(negatives) == len(row["neg"]) == len(row.get("neg_scores", []))
    whole = {row["query"]: row["neg"] for row in rows if len(row["neg"]) == NEGATIVES}
    tuples = asked(folder / "tuples.jsonl")
    assert {pair["query"] for pair in tuples} >= set(whole)
    for pair in tuples:  # a pair keeps its own writing of the query
        assert pair["negatives"] == whole.get(pair["query"], pair["negatives"])
        assert len(pair["negatives"]) == NEGATIVES


def test_a_file_of_our_own_comes_back_with_negatives(tmp_path: Path) -> None:
    source = write(tmp_path, "toy.jsonl", jsonl(*TOY))
    catalog = mined(tmp_path / "corpus", [source])
    check(catalog, [source], tmp_path)
    before, after = TOY, lines(tmp_path / "all.jsonl")
    assert [(row["query"], row["pos"]) for row in after] == [
        (row["query"], row["pos"]) for row in before
    ]
    for old, new in zip(before, after, strict=True):
        assert new["neg"][: len(old["neg"])] == old["neg"]
    # What was exported can be the source of the next corpus.
    again = asked(tmp_path / "all.jsonl")
    assert [len(pair["negatives"]) for pair in again] == [NEGATIVES] * 18


@pytest.mark.data
@pytest.mark.skipif(not PEERS.exists(), reason=f"{PEERS} is not there")
def test_the_files_of_peers_come_back_with_negatives(tmp_path: Path) -> None:
    files = [PEERS / name for name in FILES]
    check(mined(tmp_path / "corpus", files), files, tmp_path)
