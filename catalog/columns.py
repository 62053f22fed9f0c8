"""What the conditions of a policy can use: which relation holds which column."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import pyarrow as pa

from catalog import duck
from catalog.errors import PolicyError
from catalog.expressions import Expression, score_column, unknown_column
from catalog.schema import sql_type

PAIR_COLUMNS = (
    "pair_id", "source", "form", "task", "query", "positive", "negatives", "label", "url", "meta",
)  # fmt: skip
GROUP_COLUMNS = ("query_group_size", "passage_group_size")
CLUSTER_COLUMNS = {
    "exact_cluster_size": "max(case when kind = 'exact' then cluster_size end)",
    "near_cluster_size": "max(case when kind = 'near' then cluster_size end)",
    "near_jaccard": "max(case when kind = 'near' then jaccard end)",
    "near_template": "bool_or(case when kind = 'near' then template end)",
}
# Null where a pair holds no text of an evaluation set, or was not compared with any.
CONTAMINATION_COLUMNS = {
    "query_contamination": "max(case when side = 'query' then jaccard end)",
    "passage_contamination": "max(case when side = 'passage' then jaccard end)",
    "contaminated_sets": 'list_sort(list(distinct "set"))',
}
# Of the newest mining run that searched for the pair's query; null where none did. A rank counts
# from 1; a passage that is not in the list has the next one. What ranks before it and is neither a
# known positive, nor the query's text, nor a near-duplicate (1 | 2 | 4) is the better answer.
ROUND_TRIP_COLUMNS = {
    "round_trip_rank": "newest.rank",
    "round_trip_better_id": "newest.better_id",
}


@dataclass(frozen=True)
class Provider:
    """A relation with at most one row a pair, and the columns that conditions find there."""

    name: str
    relation: str
    columns: frozenset[str]


@dataclass
class Columns:
    """Which provider holds which column, in one version of one lake.

    ``prefix`` qualifies the lake's tables; it is empty in views that are stored in the lake.
    """

    prefix: str
    providers: dict[str, Provider] = field(default_factory=dict)
    of_column: dict[str, str] = field(default_factory=dict)

    def add(self, provider: Provider) -> None:
        """Add a provider; its columns hide those of the same name that came before."""
        self.providers[provider.name] = provider
        self.of_column.update(dict.fromkeys(provider.columns, provider.name))

    def promise(self, types: Mapping[str, pa.DataType]) -> None:
        """Add signals that are still to be measured, so that a policy can be checked before them.

        The provider has no rows: what is compiled with it can be bound, not used.
        """
        missing = {name: kind for name, kind in types.items() if name not in self.of_column}
        if missing:
            fields = ", ".join(
                f"null::{sql_type(kind)} as {duck.identifier(name)}"
                for name, kind in missing.items()
            )
            relation = f"(select null::bigint as pair_id, {fields} where false)"
            self.add(Provider("promised", relation, frozenset(missing)))

    def providers_of(self, expression: Expression, what: str) -> list[str]:
        """Name the providers that an expression reads, in order; raise for an unknown column."""
        names = []
        for column in sorted(expression.columns):
            if column not in self.of_column:
                known = [name for name in self.of_column if not name.startswith("score:")]
                raise unknown_column(column, known, what)
            names.append(self.of_column[column])
        for model in sorted(expression.score_models):
            if score_column(model) not in self.of_column:
                raise self._unknown_model(model, what)
            names.append(self.of_column[score_column(model)])
        return list(dict.fromkeys(names))

    def narrow(self, expressions: Iterable[Expression], what: str) -> dict[str, str]:
        """Write each provider that expressions read as a relation of the columns they use.

        A signal that was measured anew is in two tables under one name: whole tables would clash.
        """
        needed: dict[str, set[str]] = {}
        for expression in expressions:
            self.providers_of(expression, what)
            for column in expression.columns | self.score_columns(expression):
                needed.setdefault(self.of_column[column], set()).add(column)
        relations = {}
        for name, used in needed.items():
            fields = ", ".join(duck.identifier(c) for c in ["pair_id", *sorted(used - {"pair_id"})])
            relations[name] = f"(select {fields} from {self.providers[name].relation})"
        return relations

    def score_columns(self, expression: Expression) -> set[str]:
        """Name the columns of the scores that an expression reads."""
        return {score_column(model) for model in expression.score_models}

    def _unknown_model(self, model: str, what: str) -> PolicyError:
        scored = sorted(n.removeprefix("score:") for n in self.of_column if n.startswith("score:"))
        return PolicyError(
            f"{what}: no pair has a score of model {model!r}; "
            f"scored with: {', '.join(scored) or 'no model yet (lode score makes scores)'}"
        )


def available_columns(connection: duck.Connection, lake: str = "lake") -> Columns:
    """Look up what conditions can use: pairs, signals, groups, duplicates and scores.

    ``lake`` is the name that the lake is attached under, or empty for the connection's default.
    """
    prefix = f"{duck.identifier(lake)}." if lake else ""
    columns = Columns(prefix)
    columns.add(Provider("pairs", f"{prefix}pairs", frozenset(PAIR_COLUMNS)))
    for table, signals in signal_tables(connection, prefix):
        columns.add(Provider(table, f"{prefix}{duck.identifier(table)}", frozenset(signals)))
    columns.add(Provider("groups", _groups_sql(prefix), frozenset(GROUP_COLUMNS)))
    columns.add(Provider("clusters", _clusters_sql(prefix), frozenset(CLUSTER_COLUMNS)))
    contamination = _contamination_sql(prefix)
    columns.add(Provider("contamination", contamination, frozenset(CONTAMINATION_COLUMNS)))
    columns.add(Provider("round_trips", round_trips_sql(prefix), frozenset(ROUND_TRIP_COLUMNS)))
    models = connection.execute(
        f"select model, count(distinct revision) from {prefix}scores group by model order by model"
    ).fetchall()
    for model, revisions in models:
        name = score_column(model)
        relation = _scores_sql(prefix, model, name, one_revision=revisions == 1)
        columns.add(Provider(name, relation, frozenset([name])))
    return columns


def signal_tables(connection: duck.Connection, prefix: str = "") -> list[tuple[str, list[str]]]:
    """List the side tables of signals in the order they were made, each with its signals."""
    rows = connection.execute(
        f"select table_name, list(signal order by signal) from {prefix}signal_columns "
        # Band keys are versioned like signals, but no condition can use them.
        "where table_name <> 'band_keys' group by table_name order by min(position)"
    ).fetchall()
    return [(table, list(signals)) for table, signals in rows]


def _scores_sql(prefix: str, model: str, name: str, *, one_revision: bool) -> str:
    # A pair has one score: where a model came in several revisions, that of the last by name.
    score = "score" if one_revision else "max_by(score, revision)"
    grouped = "" if one_revision else " group by pair_id"
    return (
        f"(select pair_id, {score} as {duck.identifier(name)} from {prefix}scores "
        f"where model = {duck.quote(model)}{grouped})"
    )


def _groups_sql(prefix: str) -> str:
    return f"""(
    select t.pair_id, q.members as query_group_size, p.members as passage_group_size
    from {prefix}text_ids t
    left join (
      select query_id, count(*) as members from {prefix}text_ids
      where query_id is not null group by query_id
    ) q using (query_id)
    left join (
      select passage_id, count(*) as members from {prefix}text_ids group by passage_id
    ) p using (passage_id)
  )"""


def _clusters_sql(prefix: str) -> str:
    measures = ", ".join(f"{sql} as {name}" for name, sql in CLUSTER_COLUMNS.items())
    return f"(select pair_id, {measures} from {prefix}duplicates group by pair_id)"


def _contamination_sql(prefix: str) -> str:
    measures = ", ".join(f"{sql} as {name}" for name, sql in CONTAMINATION_COLUMNS.items())
    return f"(select pair_id, {measures} from {prefix}contamination group by pair_id)"


def round_trips_sql(prefix: str = "") -> str:
    """Write the query (pair_id, round_trip_rank, round_trip_better_id) of pairs that were mined."""
    measures = ", ".join(f"{sql} as {name}" for name, sql in ROUND_TRIP_COLUMNS.items())
    return f"""(
    select pair_id, {measures}
    from (
      select pair_id, max_by({{'rank': rank, 'better_id': better_id}}, finished_at) as newest
      from (
        select
          pair_id, finished_at, rank,
          [p for p, i in passage_ids if i < rank and filtered_by[i] & 7 = 0][1] as better_id
        from (
          select
            t.pair_id, r.finished_at, c.passage_ids, c.filtered_by,
            coalesce(list_position(c.passage_ids, t.passage_id), len(c.passage_ids) + 1) as rank
          from {prefix}candidates c
          join {prefix}text_ids t using (query_id)
          join {prefix}runs r on r.run_id = c.run
        )
      )
      group by pair_id
    )
  )"""
