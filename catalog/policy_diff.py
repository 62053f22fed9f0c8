"""How a funnel moves from one policy to another, before anything is committed."""

from catalog import duck
from catalog.columns import Columns, available_columns
from catalog.policies import Policy
from catalog.verdicts import check_policy, masks_sql
from catalog.views import funnel_sql, rejections_sql


def diff_policies(connection: duck.Connection, before: Policy, after: Policy) -> str:
    """Describe both funnels side by side, the pairs that would come and go, and the conditions."""
    columns = available_columns(connection)
    for policy in (before, after):
        check_policy(connection, policy, columns)
    changes = _count_changes(connection, columns, before, after)
    came = sum(n for old, new, n in changes if old and not new)
    went = sum(n for old, new, n in changes if new and not old)
    sides = ((before, "old"), (after, "new"))
    lines = [f"{'stage':<14}{'before':>14}{'after':>14}{'change':>12}"]
    left, right = (dict(_funnel(connection, policy, columns, side)) for policy, side in sides)
    for stage in dict.fromkeys([*left, *right]):
        lines.append(_line(stage, left.get(stage), right.get(stage)))
    lines += ["", f"{came:,} pairs would come, {went:,} would go", ""]
    lines.append(f"{'condition':<34}{'before':>14}{'after':>14}{'change':>12}")
    old, new = (dict(_rejections(connection, policy, side)) for policy, side in sides)
    for name in dict.fromkeys([*old, *new]):
        if old.get(name) != new.get(name):
            lines.append(_line(name, old.get(name), new.get(name), width=34))
    return "\n".join(lines)


def _count_changes(
    connection: duck.Connection, columns: Columns, before: Policy, after: Policy
) -> list[tuple[int, int, int]]:
    """Count (mask before, mask after, pairs): each policy is evaluated once, for all figures."""
    connection.execute(
        f"""
        create or replace temp table policy_changes as
        select b.fails as old, a.fails as new, count(*) as n
        from ({masks_sql(before, columns)}) b
        join ({masks_sql(after, columns)}) a using (pair_id)
        where b.is_pair group by all
        """
    )
    return connection.execute("from policy_changes").fetchall()


def _counts(side: str) -> str:
    return f"select {side} as fails, sum(n) as n from policy_changes group by all"


def _funnel(
    connection: duck.Connection, policy: Policy, columns: Columns, side: str
) -> list[tuple[str, int]]:
    rows = connection.execute(funnel_sql(policy, columns, _counts(side))).fetchall()
    return [(stage, out) for _, stage, _, out, _ in rows]


def _rejections(connection: duck.Connection, policy: Policy, side: str) -> list[tuple[str, int]]:
    rows = connection.execute(rejections_sql(policy, _counts(side))).fetchall()
    return [(reason, pairs) for _, reason, _, pairs, _ in rows]


def _line(name: str, before: int | None, after: int | None, width: int = 14) -> str:
    cells = ["-" if value is None else f"{value:,}" for value in (before, after)]
    change = f"{after - before:+,}" if before is not None and after is not None else ""
    return f"{name:<{width}}{cells[0]:>14}{cells[1]:>14}{change:>12}"
