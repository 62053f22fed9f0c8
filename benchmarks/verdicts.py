"""How many pairs a core-second get all reasons of a changed policy, over two joined side tables?

    python -m benchmarks.verdicts FOLDER     # a curated catalog; writes benchmarks/verdicts.md

Thirty conditions over the signals and over a score table (made here, by hash, where it is missing).
The peer is the query that one would write by hand: join the side tables, then filter a list of
thirty names. Both give every reason of every pair; both run in the same process, one thread.
"""

import statistics
import sys
import time
from pathlib import Path

from benchmarks.machine import describe
from catalog import duck
from catalog.columns import Columns, available_columns
from catalog.expressions import parse, score_column
from catalog.lake import Catalog
from catalog.policies import Condition, Policy
from catalog.verdicts import check_policy, masks_sql, verdicts_sql
from catalog.views import counts_sql, funnel_sql

MODEL = "benchmark"
ROUNDS = 5


def main() -> None:
    catalog = Catalog.open(sys.argv[1])
    catalog.transact(add_scores)
    with catalog.reader() as connection:
        columns = available_columns(connection)
        policy = thirty_conditions(connection, columns)
        check_policy(connection, policy, columns)
        connection.execute("set threads = 1")
        (pairs,) = connection.execute("select count(*) from pairs").fetchone() or (0,)
        queries = {
            "Lode: verdicts, every reason": verdicts_sql(policy, columns),
            "Lode: masks": masks_sql(policy, columns),
            "by hand: join, then filter the names": by_hand_sql(policy, columns),
        }
        rows = []
        for name, sql in queries.items():
            connection.execute(consumed(sql))  # warm
            seconds = sorted(cpu_seconds(connection, consumed(sql)) for _ in range(ROUNDS))
            middle = statistics.median(seconds)
            rows.append(
                f"| {name} | {seconds[0]:.2f} | {middle:.2f} | {seconds[-1]:.2f} | "
                f"{pairs / middle / 1e6:.2f}M |"
            )
        connection.execute("reset threads")
        wall = sorted(
            wall_seconds(
                connection,
                funnel_sql(policy, columns, counts_sql(policy, columns)),
            )
            for _ in range(ROUNDS)
        )
    text = "\n".join(
        [
            "# Verdicts under a changed policy",
            "",
            "`python -m benchmarks.verdicts FOLDER`; target: 2M pairs per core-second with every",
            "reason, and the funnel of the whole corpus within a second.",
            "",
            describe(["duckdb"]),
            "",
            f"{pairs:,} pairs, {len(policy.conditions)} conditions, signals and scores joined, one "
            "thread:",
            "",
            "| query | min s | median s | max s | pairs per core-second |",
            "|---|---|---|---|---|",
            *rows,
            "",
            f"Funnel of all {pairs:,} pairs, all cores: {statistics.median(wall):.2f} s "
            f"(median of {ROUNDS}).",
            "",
        ]
    )
    Path(__file__).with_suffix(".md").write_text(text, encoding="utf-8")
    print(text)


def add_scores(connection: duck.Connection) -> None:
    """Give every pair a score of a made-up model, once."""
    known = connection.execute("select count(*) from scores where model = ?", [MODEL]).fetchone()
    if known and known[0]:
        return
    connection.execute(
        "insert into scores select pair_id, ?, 'hash', "
        "(pair_id % 1000003 * 48271 % 1000003 / 1000003.0)::float from pairs order by pair_id",
        [MODEL],
    )


def thirty_conditions(connection: duck.Connection, columns: Columns) -> Policy:
    """Cut each of 29 numeric signals at its 99th percentile, and the score at 0.4."""
    table = next(name for name in columns.providers if name.startswith("signals_"))
    described = connection.execute(f"describe {columns.providers[table].relation}").fetchall()
    numeric = [name for name, kind, *_ in described if kind in ("FLOAT", "INTEGER", "DOUBLE")][:29]
    fields = ", ".join(f"quantile_cont({duck.identifier(name)}, 0.99)" for name in numeric)
    limits = connection.execute(
        f"select {fields} from {columns.providers[table].relation}"
    ).fetchone()
    assert limits is not None
    conditions = [
        Condition(name, "rules", require=f"{duck.identifier(name)} <= {limit:.6f}")
        for name, limit in zip(numeric, limits, strict=True)
    ]
    score = Condition("score", "score", require=f"score('{MODEL}') >= 0.4")
    return Policy("benchmark", (*conditions, score))


def by_hand_sql(policy: Policy, columns: Columns) -> str:
    tables = [name for name in columns.providers if name.startswith("signals_")]
    tables.append(score_column(MODEL))
    joins = " ".join(
        f"left join {columns.providers[name].relation} {duck.identifier(name)} using (pair_id)"
        for name in tables
    )
    failed = ", ".join(
        f"case when not ({parse(c.require or '', c.name).sql}) then {duck.quote(c.name)} end"
        for c in policy.conditions
    )
    names = f"list_filter([{failed}], lambda name: name is not null)"
    return (
        f"select pair_id, len(names) = 0 as kept, names as rejected_by from "
        f"(select pair_id, {names} as names from {columns.prefix}pairs {joins})"
    )


def consumed(sql: str) -> str:
    """Read every row and every reason, without the cost of sending them anywhere."""
    last = "bit_xor(fails)" if "rejected_by" not in sql else "sum(len(rejected_by))"
    return f"select count(*), {last} from ({sql})"


def cpu_seconds(connection: duck.Connection, sql: str) -> float:
    start = time.process_time()
    connection.execute(sql).fetchall()
    return time.process_time() - start


def wall_seconds(connection: duck.Connection, sql: str) -> float:
    start = time.perf_counter()
    connection.execute(sql).fetchall()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
