"""The histograms of a report: two scans of the columns that a condition reads, for each signal."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from catalog import duck
from catalog.columns import Columns
from catalog.expressions import Expression, parse
from catalog.policies import Condition, Policy
from catalog.report.data import Bar, Histogram
from catalog.report.scales import choose_scale, make_bars
from catalog.report.statements import relation_of, statement
from catalog.report.terms import Term, terms_of

# Texts have no distribution worth a picture.
TEXTS: Final = ("pair_id", "query", "positive", "negatives", "url", "meta")
WHOLE_TYPES: Final = ("TINYINT", "SMALLINT", "INTEGER", "BIGINT", "HUGEINT", "UTINYINT",
                      "USMALLINT", "UINTEGER", "UBIGINT", "UHUGEINT")  # fmt: skip
NUMBER_TYPES: Final = (*WHOLE_TYPES, "FLOAT", "DOUBLE", "DECIMAL")
MAX_CATEGORIES: Final = 7
OTHER: Final = "others"


def gather_histograms(
    connection: duck.Connection, policy: Policy, columns: Columns, *, all_are_pairs: bool
) -> tuple[Histogram, ...]:
    """Measure how each signal is distributed among the pairs that a condition applies to."""
    gatherer = _Gatherer(connection, columns, all_are_pairs)
    return tuple(
        gatherer.histogram(condition, term)
        for condition in policy.conditions
        if condition.require is not None
        for term in terms_of(_expression(condition).sql)
        if term.sql not in TEXTS
    )


def signals_read(condition: Condition, columns: Columns) -> list[str]:
    """Name the measured columns that a condition reads."""
    if condition.require is None:
        return []
    expression = _expression(condition)
    names = expression.columns | columns.score_columns(expression)
    return sorted(name for name in names if name not in TEXTS)


@dataclass
class _Gatherer:
    connection: duck.Connection
    columns: Columns
    all_are_pairs: bool
    # Several conditions often read one signal: what is known of it is asked once.
    _kinds: dict[str, str] = field(default_factory=dict)
    _sizes: dict[str, dict[int | None, int]] = field(default_factory=dict)

    def histogram(self, condition: Condition, term: Term) -> Histogram:
        """Measure what a condition looks at among the pairs that it applies to."""
        what = f"condition {condition.name!r}"
        expression = _expression(condition)
        where = [parse(condition.where, what)] if condition.where else []
        relation, is_pair = relation_of(
            self.columns, [expression, *where], what, all_are_pairs=self.all_are_pairs
        )
        slots = {
            "value": term.sql,
            "relation": relation,
            "scope": " and ".join([is_pair, *(f"({one.sql}\n)" for one in where)]),
        }
        kind = self._kind(slots)
        if kind in NUMBER_TYPES:
            return self._of_numbers(condition, term, slots, is_whole=kind in WHOLE_TYPES)
        return self._of_categories(condition, term, slots)

    def _of_numbers(
        self, condition: Condition, term: Term, slots: dict[str, str], *, is_whole: bool
    ) -> Histogram:
        sizes = self._buckets(slots)
        unmeasured = sizes.get(None, 0)
        known = {bucket: pairs for bucket, pairs in sizes.items() if bucket is not None}
        scale = choose_scale(known, term.thresholds, is_whole=is_whole)
        if scale is None:
            return _drawn(condition, term, unmeasured=unmeasured)
        rows = self.connection.execute(
            statement("histogram", require=_expression(condition).sql, **slots),
            {
                "low": scale.low,
                "step": scale.step,
                "top": scale.edge(scale.bars),
                "bins": scale.bars,
                "is_log": scale.is_log,
            },
        ).fetchall()
        counts = {(bin_, failed): pairs for bin_, failed, pairs in rows if bin_ is not None}
        return _drawn(
            condition,
            term,
            bars=make_bars(scale, counts, is_whole=is_whole),
            is_log=scale.is_log,
            opens_low=any(bin_ < 0 for bin_, _ in counts),
            opens_high=any(bin_ >= scale.bars for bin_, _ in counts),
            unmeasured=unmeasured,
        )

    def _of_categories(self, condition: Condition, term: Term, slots: dict[str, str]) -> Histogram:
        rows = self.connection.execute(
            statement("categories", require=_expression(condition).sql, **slots),
            {"shown": MAX_CATEGORIES, "other": OTHER},
        ).fetchall()
        bars = [
            Bar(0, 0, passed, failed, label) for label, passed, failed in rows if label is not None
        ]
        unmeasured = sum(passed + failed for label, passed, failed in rows if label is None)
        return _drawn(condition, term, bars=bars, is_category=True, unmeasured=unmeasured)

    def _buckets(self, slots: dict[str, str]) -> dict[int | None, int]:
        sql = statement("buckets", **slots)
        if sql not in self._sizes:
            self._sizes[sql] = dict(self.connection.execute(sql).fetchall())
        return self._sizes[sql]

    def _kind(self, slots: dict[str, str]) -> str:
        """Name the DuckDB type of a signal, without the digits of a decimal."""
        sql = f"describe select {slots['value']} from {slots['relation']}"
        if sql not in self._kinds:
            row = self.connection.execute(sql).fetchone()
            assert row is not None
            self._kinds[sql] = str(row[1]).split("(")[0]
        return self._kinds[sql]


def _drawn(
    condition: Condition,
    term: Term,
    bars: Sequence[Bar] = (),
    unmeasured: int = 0,
    **claims: bool,
) -> Histogram:
    assert condition.require is not None
    return Histogram(
        condition.name,
        term.label,
        condition.require,
        condition.where,
        tuple(bars),
        term.thresholds,
        unmeasured=unmeasured,
        **claims,
    )


def _expression(condition: Condition) -> Expression:
    assert condition.require is not None
    return parse(condition.require, f"condition {condition.name!r}")
