"""How a funnel moves from one policy to another, before anything is committed."""

from catalog import duck
from catalog.columns import available_columns
from catalog.policies import Policy
from catalog.verdicts import check_policy, masks_sql
from catalog.views import funnel_sql, rejections_sql


def diff_policies(connection: duck.Connection, before: Policy, after: Policy) -> str:
    """Describe both funnels side by side, the pairs that would come and go, and the conditions."""
    columns = available_columns(connection)
    for policy in (before, after):
        check_policy(connection, policy, columns)
    came, went = _moved(connection, before, after)
    lines = [f"{'stage':<14}{'before':>14}{'after':>14}{'change':>12}"]
    left, right = (dict(_funnel(connection, policy)) for policy in (before, after))
    for stage in dict.fromkeys([*left, *right]):
        lines.append(_line(stage, left.get(stage), right.get(stage)))
    lines += ["", f"{came:,} pairs would come, {went:,} would go", ""]
    lines.append(f"{'condition':<34}{'before':>14}{'after':>14}{'change':>12}")
    old, new = (dict(_rejections(connection, policy)) for policy in (before, after))
    for name in dict.fromkeys([*old, *new]):
        if old.get(name) != new.get(name):
            lines.append(_line(name, old.get(name), new.get(name), width=34))
    return "\n".join(lines)


def _moved(connection: duck.Connection, before: Policy, after: Policy) -> tuple[int, int]:
    columns = available_columns(connection)
    row = connection.execute(
        f"""
        select count(*) filter (b.fails <> 0 and a.fails = 0),
               count(*) filter (b.fails = 0 and a.fails <> 0)
        from ({masks_sql(before, columns)}) b
        join ({masks_sql(after, columns)}) a using (pair_id)
        where b.is_pair
        """
    ).fetchone()
    assert row is not None
    return int(row[0]), int(row[1])


def _funnel(connection: duck.Connection, policy: Policy) -> list[tuple[str, int]]:
    sql = funnel_sql(policy, available_columns(connection))
    return [(stage, out) for _, stage, _, out, _ in connection.execute(sql).fetchall()]


def _rejections(connection: duck.Connection, policy: Policy) -> list[tuple[str, int]]:
    sql = rejections_sql(policy, available_columns(connection))
    return [(reason, pairs) for _, reason, _, pairs, _ in connection.execute(sql).fetchall()]


def _line(name: str, before: int | None, after: int | None, width: int = 14) -> str:
    cells = ["-" if value is None else f"{value:,}" for value in (before, after)]
    change = f"{after - before:+,}" if before is not None and after is not None else ""
    return f"{name:<{width}}{cells[0]:>14}{cells[1]:>14}{change:>12}"
