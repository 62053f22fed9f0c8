"""Verdicts: a policy becomes one scan that gives every failed condition of every pair.

Each condition is a bit. It is evaluated in the scan of the table that holds its columns, before any
join, so that what is joined by pair id is one 64-bit mask a table and not dozens of columns. The
bits of ``where`` travel the same way. Conditions over several tables are evaluated after the join,
and duplicate conditions last, over the members of clusters only.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from catalog import duck
from catalog.columns import Columns
from catalog.errors import PolicyError
from catalog.expressions import Expression, parse
from catalog.policies import Condition, Policy, parse_order


@dataclass
class _Scan:
    """What one provider's scan computes: bits that fail, bits whose ``where`` holds, columns."""

    fails: list[tuple[int, str]] = field(default_factory=list)
    wheres: list[tuple[int, str]] = field(default_factory=list)
    columns: set[str] = field(default_factory=set)


@dataclass
class _Plan:
    """Where each condition is evaluated."""

    scans: dict[str, _Scan]
    late_fails: list[tuple[int, str]] = field(default_factory=list)
    late_wheres: list[tuple[int, str]] = field(default_factory=list)
    unconditional: int = 0  # bits of conditions without ``where``


def masks_sql(policy: Policy, columns: Columns, row_value: str | None = None) -> str:
    """Write the query that gives (pair_id, is_pair, fails): bit i is set where condition i fails.

    ``is_pair`` is false for a passage without a query. The query reads each table once. An
    expression over pairs is given beside as ``row_value``: a join with pairs again costs as much
    as the masks.
    """
    plan = _plan(policy, columns)
    given = {"row_value": row_value} if row_value else {}
    ctes = [_scan_cte(columns, name, scan, given) for name, scan in plan.scans.items()]
    carried = ["pair_id", "is_pair", *given]
    ctes.append(_joined_cte(plan, columns, carried))
    current = "joined"
    for bit, condition in enumerate(policy.conditions):
        if condition.unique is not None:
            ctes.append(_losers_cte(bit, condition, policy, columns, current))
            ctes.append(
                f"with_{bit} as (\n  select {_fields('b', carried)},\n"
                f"    b.fails | (case when l.pair_id is null then 0 else {1 << bit} end)::ubigint "
                f"as fails\n  from {current} b left join losers_{bit} l using (pair_id)\n)"
            )
            current = f"with_{bit}"
    return "with " + ",\n".join(ctes) + f"\nselect {', '.join(carried)}, fails from {current}"


def verdicts_sql(policy: Policy, columns: Columns) -> str:
    """Write the query (pair_id, kept, rejected_by): the names of all failed conditions."""
    names = ", ".join(duck.quote(condition.name) for condition in policy.conditions)
    if not policy.conditions:
        names_sql = "[]::varchar[]"
    else:
        # Few masks are distinct: their lists are made once and looked up.
        names_sql = f"[name for name, bit in [{names}] if (fails >> (bit - 1)::ubigint) & 1 = 1]"
    return (
        f"with masks as (\n{masks_sql(policy, columns)}\n),\n"
        f"reasons as (\n  select fails, {names_sql} as rejected_by\n"
        "  from (select distinct fails from masks)\n)\n"
        "select m.pair_id, m.fails = 0 as kept, r.rejected_by\n"
        "from masks m join reasons r using (fails)"
    )


def check_policy(connection: duck.Connection, policy: Policy, columns: Columns) -> None:
    """Raise PolicyError where a condition names an unknown signal or does not type-check."""
    for condition in policy.conditions:
        what = f"condition {condition.name!r}"
        for text in (condition.require, condition.where):
            if text is not None:
                _check_expression(connection, text, what, columns, boolean=True)
    for order in policy.prefer:
        _check_expression(connection, parse_order(order)[0], f"prefer {order!r}", columns)


def _check_expression(
    connection: duck.Connection, text: str, what: str, columns: Columns, *, boolean: bool = False
) -> None:
    expression = parse(text, what)
    joins = _joins(columns.narrow([expression], what))
    pairs = columns.providers["pairs"].relation
    sql = f"select ({expression.sql}) as value from (select pair_id from {pairs}){joins}"
    try:
        # DESCRIBE binds the query without reading a row.
        described = connection.execute(f"describe {sql}").fetchall()
    except duck.Error as error:
        reason = str(error).split("\n")[0]
        raise PolicyError(f"{what}: {text!r} cannot be evaluated: {reason}") from error
    if boolean and described[0][1] != "BOOLEAN":
        raise PolicyError(
            f"{what}: {text!r} is {described[0][1].lower()}, not true or false; write a comparison"
        )


def _plan(policy: Policy, columns: Columns) -> _Plan:
    plan = _Plan({"pairs": _Scan()})
    for bit, condition in enumerate(policy.conditions):
        what = f"condition {condition.name!r}"
        if condition.unique is not None:
            continue  # its ``where`` is evaluated among the members of clusters
        assert condition.require is not None
        require = parse(condition.require, what)
        _place(plan, columns, require, what, bit, fails=True)
        if condition.where is None:
            plan.unconditional |= 1 << bit
        else:
            _place(plan, columns, parse(condition.where, what), what, bit, fails=False)
    return plan


def _place(
    plan: _Plan, columns: Columns, expression: Expression, what: str, bit: int, *, fails: bool
) -> None:
    sources = columns.providers_of(expression, what) or ["pairs"]
    sql = f"not ({expression.sql}\n)" if fails else f"({expression.sql}\n)"
    if len(sources) == 1:
        scan = plan.scans.setdefault(sources[0], _Scan())
        (scan.fails if fails else scan.wheres).append((bit, sql))
        return
    (plan.late_fails if fails else plan.late_wheres).append((bit, sql))
    for name in expression.columns | columns.score_columns(expression):
        plan.scans.setdefault(columns.of_column[name], _Scan()).columns.add(name)


def _scan_cte(columns: Columns, name: str, scan: _Scan, given: Mapping[str, str]) -> str:
    fields = ["pair_id", f"{_mask(scan.fails)} as fails", f"{_mask(scan.wheres)} as wheres"]
    if name == "pairs":
        fields.append("query_key is not null as is_pair")
        fields += [f"{sql} as {column}" for column, sql in given.items()]
    fields += [duck.identifier(column) for column in sorted(scan.columns)]
    return (
        f"{duck.identifier('scan ' + name)} as (\n  select {', '.join(fields)}\n"
        f"  from {columns.providers[name].relation}\n)"
    )


def _joined_cte(plan: _Plan, columns: Columns, carried: list[str]) -> str:
    aliases = {name: f"t{position}" for position, name in enumerate(plan.scans)}
    fails, wheres = [], []
    for name, scan in plan.scans.items():
        relation = columns.providers[name].relation
        fails.append(_or_without_row(f"{aliases[name]}.fails", scan.fails, relation))
        wheres.append(_or_without_row(f"{aliases[name]}.wheres", scan.wheres, relation))
    fails.append(_mask(plan.late_fails))
    wheres += [_mask(plan.late_wheres), f"{plan.unconditional}::ubigint"]
    joins = "".join(
        f"\n  left join {duck.identifier('scan ' + name)} {alias} using (pair_id)"
        for name, alias in aliases.items()
        if name != "pairs"
    )
    return (
        f"joined as (\n  select {_fields('t0', carried)},\n    ({' | '.join(fails)})\n"
        f'    & ({" | ".join(wheres)}) as fails\n  from "scan pairs" t0{joins}\n)'
    )


def _or_without_row(mask: str, bits: list[tuple[int, str]], relation: str) -> str:
    """Give a pair that a table has no row of the bits of a row of nulls: not every one is 0."""
    if not bits:
        return "0::ubigint"
    return f"coalesce({mask}, (select {_mask(bits)} from (select 1) left join {relation} on false))"


def _losers_cte(bit: int, condition: Condition, policy: Policy, columns: Columns, base: str) -> str:
    """Members of duplicate clusters whose text is not the surviving one."""
    ranking = [f"(b.fails & {(1 << bit) - 1}::ubigint) <> 0"]
    for position, text in enumerate(policy.prefer):
        ranking.append(f"m.order_{position} {'desc' if parse_order(text)[1] else 'asc'} nulls last")
    ranking.append("d.pair_id")
    duplicates = f"{columns.prefix}duplicates"
    members = _members_sql(
        condition, policy, columns, f"{duplicates} where kind = '{condition.unique}'"
    )
    return (
        f"losers_{bit} as (\n  select pair_id from (\n"
        "    select d.pair_id, d.text_id <> first_value(d.text_id) over (\n"
        f"      partition by d.cluster_id order by {', '.join(ranking)}) as loses\n"
        f"    from {duplicates} d join {base} b using (pair_id)\n"
        f"    join ({members}) m using (pair_id)\n"
        f"    where d.kind = '{condition.unique}' and m.belongs\n  ) where loses\n)"
    )


def _members_sql(condition: Condition, policy: Policy, columns: Columns, members: str) -> str:
    """Write (pair_id, belongs, order_0, …) of the members of clusters."""
    what = f"condition {condition.name!r}"
    where = parse(condition.where or "true", what)
    orders = [parse(parse_order(text)[0], f"prefer {text!r}") for text in policy.prefer]
    fields = [f"{where.sql} as belongs"]
    fields += [f"{order.sql} as order_{position}" for position, order in enumerate(orders)]
    joins = _joins(columns.narrow([where, *orders], what))
    return f"select pair_id, {', '.join(fields)} from (select pair_id from {members}){joins}"


def _joins(relations: Mapping[str, str]) -> str:
    return "".join(
        f"\n    left join {relation} as {duck.identifier(name)} using (pair_id)"
        for name, relation in relations.items()
    )


def _fields(alias: str, names: list[str]) -> str:
    return ", ".join(f"{alias}.{name}" for name in names)


def _mask(bits: list[tuple[int, str]]) -> str:
    """Write a 64-bit number with bit i set where its expression is true (null is not)."""
    if not bits:
        return "0::ubigint"
    return " | ".join(f"(case when {sql} then {1 << bit} else 0 end)::ubigint" for bit, sql in bits)
