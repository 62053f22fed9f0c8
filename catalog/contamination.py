"""How much of each evaluation set a snapshot holds: read beside a model's scores."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from catalog.lake import Catalog
from catalog.snapshots import Snapshot, snapshot_reader


@dataclass(frozen=True)
class SetContamination:
    """A set that was compared: pairs that hold one of its texts, and how many texts they hold.

    ``places`` counts places in the set (a sentence, a query, a passage), ``exact`` those of them
    that are equal to a text of a pair.
    """

    name: str
    pairs: int
    places: int
    exact: int


def snapshot_contamination(catalog: Catalog, snapshot: Snapshot) -> list[SetContamination]:
    """Measure the kept pairs of a snapshot, set by set; a set without a row there counts 0.

    What was found is read as of now: a set that came after the snapshot counts as well.
    """
    with snapshot_reader(catalog, snapshot) as connection:
        kept = connection.execute("select pair_id from verdicts where kept").to_arrow_table()
    with catalog.reader() as connection:
        connection.register("kept_pairs", kept)
        rows = connection.execute(
            """
            select
              s.name,
              count(distinct c.pair_id),
              count(distinct c.place),
              count(distinct c.place) filter (c.kind = 'exact')
            from (select distinct "set" as name from contamination_files) s
            left join (
              select c.* from contamination c semi join kept_pairs k using (pair_id)
            ) c on c."set" = s.name
            group by s.name
            order by s.name
            """
        ).fetchall()
    return [SetContamination(*row) for row in rows]


def contamination_lines(rows: Sequence[SetContamination]) -> Iterator[str]:
    """Write what a snapshot holds of each set as lines of a table, for people."""
    if not rows:
        yield "no evaluation set was compared with the pairs; lode decontaminate does that"
        return
    width = max(len("held by the snapshot"), *(len(row.name) for row in rows)) + 2
    yield f"{'held by the snapshot':<{width}}{'pairs':>10}{'its texts':>12}{'of them equal':>15}"
    for row in rows:
        yield f"{row.name:<{width}}{row.pairs:>10,}{row.places:>12,}{row.exact:>15,}"
