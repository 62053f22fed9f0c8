"""The demonstration: a corpus with planted defects goes through the whole of curation."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from catalog.executors import ExecutorSettings
from catalog.lake import Catalog
from catalog.report import funnel_text, gather_stages
from catalog.snapshots import Snapshot, create_snapshot, load_snapshot, snapshot_reader
from curation.curate import curate
from curation.demo.corpus import QUARANTINED, DemoCorpus, generate
from curation.ingest import find_sources, ingest_files
from curation.recipes import Recipe, load_recipe, load_sources

SNAPSHOT = "demo"
RECIPE = "conan-v1"
PUBLISHED_SHARE = 0.60  # arXiv 2408.15710: 750M to about 450M


def demonstrate(
    folder: Path, rows: int, executor: ExecutorSettings, say: Callable[[str], None]
) -> tuple[Catalog, Snapshot]:
    """Generate, ingest, curate and snapshot; say what was planted and what was found."""
    corpus = generate(folder / "raw", rows)
    files = len(corpus.files)
    say(f"generated {corpus.rows:,} rows in {files} files, {corpus.clean:,} of them clean")
    catalog = Catalog.create(str(folder / "corpus"))
    sources = find_sources(recipe=load_sources(corpus.recipe))
    say(ingest_files(catalog, sources, executor=executor).summary())
    curate(catalog, demo_recipe(corpus), executor)
    say("")
    stages = gather_stages(catalog)
    say(funnel_text(stages))
    share = stages[-1].rows_out / max(stages[0].rows_in, 1)
    say(f"kept by the filters: {share:.0%}; of the paper's 750M pairs {PUBLISHED_SHARE:.0%}")
    snapshot = create_snapshot(catalog, SNAPSHOT)
    say("")
    say(found_table(catalog, corpus))
    say(f"\nsnapshot {SNAPSHOT}: {snapshot.kept:,} of {snapshot.pairs:,} pairs, {snapshot.digest}")
    return catalog, snapshot


def demo_recipe(corpus: DemoCorpus) -> Recipe:
    """Return the shipped recipe with the block list that was generated with the corpus."""
    recipe = load_recipe(RECIPE)
    lists = (*recipe.signals.get("domain_lists", ()), corpus.block_list)
    return replace(recipe, signals={**recipe.signals, "domain_lists": lists})


def found(catalog: Catalog) -> dict[str | None, tuple[int, int, str]]:
    """Return, per planted defect (None: clean), rows read, rows rejected and the usual reason."""
    with snapshot_reader(catalog, load_snapshot(catalog, SNAPSHOT)) as connection:
        rows = connection.execute(
            """
            with rows as (
              select p.meta->>'id' as id, p.meta->>'defect' as defect, p.meta->>'twin' as twin,
                v.kept, v.rejected_by
              from pairs p join verdicts v using (pair_id)
              where p.query is not null
            ),
            -- A policy may keep the planted copy and reject the row that it repeats.
            lost_twins as (
              select distinct r.id, t.rejected_by
              from rows r join rows t on r.twin = t.id where r.kept and not t.kept
            ),
            judged as (
              select r.defect, r.kept and l.id is null as kept,
                coalesce(l.rejected_by, r.rejected_by) as rejected_by
              from rows r left join lost_twins l using (id)
              where r.defect is not null
                or r.id not in (select twin from rows where twin is not null and kept)
            )
            select defect, count(*), count(*) filter (not kept),
              coalesce(mode(array_to_string(rejected_by, ' + ')) filter (not kept), '')
            from judged group by defect order by defect nulls first
            """
        ).fetchall()
    return {defect: (int(read), int(rejected), reason) for defect, read, rejected, reason in rows}


def found_table(catalog: Catalog, corpus: DemoCorpus) -> str:
    """Write what was planted beside what was found."""
    lines = [f"{'planted defect':<22}{'planted':>9}{'found':>9}{'share':>8}  usual reason"]
    judged = found(catalog)
    unreadable = sum(corpus.planted.get(defect, 0) for defect in QUARANTINED)
    for defect, planted in corpus.planted.items():
        if defect in QUARANTINED:
            continue
        _, rejected, reason = judged.get(defect, (0, 0, ""))
        lines.append(f"{defect:<22}{planted:>9,}{rejected:>9,}{rejected / planted:>8.1%}  {reason}")
    quarantined = _quarantined(catalog)
    lines.append(
        f"{'unreadable rows':<22}{unreadable:>9,}{quarantined:>9,}{quarantined / unreadable:>8.1%}"
        "  quarantine"
    )
    read, rejected, reason = judged[None]
    lines.append(f"{'(clean)':<22}{read:>9,}{rejected:>9,}{rejected / read:>8.1%}  {reason}")
    return "\n".join(lines)


def _quarantined(catalog: Catalog) -> int:
    with catalog.reader() as connection:
        row = connection.execute("select count(*) from quarantine").fetchone()
    assert row is not None
    return int(row[0])
