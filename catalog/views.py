"""The views that a reader queries: signals, verdicts, curated, funnel, rejections."""

from catalog import duck
from catalog.columns import Columns, available_columns, round_trips_sql, signal_tables
from catalog.policies import Policy
from catalog.policy_store import active_policy
from catalog.verdicts import masks_sql, verdicts_sql

# Read is no stage of a policy: rows that could not be read never became pairs.
READ_STAGE = "read"


def refresh_views(connection: duck.Connection) -> None:
    """Write the lake's views anew, for the signals that it holds and the policy committed last."""
    statements = {"signals": signals_sql(connection), "round_trips": round_trips_sql()}
    active = active_policy(connection)
    policy = active[0] if active else Policy("none", ())
    # Unqualified names: a stored view belongs to whatever name its lake is attached under.
    columns = available_columns(connection, lake="")
    statements |= policy_views_sql(policy, columns)
    for name, sql in statements.items():
        connection.execute(f"create or replace view {name} as {sql}")


def use_policy(connection: duck.Connection, policy: Policy) -> None:
    """Let this connection's views show another policy; nothing is written to the lake."""
    for name, sql in policy_views_sql(policy, available_columns(connection)).items():
        connection.execute(f"create or replace temp view {name} as {sql}")


def signals_sql(connection: duck.Connection) -> str:
    """Write the query that puts the newest version of every signal beside its pair."""
    tables = signal_tables(connection)
    newest: dict[str, str] = {}
    for table, signals in tables:
        newest.update(dict.fromkeys(signals, table))
    used = [table for table, _ in tables if table in newest.values()]
    fields = "".join(
        f",\n  {duck.identifier(table)}.{duck.identifier(signal)}"
        for signal, table in sorted(newest.items())
    )
    joins = "".join(f"\nleft join {duck.identifier(t)} using (pair_id)" for t in used)
    return f"select pairs.pair_id{fields}\nfrom pairs{joins}"


def policy_views_sql(policy: Policy, columns: Columns) -> dict[str, str]:
    """Write the views that show a policy's verdicts."""
    pairs = columns.providers["pairs"].relation
    return {
        "verdicts": verdicts_sql(policy, columns),
        "curated": (
            f"select p.* from {pairs} p join ({verdicts_sql(policy, columns)}) v using (pair_id) "
            "where v.kept"
        ),
        "funnel": funnel_sql(policy, columns, counts_sql(policy, columns)),
        "rejections": rejections_sql(policy, counts_sql(policy, columns)),
    }


def funnel_sql(policy: Policy, columns: Columns, counts: str) -> str:
    """Write the query (position, stage, rows_in, rows_out, share): pairs only, in stage order.

    ``counts`` is a query as ``counts_sql`` writes it.
    """
    stages = []
    seen = 0
    for position, stage in enumerate(policy.stages, start=1):
        bits = sum(1 << i for i, c in enumerate(policy.conditions) if c.stage == stage)
        stages.append(f"({position}, {duck.quote(stage)}, {seen}::ubigint, {seen | bits}::ubigint)")
        seen |= bits
    read = (
        f"select 0 as position, '{READ_STAGE}' as stage,\n"
        f"    t.rows + (select count(*) from {columns.prefix}quarantine) as rows_in,\n"
        "    t.rows as rows_out\n"
        "  from (select coalesce(sum(n), 0)::bigint as rows from counts) t"
    )
    later = ""
    if stages:
        later = (
            "\n  union all\n  select s.position, s.stage,\n"
            "    coalesce(sum(n) filter (fails & s.before = 0), 0)::bigint as rows_in,\n"
            "    coalesce(sum(n) filter (fails & s.after = 0), 0)::bigint as rows_out\n"
            f"  from (values {', '.join(stages)}) s(position, stage, before, after)\n"
            "  left join counts on true group by all"
        )
    return (
        f"with counts as (\n{counts}\n),\nsteps as (\n  {read}{later}\n)\n"
        "select position, stage, rows_in, rows_out, "
        "case when rows_in = 0 then null else rows_out / rows_in end as share\n"
        "from steps order by position"
    )


def rejections_sql(policy: Policy, counts: str) -> str:
    """Write the query (position, reason, stage, pairs, alone): who fails each condition."""
    if not policy.conditions:
        return (
            "select 0 as position, '' as reason, '' as stage, 0::bigint as pairs, "
            "0::bigint as alone where false"
        )
    rows = ", ".join(
        f"({i}, {duck.quote(c.name)}, {duck.quote(c.stage)}, {1 << i}::ubigint)"
        for i, c in enumerate(policy.conditions)
    )
    return (
        f"with counts as (\n{counts}\n)\n"
        "select c.position, c.reason, c.stage,\n"
        "  coalesce(sum(n) filter (fails & bit <> 0), 0)::bigint as pairs,\n"
        "  coalesce(sum(n) filter (fails = bit), 0)::bigint as alone\n"
        f"from (values {rows}) c(position, reason, stage, bit)\n"
        "left join counts on true group by all order by c.position"
    )


def counts_sql(policy: Policy, columns: Columns) -> str:
    """Write the query (fails, n): how many pairs fail which conditions, in one scan."""
    # A few thousand combinations of failed conditions stand for all pairs.
    return (
        f"select fails, count(*) as n from (\n{masks_sql(policy, columns)}\n) "
        "where is_pair group by fails"
    )
