"""Rejected pairs to look at: chosen by a hash of their ids, a few for every condition."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

from catalog import duck
from catalog.columns import Columns
from catalog.expressions import parse
from catalog.policies import Policy
from catalog.report.data import Reason, Sample
from catalog.report.distributions import signals_read
from catalog.report.numbers import value as written_value
from catalog.report.statements import joins_of, statement
from catalog.verdicts import masks_sql

SHOWN: Final = 4
# So many candidates are expected for a condition; none of them missing has odds below 1e-20.
CANDIDATES: Final = 64
QUERY_CHARS: Final = 160
PASSAGE_CHARS: Final = 320
HIGHEST_HASH: Final = 2**64 - 1


def gather_samples(
    connection: duck.Connection, policy: Policy, columns: Columns, reasons: Sequence[Reason]
) -> tuple[Sample, ...]:
    """Read a few rejected pairs of every condition that rejects any."""
    picks = _pick(connection, policy, columns, reasons)
    if not picks:
        return ()
    rows = _read(connection, policy, columns, sorted({pair_id for _, pair_id, _ in picks}))
    return tuple(
        _sample(policy, columns, position, rows[pair_id], fails)
        for position, pair_id, fails in picks
    )


def _pick(
    connection: duck.Connection, policy: Policy, columns: Columns, reasons: Sequence[Reason]
) -> list[tuple[int, int, int]]:
    """Choose (position of the condition, pair_id, mask of all that it fails)."""
    limits = {
        position: _limit(reason.pairs) for position, reason in enumerate(reasons) if reason.pairs
    }
    if not limits:
        return []
    values = ", ".join(
        f"({position}, {1 << position}::ubigint, {limit}::ubigint)"
        for position, limit in limits.items()
    )
    rare = sum(1 << position for position, limit in limits.items() if limit == HIGHEST_HASH)
    common = max((limit for limit in limits.values() if limit < HIGHEST_HASH), default=0)
    sql = statement("picks", masks=masks_sql(policy, columns), reasons=values)
    bound = {"rare": rare, "common": common, "shown": SHOWN}
    return [(int(a), int(b), int(c)) for a, b, c in connection.execute(sql, bound).fetchall()]


def _limit(pairs: int) -> int:
    """Return the hash below which about CANDIDATES of so many pairs lie."""
    return math.floor(HIGHEST_HASH * CANDIDATES / pairs) if pairs > CANDIDATES else HIGHEST_HASH


def _read(
    connection: duck.Connection, policy: Policy, columns: Columns, ids: list[int]
) -> dict[int, dict[str, Any]]:
    """Read the texts and signals of pairs, by id."""
    providers, fields = [], []
    for condition in policy.conditions:
        if condition.require is not None:
            expression = parse(condition.require, f"condition {condition.name!r}")
            providers += columns.providers_of(expression, condition.name)
            fields += signals_read(condition, columns)
    signals = "".join(
        f",\n  {duck.identifier(columns.of_column[name])}.{duck.identifier(name)} "
        f"as {duck.identifier('value ' + name)}"
        for name in dict.fromkeys(fields)
    )
    sql = statement(
        "texts",
        pairs=columns.providers["pairs"].relation,
        signals=signals,
        joins=joins_of(columns, providers, "pairs"),
    )
    found = connection.execute(
        sql, {"ids": ids, "query_chars": QUERY_CHARS, "passage_chars": PASSAGE_CHARS}
    )
    names = [column[0] for column in found.description]
    return {row[0]: dict(zip(names, row, strict=True)) for row in found.fetchall()}


def _sample(
    policy: Policy, columns: Columns, position: int, row: Mapping[str, Any], fails: int
) -> Sample:
    condition = policy.conditions[position]
    others = (one.name for bit, one in enumerate(policy.conditions) if fails >> bit & 1)
    return Sample(
        reason=condition.name,
        pair_id=row["pair_id"],
        source=row["source"],
        query=row["query"],
        passage=row["passage"],
        passage_chars=row["passage_length"],
        other_reasons=tuple(name for name in others if name != condition.name),
        values={
            name.removeprefix("score:"): _written(row[f"value {name}"])
            for name in signals_read(condition, columns)
        },
    )


def _written(value: object) -> str:
    if value is None:
        return "not measured"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float) and math.isfinite(value):
        return written_value(value)
    return str(value)
