"""Verdicts against a slow evaluation in Python, and the cases that random data never hit."""

from collections.abc import Callable, Iterator
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from catalog import duck
from catalog.columns import Columns, available_columns
from catalog.errors import PolicyError
from catalog.policies import Condition, Policy, parse_order
from catalog.schema import DUPLICATES, PAIRS, SCORES, SIGNAL_COLUMNS, TEXT_IDS, create_table_sql
from catalog.verdicts import check_policy, masks_sql, verdicts_sql
from tests.tiny_catalog import Row, cluster, pair, text_ids

SIGNALS = {
    "signals_0001": {"passage_chars": pa.int32(), "language": pa.string()},
    "signals_0002": {"fluency": pa.float64()},
}
SCHEMAS = {
    "pairs": PAIRS,
    "text_ids": TEXT_IDS,
    "duplicates": DUPLICATES,
    "scores": SCORES,
    "signal_columns": SIGNAL_COLUMNS,
} | {
    table: pa.schema([pa.field("pair_id", pa.int64()), *columns.items()])
    for table, columns in SIGNALS.items()
}
LISTED = [
    {"signal": signal, "version": "1", "table_name": table, "position": position}
    for position, (table, columns) in enumerate(SIGNALS.items())
    for signal in columns
]


@pytest.fixture(scope="module")
def connection() -> Iterator[duck.Connection]:
    """A database without a lake, with the tables that verdicts read."""
    with duck.connect() as made:
        for name, schema in SCHEMAS.items():
            made.execute(create_table_sql(name, schema))
        yield made


def fill(connection: duck.Connection, **tables: list[Row]) -> Columns:
    """Replace all rows and look up what conditions can use."""
    for name, schema in SCHEMAS.items():
        connection.execute(f"delete from {name}")
        rows = LISTED if name == "signal_columns" else tables.get(name, [])
        table = pa.Table.from_pylist(rows, schema)
        connection.register("rows", table)
        connection.execute(f"insert into {name} select * from rows")
    return available_columns(connection, lake="")


def verdicts(connection: duck.Connection, policy: Policy, columns: Columns) -> dict[int, list[str]]:
    """Evaluate a policy: the failed conditions of every pair."""
    check_policy(connection, policy, columns)
    rows = connection.execute(verdicts_sql(policy, columns)).fetchall()
    assert all(kept == (reasons == []) for _, kept, reasons in rows)
    assert len(rows) == len({pair_id for pair_id, _, _ in rows})
    return {pair_id: reasons for pair_id, _, reasons in rows}


# -- the slow evaluation ---------------------------------------------------------------------------

Rule = Callable[[Row], bool | None]


def known(rule: Callable[..., bool], *names: str) -> Rule:
    """Make a rule that is unknown where a column that it reads is."""

    def evaluate(row: Row) -> bool | None:
        values = [row[name] for name in names]
        return None if None in values else rule(*values)

    return evaluate


RULES: dict[str, Rule] = {
    "passage_chars >= 5": known(lambda chars: chars >= 5, "passage_chars"),
    "coalesce(passage_chars, 0) >= 5": lambda row: (row["passage_chars"] or 0) >= 5,
    "passage_chars is not null": lambda row: row["passage_chars"] is not None,
    "language in ('zh', 'en')": known(lambda code: code in ("zh", "en"), "language"),
    "source = 'a'": known(lambda source: source == "a", "source"),
    "query is not null": lambda row: row["query"] is not None,
    "query_group_size <= 1": known(lambda size: size <= 1, "query_group_size"),
    "near_cluster_size is null": lambda row: row["near_cluster_size"] is None,
    "score('bge') >= 0.5": known(lambda score: score >= 0.5, "score"),
    "coalesce(score('bge'), 0) >= 0.5": lambda row: (row["score"] or 0) >= 0.5,
    "passage_chars > fluency": known(lambda a, b: a > b, "passage_chars", "fluency"),
    "source = 'a' or fluency is null": lambda row: row["source"] == "a" or row["fluency"] is None,
    "coalesce(score('bge'), 0) < coalesce(fluency, 1)": lambda row: (
        (row["score"] or 0) < (1 if row["fluency"] is None else row["fluency"])
    ),
    "true": lambda row: True,
    "false": lambda row: False,
    "null::boolean": lambda row: None,
}
ORDERS = ("passage_chars desc", "fluency", "source DESC", "fluency desc", "score('bge') asc")


def slow_verdicts(policy: Policy, rows: list[Row]) -> dict[int, list[str]]:
    """Evaluate a policy condition by condition and row by row."""
    failed: dict[int, list[str]] = {row["pair_id"]: [] for row in rows}
    for condition in policy.conditions:
        if condition.unique is not None:
            losers = slow_losers(condition, policy, rows, failed)
        else:
            losers = [
                row["pair_id"]
                for row in rows
                if applies(condition, row) and RULES[condition.require or ""](row) is False
            ]
        for pair_id in losers:
            failed[pair_id].append(condition.name)
    return failed


def applies(condition: Condition, row: Row) -> bool:
    return condition.where is None or RULES[condition.where](row) is True


def slow_losers(
    condition: Condition, policy: Policy, rows: list[Row], failed: dict[int, list[str]]
) -> list[int]:
    clusters: dict[int, list[Row]] = {}
    for row in rows:
        if row[condition.unique or ""] is not None and applies(condition, row):
            clusters.setdefault(row[condition.unique or ""][0], []).append(row)
    losers = []
    for members in clusters.values():
        members.sort(key=lambda row: row["pair_id"])
        for text in reversed(policy.prefer):
            name, descends = parse_order(text)
            name = name.replace("score('bge')", "score")
            values = sorted({r[name] for r in members if r[name] is not None}, reverse=descends)
            places = {value: place for place, value in enumerate(values)}  # unknown comes last
            members.sort(key=lambda row: places.get(row[name], len(places)))
        members.sort(key=lambda row: failed[row["pair_id"]] != [])
        survivor = members[0][condition.unique or ""][1]
        losers += [r["pair_id"] for r in members if r[condition.unique or ""][1] != survivor]
    return losers


# -- data ------------------------------------------------------------------------------------------

ROWS = st.lists(
    st.fixed_dictionaries(
        {
            "source": st.sampled_from(["a", "b"]),
            "query": st.sampled_from([None, "甲", "乙", "丙"]),
            "measured": st.booleans(),
            "passage_chars": st.one_of(st.none(), st.integers(3, 7)),
            "language": st.sampled_from([None, "zh", "en", "fr"]),
            "fluency": st.one_of(st.none(), st.sampled_from([0.25, 4.5, 6.0])),
            "score": st.one_of(st.none(), st.sampled_from([0.25, 0.5, 0.75])),
            "exact": st.one_of(st.none(), st.integers(0, 2)),
            "near": st.one_of(st.none(), st.tuples(st.integers(0, 2), st.integers(0, 1))),
        }
    ),
    max_size=8,
)
REQUIRED = st.builds(
    lambda require, where: {"require": require, "where": where},
    st.sampled_from(sorted(RULES)),
    st.one_of(st.none(), st.sampled_from(sorted(RULES))),
)
UNIQUE = st.builds(
    lambda kind, where: {"unique": kind, "where": where},
    st.sampled_from(["exact", "near"]),
    st.one_of(st.none(), st.sampled_from(sorted(RULES))),
)
POLICIES = st.builds(
    lambda parts, prefer: Policy(
        "p", tuple(Condition(f"c{i}", "s", **part) for i, part in enumerate(parts)), tuple(prefer)
    ),
    st.lists(st.one_of(REQUIRED, UNIQUE), max_size=7),
    st.lists(st.sampled_from(ORDERS), max_size=2),
)


def tables_of(drawn: list[Row]) -> tuple[dict[str, list[Row]], list[Row]]:
    """Turn drawn rows into the catalog's tables, and into rows that have everything."""
    pairs = [pair(i, row["query"], f"段{i}", source=row["source"]) for i, row in enumerate(drawn)]
    sizes: dict[object, int] = {}
    for row in drawn:
        sizes[row["query"]] = sizes.get(row["query"], 0) + 1
    duplicates: list[Row] = []
    whole = []
    for pair_id, (row, there) in enumerate(zip(drawn, pairs, strict=True)):
        measured = row["measured"]
        whole.append(
            {
                **there,
                "passage_chars": row["passage_chars"] if measured else None,
                "language": row["language"] if measured else None,
                "fluency": row["fluency"],
                "score": row["score"],
                "query_group_size": None if row["query"] is None else sizes[row["query"]],
                "exact": None if row["exact"] is None else (row["exact"], pair_id),
                "near": row["near"],
                "near_cluster_size": None,
            }
        )
    for kind in ("exact", "near"):
        for number in range(3):
            members = [r for r in whole if r[kind] is not None and r[kind][0] == number]
            made = cluster(kind, [(r["pair_id"], 10 * number + r[kind][1]) for r in members])
            duplicates += made
            for row, entry in zip(members, made, strict=True):
                row[kind] = (entry["cluster_id"], entry["text_id"])
                row[f"{kind}_cluster_size"] = entry["cluster_size"]
    # A missing score is a missing row; a missing fluency is a null in its row.
    tables = {
        "pairs": pairs,
        "text_ids": text_ids(pairs),
        "duplicates": duplicates,
        "scores": [
            {"pair_id": r["pair_id"], "model": "bge", "revision": "1", "score": r["score"]}
            for r in whole
            if r["score"] is not None
        ]
        + [{"pair_id": -1, "model": "bge", "revision": "1", "score": 1.0}],
        "signals_0001": [r for r, row in zip(whole, drawn, strict=True) if row["measured"]],
        "signals_0002": whole,
    }
    names = {name: set(schema.names) for name, schema in SCHEMAS.items()}
    cut = {
        name: [{key: value for key, value in row.items() if key in names[name]} for row in rows]
        for name, rows in tables.items()
    }
    return cut, whole


@pytest.mark.slow
@settings(max_examples=120, deadline=None, derandomize=True)
@given(drawn=ROWS, policy=POLICIES)
def test_verdicts_equal_a_slow_evaluation(
    connection: duck.Connection, drawn: list[Row], policy: Policy
) -> None:
    tables, whole = tables_of(drawn)
    columns = fill(connection, **tables)
    assert verdicts(connection, policy, columns) == slow_verdicts(policy, whole)


# -- written-out cases -----------------------------------------------------------------------------


def one(require: str, **more: Any) -> Policy:
    return Policy("p", (Condition("c", "s", require=require, **more),))


THREE = [
    pair(0, "甲", "短"),
    pair(1, "乙", "不短的一段话"),
    pair(2, None, "没有人问的一段话"),
]
MEASURED = [
    {"pair_id": 0, "passage_chars": 1, "language": "zh"},
    {"pair_id": 1, "passage_chars": 6, "language": None},
]


def test_unknown_passes(connection: duck.Connection) -> None:
    columns = fill(connection, pairs=THREE, signals_0001=MEASURED)
    assert verdicts(connection, one("language = 'fr'"), columns) == {0: ["c"], 1: [], 2: []}


def test_a_pair_that_was_not_measured_is_a_row_of_nulls(connection: duck.Connection) -> None:
    columns = fill(connection, pairs=THREE, signals_0001=MEASURED)
    for require in ("passage_chars is not null", "coalesce(passage_chars, 0) > 0"):
        assert verdicts(connection, one(require), columns) == {0: [], 1: [], 2: ["c"]}
    where = one("false", where="passage_chars is null")
    assert verdicts(connection, where, columns) == {0: [], 1: [], 2: ["c"]}


def test_where_limits_a_condition_and_an_unknown_where_does_not_apply(
    connection: duck.Connection,
) -> None:
    columns = fill(connection, pairs=THREE, signals_0001=MEASURED)
    policy = one("passage_chars > 100", where="language = 'zh'")
    assert verdicts(connection, policy, columns) == {0: ["c"], 1: [], 2: []}


def test_passages_without_a_query_have_verdicts_but_are_no_pairs(
    connection: duck.Connection,
) -> None:
    columns = fill(connection, pairs=THREE, signals_0001=MEASURED)
    policy = one("length(positive) < 3")
    rows = connection.execute(masks_sql(policy, columns) + " order by pair_id").fetchall()
    assert rows == [(0, True, 0), (1, True, 1), (2, False, 1)]


def test_64_conditions_have_a_bit_each(connection: duck.Connection) -> None:
    columns = fill(connection, pairs=THREE, signals_0001=MEASURED)
    conditions = tuple(
        Condition(f"c{i}", "s", require="pair_id <> 1" if i in (0, 31, 32, 63) else "true")
        for i in range(64)
    )
    found = verdicts(connection, Policy("p", conditions), columns)
    assert found == {0: [], 1: ["c0", "c31", "c32", "c63"], 2: []}
    last = Policy("p", (*conditions[:63], Condition("last", "s", unique="near")))
    near = cluster("near", [(0, 0), (2, 2)])
    columns = fill(connection, pairs=THREE, duplicates=near)
    assert verdicts(connection, last, columns)[2] == ["last"]


def test_the_survivor_is_chosen_among_pairs_that_fail_no_earlier_condition(
    connection: duck.Connection,
) -> None:
    near = cluster("near", [(0, 0), (1, 1), (2, 2)])
    columns = fill(connection, pairs=THREE, signals_0001=MEASURED, duplicates=near)
    early = Condition("early", "rules", require="pair_id > 0")
    late = Condition("late", "zz", require="pair_id <> 1")
    unique = Condition("near", "duplicates", unique="near")
    policy = Policy("p", (early, unique, late))
    # The first would survive but fails before; that the second fails later does not count.
    assert verdicts(connection, policy, columns) == {0: ["early", "near"], 1: ["late"], 2: ["near"]}


@pytest.mark.parametrize(
    ("prefer", "survivor"),
    [
        ((), 0),
        (("passage_chars desc",), 1),
        (("passage_chars asc",), 0),
        (("language = 'zh'", "passage_chars desc"), 0),
        (("length(positive) desc",), 2),
        (("source",), 0),  # all are equal: the smallest pair id
        (("score('bge') desc",), 1),  # the only one that has a score; unknown is last
    ],
)
def test_prefer_orders_the_members_and_ties_end_in_the_pair_id(
    connection: duck.Connection, prefer: tuple[str, ...], survivor: int
) -> None:
    scores = [{"pair_id": 1, "model": "bge", "revision": "1", "score": 0.1}]
    near = cluster("near", [(0, 0), (1, 1), (2, 2)])
    columns = fill(connection, pairs=THREE, signals_0001=MEASURED, duplicates=near, scores=scores)
    policy = Policy("p", (Condition("near", "d", unique="near"),), prefer)
    found = verdicts(connection, policy, columns)
    assert [pair_id for pair_id, reasons in sorted(found.items()) if not reasons] == [survivor]


def test_pairs_of_the_surviving_text_all_survive(connection: duck.Connection) -> None:
    near = cluster("near", [(0, 0), (1, 1), (2, 0)])  # pairs 0 and 2 share a passage
    columns = fill(connection, pairs=THREE, duplicates=near)
    policy = Policy("p", (Condition("near", "d", unique="near"),))
    assert verdicts(connection, policy, columns) == {0: [], 1: ["near"], 2: []}


def test_a_signal_measured_anew_is_read_from_its_newest_table(connection: duck.Connection) -> None:
    columns = fill(connection, pairs=THREE, signals_0001=MEASURED)
    connection.execute("create or replace table signals_0003(pair_id bigint, passage_chars int)")
    connection.execute("insert into signals_0003 values (0, 60), (1, 10)")
    connection.execute(
        "insert into signal_columns values ('passage_chars', '2', 'signals_0003', 9)"
    )
    columns = available_columns(connection, lake="")
    # Both tables have the name: alone, beside the other table's column, and in an order.
    near = cluster("near", [(0, 0), (1, 1)])
    connection.register("near", pa.Table.from_pylist(near, DUPLICATES))
    connection.execute("insert into duplicates select * from near")
    policy = Policy(
        "p",
        (
            Condition("long", "s", require="passage_chars >= 20"),
            Condition("both", "s", require="passage_chars >= 20 or language is null"),
            Condition("near", "s", unique="near", where="language is null or passage_chars > 0"),
        ),
        prefer=("passage_chars desc", "language"),
    )
    assert verdicts(connection, policy, columns) == {0: [], 1: ["long", "near"], 2: []}
    connection.execute("drop table signals_0003")


def test_a_model_with_two_revisions_gives_each_pair_one_score(connection: duck.Connection) -> None:
    scores = [
        {"pair_id": 0, "model": "m", "revision": "1", "score": 0.9},
        {"pair_id": 0, "model": "m", "revision": "2", "score": 0.1},
        {"pair_id": 1, "model": "m", "revision": "1", "score": 0.9},
        {"pair_id": 1, "model": "other model", "revision": "1", "score": 0.0},
    ]
    columns = fill(connection, pairs=THREE, scores=scores)
    assert verdicts(connection, one("score('m') > 0.5"), columns) == {0: ["c"], 1: [], 2: []}
    both = one("score('m') > score('other model')")
    assert verdicts(connection, both, columns) == {0: [], 1: [], 2: []}


def test_groups_count_the_pairs_of_a_text(connection: duck.Connection) -> None:
    rows = [pair(0, "甲", "一"), pair(1, "甲", "二"), pair(2, "乙", "二"), pair(3, None, "二")]
    columns = fill(connection, pairs=rows, text_ids=text_ids(rows))
    policy = Policy(
        "p",
        (
            Condition("query", "s", require="query_group_size < 2"),
            Condition("passage", "s", require="passage_group_size < 3"),
        ),
    )
    assert verdicts(connection, policy, columns) == {
        0: ["query"],
        1: ["query", "passage"],
        2: ["passage"],
        3: ["passage"],
    }


def test_a_text_cannot_leave_its_brackets(connection: duck.Connection) -> None:
    columns = fill(connection, pairs=THREE)
    found = verdicts(connection, one("pair_id = 0) or (pair_id = 1"), columns)
    assert found == {0: [], 1: [], 2: ["c"]}


@pytest.mark.parametrize(
    ("require", "message"),
    [
        ("pasage_chars > 3", "no signal 'pasage_chars'; did you mean passage_chars"),
        ("score('bge') > 0.4", "no pair has a score of model 'bge'; scored with: no model yet"),
        ("passage_chars + 1", "is integer, not true or false; write a comparison"),
        ("language > 3::blob", "cannot be evaluated"),
        ("nosuch(passage_chars)", "cannot be evaluated: Catalog Error"),
    ],
)
def test_a_condition_that_cannot_be_evaluated_is_refused(
    connection: duck.Connection, require: str, message: str
) -> None:
    columns = fill(connection, pairs=THREE)
    with pytest.raises(PolicyError, match="condition 'c'") as caught:
        check_policy(connection, one(require), columns)
    assert message in str(caught.value)


def test_an_order_that_cannot_be_evaluated_is_refused(connection: duck.Connection) -> None:
    columns = fill(connection, pairs=THREE)
    with pytest.raises(PolicyError, match=r"prefer 'fluensy desc': .* did you mean fluency"):
        check_policy(connection, Policy("p", (), prefer=("fluensy desc",)), columns)
