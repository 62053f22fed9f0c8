"""Tiny catalogs for the tests of packs, and what a pack of them must hold, worked out slowly."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import xxhash

from catalog.jobs import open_job
from catalog.lake import Catalog
from catalog.policies import Condition, Policy
from catalog.policy_commit import commit_policy
from catalog.schema import (
    CANDIDATES,
    DUPLICATES,
    FILE_SHIFT,
    PAIRS,
    SCORES,
    TASKS,
    TEXT_IDS,
)

KEEP = Policy("keep", (Condition("dropped", "rules", require="source <> 'dropped'"),))
Row = dict[str, Any]


def pair(file: int, ordinal: int, query: str | None, positive: str, **more: object) -> Row:
    """Make a pair: source 'web', task retrieval unless told."""
    return {
        "pair_id": (file << FILE_SHIFT) + ordinal,
        "source": "web",
        "form": "text-text",
        "task": "retrieval",
        "query": query,
        "positive": positive,
        "negatives": None,
        "label": None,
        "url": None,
        "meta": None,
        "file_row": ordinal,
        "query_key": _key(query),
        "positive_key": _key(positive),
        "pair_key": _key(None if query is None else f"{query}\0{positive}"),
        **more,
    }


def _key(text: str | None) -> bytes | None:
    """Case does not count, as a stand-in for the normal form."""
    return None if text is None else xxhash.xxh3_128_digest(text.lower().encode())


Tables = dict[str, list[Row]]
SCHEMAS = {
    "pairs": PAIRS,
    "text_ids": TEXT_IDS,
    "duplicates": DUPLICATES,
    "scores": SCORES,
    "candidates": CANDIDATES,
}


def write_tables(catalog: Catalog, tables: Tables) -> None:
    """Add rows to tables in one job."""
    with open_job(catalog, "write", {}, {"tables": repr(tables)}) as job:
        with job.output.task("rows", 0) as output:
            for table, rows in tables.items():
                output.write(table, pa.Table.from_pylist(rows, SCHEMAS[table]))
        job.commit()


def text_ids(rows: Sequence[Row]) -> list[Row]:
    """Name every text by the smallest pair id that holds it."""
    first: dict[tuple[str, object], object] = {}
    for row in sorted(rows, key=lambda row: row["pair_id"]):
        first.setdefault(("query", row["query_key"]), row["pair_id"])
        first.setdefault(("passage", row["positive_key"]), row["pair_id"])
    return [
        {
            "pair_id": row["pair_id"],
            "query_id": first["query", row["query_key"]] if row["query"] is not None else None,
            "passage_id": first["passage", row["positive_key"]],
        }
        for row in rows
    ]


def make_catalog(
    folder: Path, rows: Sequence[Row], more: Tables | None = None, *, unnamed_file: int = -1
) -> Catalog:
    """Make a catalog of pairs with their text ids, but for those of one file.

    The pairs lie in the lake in no order.
    """
    catalog = Catalog.create(str(folder))
    shuffled = sorted(rows, key=lambda row: xxhash.xxh3_64_intdigest(str(row["pair_id"])))
    named = [row for row in rows if row["pair_id"] >> FILE_SHIFT != unnamed_file]
    write_tables(catalog, {"pairs": shuffled, "text_ids": text_ids(named), **(more or {})})
    commit_policy(catalog, KEEP)
    return catalog


def scores(model: str, revision: str, of_pairs: dict[int, float]) -> list[Row]:
    """Make teacher scores of pairs."""
    return [
        {"pair_id": pair_id, "model": model, "revision": revision, "score": score}
        for pair_id, score in of_pairs.items()
    ]


def candidates(run: str, lists: dict[int, list[tuple[int, float, int]]]) -> list[Row]:
    """Make candidate lists: query id -> (passage id, score, reason it was removed for or 0)."""
    return [
        {
            "query_id": query_id,
            "run": run,
            "passage_ids": [passage for passage, _, _ in entries],
            "scores": [score for _, score, _ in entries],
            "filtered_by": [reason for _, _, reason in entries],
            "positive_score": 0.75,
        }
        for query_id, entries in lists.items()
    ]


def cluster(members: Sequence[int]) -> list[Row]:
    """Make a near-duplicate cluster of passages, by passage id."""
    return [
        {
            "pair_id": member,
            "kind": "near",
            "cluster_id": min(members),
            "text_id": member,
            "matched_id": min(members),
            "jaccard": 0.9,
            "cluster_size": len(members),
            "template": False,
            "survivor": member == min(members),
        }
        for member in members
    ]


def kept_pairs(rows: Sequence[Row]) -> list[Row]:
    """List the pairs of a pack in its order: by task, then by pair id."""
    kept = [row for row in rows if row["source"] != "dropped" and row["query"] is not None]
    return sorted(kept, key=lambda row: (TASKS.index(str(row["task"])), row["pair_id"]))


def named_text(rows: Sequence[Row], side: str, row: Row) -> str:
    """Return the text of the smallest pair id that has the same text as a row."""
    key, text = {"query": ("query_key", "query"), "passage": ("positive_key", "positive")}[side]
    holders = [other for other in rows if other[key] == row[key]]
    return str(min(holders, key=lambda other: int(other["pair_id"]))[text])
