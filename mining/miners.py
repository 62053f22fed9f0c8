"""Miners: the searches that rank a snapshot's passages for its queries, alone or fused.

What they need is prepared once in a folder; any worker then ranks any queries from there.
"""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

import numpy as np

from catalog.draws import draw
from mining import ann
from mining.ann import AnnSettings
from mining.bm25 import Bm25, Bm25Settings
from mining.fusion import reciprocal_rank
from mining.search import Ids, Scores, score_rows, search
from mining.search_plan import SearchSettings
from mining.text_file import TextFile
from mining.vectors import Vectors

EXACT: Final = "exact"
BM25: Final = "bm25"
MINERS: Final = (EXACT, *ann.KINDS, BM25)


@dataclass(frozen=True)
class Materials:
    """The files that miners read: vectors and texts by row, and their indexes."""

    folder: Path

    def vectors(self, side: str) -> Vectors:
        """Open the vectors of queries or passages."""
        return Vectors(np.load(self.folder / f"{side}_vectors.npy", mmap_mode="r"))

    def texts(self, side: str) -> TextFile:
        """Open the texts of queries or passages."""
        return TextFile(self.folder / f"{side}_texts.arrow")

    def index_path(self, miner: str) -> Path:
        """Return where a miner's index is."""
        return self.folder / f"{miner}.index"


def prepare_ann(
    materials: Materials, settings: AnnSettings, depth: int, sample: int, search: SearchSettings
) -> float:
    """Build the index unless it is there, and measure its recall on a sample of the queries."""
    path = materials.index_path(settings.kind)
    passages, queries = materials.vectors("passage"), materials.vectors("query")
    if not path.exists():
        ann.save_index(ann.build_index(passages, settings), path)
    index = _load_ann(path, settings)
    rows = np.arange(len(queries))
    drawn = np.sort(np.argsort(draw(settings.seed, "recall sample", rows), kind="stable")[:sample])
    sampled = queries.take(drawn)
    return ann.measure_recall(index, sampled, passages, depth, settings, search)


def prepare_bm25(materials: Materials, settings: Bm25Settings) -> None:
    """Build the index unless it is there."""
    if not materials.index_path(BM25).exists():
        Bm25.build(materials.texts("passage"), settings).save(materials.index_path(BM25))


def rank_passages(
    materials: Materials,
    miners: tuple[str, ...],
    here: slice,
    depth: int,
    ann_settings: AnnSettings | None,
    search_settings: SearchSettings,
) -> tuple[Ids, Scores]:
    """Return (rows, scores) of the passages that the miners rank first, queries x depth.

    Scores are always the encoder's, so that they mean the same whoever ranked: in the order of a
    lexical miner or of several fused ones they do not fall.
    """
    queries = Vectors(materials.vectors("query").read(here.start, here.stop))
    passages = materials.vectors("passage")
    lists = [
        _rank_by(miner, materials, queries, here, depth, ann_settings, search_settings)
        for miner in miners
    ]
    if len(miners) == 1 and miners[0] != BM25:
        return lists[0]
    rows = lists[0][0] if len(miners) == 1 else reciprocal_rank(lists, depth)[0]
    return rows, score_rows(queries, passages, rows, search_settings)


def _rank_by(
    miner: str,
    materials: Materials,
    queries: Vectors,
    here: slice,
    depth: int,
    ann_settings: AnnSettings | None,
    search_settings: SearchSettings,
) -> tuple[Ids, Scores]:
    if miner == EXACT:
        return search(queries, materials.vectors("passage"), depth, search_settings)
    path = materials.index_path(miner)
    if miner == BM25:
        texts = materials.texts("query").take(np.arange(here.start, here.stop))
        return _load_bm25(path).search(texts, depth)
    assert ann_settings is not None
    index = _load_ann(path, ann_settings)
    passages = materials.vectors("passage")
    return ann.search_index(index, queries, passages, depth, ann_settings, search_settings)


# A worker ranks many blocks of queries; it loads an index once.
@lru_cache(maxsize=1)
def _load_ann(path: Path, settings: AnnSettings) -> Any:
    return ann.load_index(path, settings)


@lru_cache(maxsize=1)
def _load_bm25(path: Path) -> Bm25:
    return Bm25.load(path)
