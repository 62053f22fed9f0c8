"""Tiny catalogs, written out row by row, for the tests of the catalog package."""

import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import xxhash

from catalog import duck
from catalog.files import reserve_file_ids
from catalog.jobs import open_job
from catalog.lake import Catalog
from catalog.location import resolve
from catalog.policies import Condition, Policy
from catalog.policy_commit import commit_policy
from catalog.schema import DUPLICATES, FILE_SHIFT, PAIRS, SCORES, TEXT_IDS, create_table_sql
from catalog.snapshots import create_snapshot
from catalog.views import refresh_views

Row = dict[str, Any]


def copy_catalog(template: Catalog, folder: Path) -> Catalog:
    """Copy a local catalog: making one takes a second, copying it milliseconds."""
    shutil.copytree(template.location.work, folder)
    return Catalog(resolve(str(folder)))


def pair(pair_id: int, query: str | None, positive: str, **more: object) -> Row:
    """Make a row of ``pairs``; texts that are equal have equal keys."""
    return {
        "pair_id": pair_id,
        "source": "zhihu",
        "form": "question-answer",
        "task": "retrieval",
        "query": query,
        "positive": positive,
        "negatives": None,
        "label": None,
        "url": None,
        "meta": None,
        "file_row": pair_id & 0xFFFFFFFF,
        "query_key": key(query),
        "positive_key": key(positive),
        "pair_key": None if query is None else key(f"{query}\0{positive}"),
        **more,
    }


def key(text: str | None) -> bytes | None:
    """Stand in for the 128-bit key of a normalised text."""
    return None if text is None else xxhash.xxh3_128_digest(text.encode())


def add_file(
    catalog: Catalog, name: str, rows: Sequence[Row], *, source: str = "zhihu", unread: int = 0
) -> int:
    """Add a source file as a job would, and return its number; the rows get ids of that file."""
    with open_job(catalog, "ingest", {}, {"path": name, "rows": repr(rows)}) as job:
        (file_id,) = reserve_file_ids(catalog, job.job_id, [(name, name)])
        own = [{**row, "pair_id": (file_id << FILE_SHIFT) + row["pair_id"]} for row in rows]
        with job.output.task("read", 0) as output:
            output.write("pairs", pa.Table.from_pylist(own, PAIRS))

        def describe(connection: duck.Connection) -> None:
            connection.execute(
                "insert into files values (?, ?, ?, 1, ?, ?, ?)",
                [file_id, source, name, name, len(rows), unread],
            )
            connection.executemany(
                "insert into quarantine values (?, ?, 'broken', null)",
                [[file_id, len(rows) + row] for row in range(unread)] or [[-1, -1]],
            )
            connection.execute("delete from quarantine where file_id = -1")

        job.commit(describe)
    return file_id


def add_table(catalog: Catalog, table: str, rows: Sequence[Row], schema: pa.Schema) -> None:
    """Replace the rows of a table by those of one job."""
    with open_job(catalog, "write", {}, {"table": table, "rows": repr(rows)}) as job:
        with job.output.task("rows", 0) as output:
            output.write(table, pa.Table.from_pylist(list(rows), schema))
        job.commit(replace_tables=(table,))


def add_signals(
    catalog: Catalog, table: str, columns: Mapping[str, pa.DataType], rows: Sequence[Row]
) -> None:
    """Add a side table of signals and list its columns, newest last."""
    schema = pa.schema([pa.field("pair_id", pa.int64(), nullable=False), *columns.items()])

    def register(connection: duck.Connection) -> None:
        connection.execute(create_table_sql(table, schema))
        row = connection.execute("select count(*) from signal_columns").fetchone()
        assert row is not None
        for position, name in enumerate(columns, start=row[0]):
            connection.execute(
                "insert into signal_columns values (?, '1', ?, ?)", [name, table, position]
            )

    with open_job(catalog, "signals", {}, {"table": table, "rows": repr(rows)}) as job:
        with job.output.task("rows", 0) as output:
            output.write(table, pa.Table.from_pylist(list(rows), schema))
        job.commit(register, finish=refresh_views)


def text_ids(rows: Sequence[Row]) -> list[Row]:
    """Name every text by the smallest pair id that holds it."""
    first: dict[tuple[str, object], int] = {}
    for row in sorted(rows, key=lambda row: row["pair_id"]):
        for side in ("query_key", "positive_key"):
            first.setdefault((side, row[side]), row["pair_id"])
    return [
        {
            "pair_id": row["pair_id"],
            "query_id": None if row["query"] is None else first["query_key", row["query_key"]],
            "passage_id": first["positive_key", row["positive_key"]],
        }
        for row in rows
    ]


def cluster(kind: str, members: Iterable[tuple[int, int]]) -> list[Row]:
    """Make the duplicates of one cluster from (pair id, text id)."""
    pairs = list(members)
    texts = sorted({text for _, text in pairs})
    return [
        {
            "pair_id": pair_id,
            "kind": kind,
            "cluster_id": texts[0],
            "text_id": text_id,
            "matched_id": texts[0],
            "jaccard": 1.0 if kind == "exact" else 0.875,
            "cluster_size": len(texts),
            "template": False,
            "survivor": text_id == texts[0],
        }
        for pair_id, text_id in pairs
    ]


# The corpus of two files: pair ids are 1-based file number << 32 plus the row.
A, B = 1 << FILE_SHIFT, 2 << FILE_SHIFT
META = '{"prompt":"为这个问题找答案：","type":"normal"}'
ZHIHU = [
    pair(0, "怎么学钢琴", "先学指法，再练曲子。"),
    pair(1, "怎么学钢琴", "找一位老师。", negatives=["多吃水果。", "先学指法，再练曲子。"]),
    pair(2, "怎么学钢琴", "先学指法，再练曲子。"),  # the same pair again
    pair(3, "钢琴多少钱", "三千到十万都有，加微信看报价。", url="https://example.com/3"),
    pair(4, "什么是光合作用", "植物把光变成能量的过程。", meta=META),
    pair(5, "what is light", "Light is an electromagnetic wave."),
    pair(6, "短", "嗯"),
]  # fmt: skip
NEWS = [
    pair(0, "光合作用是什么", "植物把光变成能量的过程！", source="news", form="title-content"),
    pair(1, None, "没有人问的一段话。", source="news", form="title-content"),
    pair(2, "今天的天气", "晴，二十度。", source="news", form="title-content", negatives=[]),
    pair(3, "两句话像吗", "两句话相像吗", source="news", form="text-text", task="sts", label=0.8),
]
SIGNALS = {"passage_chars": pa.int32(), "language": pa.string(), "language_score": pa.float32()}
POLICY = Policy(
    "zh",
    (
        Condition("chinese", "language", require="language = 'zh'"),
        Condition("long_enough", "rules", require="passage_chars >= 3"),
        Condition("no_ad", "rules", require="positive not like '%微信%'", where="source = 'zhihu'"),
        Condition("exact", "duplicates", unique="exact"),
        Condition("near", "duplicates", unique="near"),
    ),
    prefer=("passage_chars desc",),
)
KEPT = [A + 0, A + 1, A + 4, B + 2, B + 3]
REJECTED = {
    A + 2: ["exact"],
    A + 3: ["no_ad"],
    A + 5: ["chinese"],
    A + 6: ["long_enough"],
    B + 0: ["near"],
}


def own_ids(rows: Sequence[Row], first: int) -> list[Row]:
    """Give the rows of a file the ids that they have in the catalog."""
    return [{**row, "pair_id": first + row["pair_id"]} for row in rows]


def make_corpus(catalog: Catalog) -> None:
    """Fill an empty catalog: two files, side tables, a policy and a snapshot v1 of it."""
    assert add_file(catalog, "zhihu.jsonl", ZHIHU, unread=2) << FILE_SHIFT == A
    assert add_file(catalog, "news.jsonl", NEWS, source="news") << FILE_SHIFT == B
    rows = [*own_ids(ZHIHU, A), *own_ids(NEWS, B)]
    add_signals(catalog, "signals_0001", SIGNALS, [signals_of(row) for row in rows])
    add_table(catalog, "text_ids", text_ids(rows), TEXT_IDS)
    duplicates = [
        *cluster("exact", [(A + 0, A + 0), (A + 2, A + 2)]),
        *cluster("near", [(A + 4, A + 4), (B + 0, B + 0)]),
    ]
    add_table(catalog, "duplicates", duplicates, DUPLICATES)
    scored = [
        {"pair_id": row["pair_id"], "model": "bge", "revision": "1", "score": 0.75}
        for row in rows[:4]
    ]
    add_table(catalog, "scores", scored, SCORES)
    catalog.transact(
        lambda c: c.execute(
            "insert into sources values ('zhihu', null, null, 'zh', 'CC BY 4.0', null, null), "
            "('news', null, null, 'zh', null, null, null), "
            "('weibo', null, null, 'zh', 'none', null, null)"
        )
    )
    commit_policy(catalog, POLICY)
    create_snapshot(catalog, "v1")


def signals_of(row: Row) -> Row:
    """Measure a pair by hand."""
    chinese = any("\u4e00" <= character <= "\u9fff" for character in row["positive"])
    return {
        "pair_id": row["pair_id"],
        "passage_chars": len(row["positive"]),
        "language": "zh" if chinese else "en",
        "language_score": None if len(row["positive"]) < 5 else 0.5,
    }


def fetch(catalog: Catalog, sql: str) -> list[tuple[Any, ...]]:
    """Read from a catalog."""
    with catalog.reader() as connection:
        return connection.execute(sql).fetchall()
