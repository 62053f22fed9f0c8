import duckdb
import pyarrow as pa

from catalog import duck
from catalog.lake import Catalog
from catalog.policies import Condition, Policy
from catalog.policy_commit import commit_policy
from catalog.views import use_policy
from tests.tiny_catalog import KEPT, REJECTED, A, B, add_signals, fetch


def test_verdicts_name_every_failed_condition_of_every_row(tiny_corpus: Catalog) -> None:
    rows = fetch(tiny_corpus, "select pair_id, kept, rejected_by from verdicts order by pair_id")
    assert {i: reasons for i, kept, reasons in rows if not kept} == REJECTED
    assert [i for i, kept, _ in rows if kept] == sorted([*KEPT, B + 1])


def test_curated_is_pairs_that_are_kept_with_all_their_columns(tiny_corpus: Catalog) -> None:
    rows = fetch(tiny_corpus, "select pair_id, query is not null from curated order by pair_id")
    assert rows == sorted([*((i, True) for i in KEPT), (B + 1, False)])
    assert fetch(tiny_corpus, "select column_name from (describe curated)") == fetch(
        tiny_corpus, "select column_name from (describe pairs)"
    )


def test_the_funnel_counts_pairs_stage_by_stage_from_what_was_read(tiny_corpus: Catalog) -> None:
    assert fetch(tiny_corpus, "from funnel") == [
        (0, "read", 12, 10, 10 / 12),
        (1, "language", 10, 9, 0.9),
        (2, "rules", 9, 7, 7 / 9),
        (3, "duplicates", 7, 5, 5 / 7),
    ]
    assert len(KEPT) == 5


def test_rejections_count_all_and_those_that_no_other_condition_rejects(
    tiny_corpus: Catalog,
) -> None:
    assert fetch(tiny_corpus, "select reason, stage, pairs, alone from rejections") == [
        ("chinese", "language", 1, 1),
        ("long_enough", "rules", 1, 1),
        ("no_ad", "rules", 1, 1),
        ("exact", "duplicates", 1, 1),
        ("near", "duplicates", 1, 1),
    ]


def test_signals_shows_the_newest_measurement_beside_its_pair(corpus: Catalog) -> None:
    columns = {"passage_chars": pa.int32(), "emoji_share": pa.float64()}
    rows = [{"pair_id": A, "passage_chars": -1, "emoji_share": 0.5}]
    add_signals(corpus, "signals_0002", columns, rows)
    assert fetch(
        corpus, "select passage_chars, emoji_share, language from signals order by pair_id limit 2"
    ) == [(-1, 0.5, "zh"), (None, None, "zh")]


def test_an_empty_catalog_has_all_views(empty_catalog: Catalog) -> None:
    assert fetch(empty_catalog, "select * from funnel") == [(0, "read", 0, 0, None)]
    for view in ("signals", "verdicts", "curated", "rejections"):
        assert fetch(empty_catalog, f"select * from {view}") == []


def test_a_reader_can_look_through_another_policy_without_writing(tiny_corpus: Catalog) -> None:
    version = tiny_corpus.version()
    with tiny_corpus.reader() as connection:
        use_policy(connection, Policy("all", (Condition("any", "rules", require="true"),)))
        rows = connection.execute("select count(*) from curated").fetchall()
    assert rows == [(11,)]
    assert tiny_corpus.version() == version


def test_a_committed_policy_changes_what_everyone_sees(corpus: Catalog) -> None:
    commit_policy(corpus, Policy("none", (Condition("never", "rules", require="false"),)))
    assert fetch(corpus, "select count(*) from curated") == [(0,)]
    assert fetch(corpus, "select distinct rejected_by from verdicts") == [(["never"],)]


def test_the_printed_statement_opens_the_catalog_under_any_name(tiny_corpus: Catalog) -> None:
    with duckdb.connect() as connection:
        for extension in tiny_corpus.extensions:
            duck.load_extension(connection, extension)
        connection.execute(tiny_corpus.attach_sql("mine"))
        found = connection.execute("select count(*) from mine.curated").fetchall()
        connection.execute("use mine")
        assert connection.execute("select count(*) from curated").fetchall() == found == [(6,)]
        assert connection.execute("select count(*) from mine.funnel").fetchall() == [(4,)]
