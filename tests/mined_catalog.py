"""A tiny catalog with a mining run, written out row by row: what was found is in the comments."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa

from catalog import duck
from catalog.lake import Catalog
from catalog.schema import CANDIDATES
from catalog.snapshots import Snapshot, create_snapshot
from tests.pack_catalog import candidates, make_catalog, pair, scores

F = 1 << 32  # ids of the first file
PIANO, PRICE, LIGHT, RAIN = F + 0, F + 2, F + 3, F + 4  # queries
ROWS = [
    pair(1, 0, "怎么学钢琴", "先学指法，再练曲子。"),
    pair(1, 1, "怎么学钢琴", "找一位老师。\n每周一次。"),
    pair(1, 2, "钢琴多少钱", "三千到十万都有。"),
    pair(1, 3, "what is <b>light</b>", "Light is an electromagnetic wave."),
    pair(1, 4, "会下雨吗", "今天晴。", label=0.0),  # judged irrelevant: no positive
    pair(1, 5, None, "没有人问的一段话。"),
    pair(1, 6, "被拒绝的问题", "被拒绝的回答。", source="dropped"),
    pair(1, 7, "怎么学钢琴", "先学指法，再练曲子。"),  # the same pair again
]
# (passage, score, reasons): 1 positive, 2 same text, 4 near-duplicate, 8 relative margin.
LISTS = {
    PIANO: [(F, 0.9, 9), (F + 1, 0.8, 13), (F + 2, 0.79, 8), (F + 5, 0.5, 0), (F + 3, 0.25, 0)],
    PRICE: [(F + 2, 0.75, 9), (F + 5, 0.5, 0), (F + 4, 0.25, 4)],
    LIGHT: [(F + 3, 0.75, 9), (F + 2, 0.74, 8)],  # nothing is left
    RAIN: [(F + 4, 0.25, 0), (F + 5, -0.25, 0)],
}
POSITIVE_SCORES = {PIANO: 0.8, PRICE: 0.75, LIGHT: 0.75, RAIN: None}
SPEC = {"model": "bge", "revision": "1", "instruction": "", "width": 8}


def make_mined(folder: Path) -> tuple[Catalog, Snapshot]:
    """Make a catalog with pairs, teacher scores and the run ``mine-0001`` of its snapshot v1."""
    taught = [*scores("bge", "1", {F: 0.5}), *scores("bge", "2", {F: 0.875, F + 7: 0.1})]
    catalog = make_catalog(folder, ROWS, {"scores": [*taught, *scores("m3e", "1", {F: 0.25})]})
    snapshot = create_snapshot(catalog, "v1")
    add_run(catalog, "mine-0001", snapshot, LISTS)
    return catalog, snapshot


def add_run(
    catalog: Catalog,
    run: str,
    snapshot: Snapshot,
    lists: dict[int, list[tuple[int, float, int]]],
    minute: int = 0,
    **settings: Any,
) -> None:
    """Record a mining run as ``mine`` does."""
    described = {
        "depth": 5,
        "miners": ["exact"],
        "tasks": ["retrieval"],
        "filters": {"relative_margin": 0.95, "absolute_margin": None, "max_score": None},
        "relevance": None,
        "ann": None,
        "snapshot": snapshot.name,
        "snapshot_digest": snapshot.digest,
        "lake_version": snapshot.lake_version,
        "embeddings": {"query": SPEC, "passage": SPEC},
        "found": {"queries": len(lists), "passages": 6, "recall": None},
        **settings,
    }
    rows = [
        {**row, "positive_score": POSITIVE_SCORES.get(row["query_id"], 0.75)}
        for row in candidates(run, lists)
    ]
    found = pa.Table.from_pylist(rows, CANDIDATES)
    when = datetime(2026, 11, 20, 12, minute, tzinfo=UTC)

    def record(connection: duck.Connection) -> None:
        connection.execute(
            "insert into runs values (?, 'mine', null, ?, [], 'test', ?, ?, 'finished', 1)",
            [run, json.dumps(described), when, when],
        )
        connection.register("found", found)
        connection.execute("insert into candidates select * from found")

    catalog.transact(record)
