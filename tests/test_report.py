import itertools
import re
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from pathlib import Path

import pytest

from catalog import duck
from catalog.errors import CatalogError, PolicyError
from catalog.lake import Catalog
from catalog.policies import Condition, Policy
from catalog.policy_commit import commit_policy
from catalog.report import (
    ReportData,
    Stage,
    funnel_svg,
    funnel_text,
    gather_report,
    gather_stages,
    numbers,
    titles,
    write_report,
)
from catalog.report.data import (
    Bar,
    ClusterSize,
    Combination,
    Histogram,
    Reason,
    Sample,
    SourceRow,
)
from catalog.report.page import render, visible
from catalog.report.scales import Scale, bucket_values, choose_scale, make_bars
from catalog.report.svg import DARK, LIGHT, cells, cut
from catalog.report.terms import terms_of
from catalog.snapshots import create_snapshot
from catalog.views import use_policy

STAGES = (Stage("read", 1010, 1000), Stage("rules", 1000, 700), Stage("去重", 700, 650))
POLICY = Policy(
    "small",
    (
        Condition("language", "language", require="passage_language = 'zh'", source="our own"),
        Condition("passage-length", "rules", require="passage_chars >= 5", where="task <> 'sts'"),
        Condition("digits", "rules", require="passage_digit_share <= 0.25"),
        Condition("echo", "rules", require="not pair_echo"),
        Condition("exact", "duplicates", unique="exact"),
        Condition("unused", "quality", require="query_chars < 1000"),
    ),
)
# pair_id, source, task, query, passage, digit share, language: what fails is in the comment.
ROWS = [
    (1, "新闻", "retrieval", "春天来了", "春天来了，花都开了。", 0.0, "zh"),
    (2, "新闻", "retrieval", "春天来了", "春天来了，花都开了。", 0.0, "zh"),  # exact
    (3, "新闻", "retrieval", "问", "短", 0.0, "zh"),  # passage-length
    (4, "新闻", "sts", "问", "短", 0.0, "zh"),
    (5, "web", "retrieval", "price", "<script>alert(1)</script> 12345", 0.5, "en"),  # 2 of them
    (6, "web", "retrieval", "同一句话啊", "同一句话啊", 0.0, "zh"),  # echo
    (7, "web", "retrieval", "没测过的", "没有语言的一段话。", None, None),
]


@pytest.fixture(scope="module")
def catalog(tmp_path_factory: pytest.TempPathFactory) -> Catalog:
    made = Catalog.create(str(tmp_path_factory.mktemp("report") / "corpus"))
    made.transact(_fill)
    commit_policy(made, POLICY)
    return made


@pytest.fixture(scope="module")
def report(catalog: Catalog) -> ReportData:
    return gather_report(catalog)


def test_the_funnel_is_the_one_of_the_funnel_view(catalog: Catalog) -> None:
    with catalog.reader() as connection:
        view = connection.execute("select stage, rows_in, rows_out from funnel").fetchall()
    stages = gather_stages(catalog)
    assert [(stage.name, stage.rows_in, stage.rows_out) for stage in stages] == view
    assert view[0] == ("read", 9, 7)
    assert stages[-1].rows_out == 3


def test_reasons_are_those_of_the_rejections_view(catalog: Catalog, report: ReportData) -> None:
    with catalog.reader() as connection:
        view = connection.execute("select reason, pairs, alone from rejections").fetchall()
    assert [(one.name, one.pairs, one.alone) for one in report.reasons] == view
    assert {name: pairs for name, pairs, _ in view}["digits"] == 1
    assert report.reasons[0].source == "our own"
    assert report.reasons[1].scope == "task <> 'sts'"


def test_overlaps_count_pairs_that_fail_exactly_these_conditions(report: ReportData) -> None:
    combinations = {one.reasons: one.pairs for one in report.combinations}
    assert combinations == {
        ("exact",): 1,
        ("passage-length",): 1,
        ("echo",): 1,
        ("language", "digits"): 1,
    }


def test_sources_are_summed_up_with_their_usual_reasons(report: ReportData) -> None:
    news, web = report.sources
    assert (news.source, news.pairs, news.kept) == ("新闻", 4, 2)
    assert news.reasons == (("exact", 1), ("passage-length", 1))
    assert (web.source, web.pairs, web.kept) == ("web", 3, 1)
    assert web.passage_chars == pytest.approx((31 + 5 + 9) / 3)


def test_a_histogram_counts_only_pairs_that_its_condition_applies_to(report: ReportData) -> None:
    drawn = {one.condition: one for one in report.histograms}
    lengths = drawn["passage-length"]
    assert lengths.measured == 6  # without the sts pair
    assert lengths.failed == 1
    assert lengths.thresholds == (5.0,)
    assert all(bar.failed == 0 for bar in lengths.bars if bar.low >= 5)


def test_what_was_not_measured_is_counted_apart_and_passes(report: ReportData) -> None:
    drawn = {one.condition: one for one in report.histograms}
    assert (drawn["digits"].measured, drawn["digits"].unmeasured, drawn["digits"].failed) == (
        6,
        1,
        1,
    )
    assert (drawn["language"].measured, drawn["language"].unmeasured) == (6, 1)


def test_words_and_booleans_become_categories(report: ReportData) -> None:
    drawn = {one.condition: one for one in report.histograms}
    assert drawn["language"].is_category
    bars = [(bar.label, bar.passed, bar.failed) for bar in drawn["language"].bars]
    assert bars == [("zh", 5, 0), ("en", 0, 1)]
    assert [(bar.label, bar.failed) for bar in drawn["echo"].bars] == [("false", 0), ("true", 1)]


def test_a_condition_over_two_tables_has_a_histogram_for_each_thing_it_looks_at(
    catalog: Catalog,
) -> None:
    rule = "source <> 'books' and passage_chars < 100 + 2 * query_chars"
    by_source, by_length = gather_report(
        catalog, Policy("two", (Condition("two", "rules", require=rule),))
    ).histograms
    assert [(bar.label, bar.pairs) for bar in by_source.bars] == [("新闻", 4), ("web", 3)]
    assert by_length.signal == "passage_chars - (100 + (2 * query_chars))"
    assert (by_length.measured, by_length.failed, by_length.thresholds) == (7, 0, (0.0,))


def test_rare_categories_are_joined(tmp_path: Path) -> None:
    rows: list[tuple[object, ...]] = [
        (i, f"来源{i // 2}", "retrieval", f"问题{i}", "一段话", 0.0, "zh") for i in range(20)
    ]
    catalog = Catalog.create(str(tmp_path / "corpus"))
    catalog.transact(lambda connection: _fill(connection, rows))
    policy = Policy("many", (Condition("source", "rules", require="source <> '来源9'"),))
    (drawn,) = gather_report(catalog, policy).histograms
    assert [(bar.label, bar.passed, bar.failed) for bar in drawn.bars][-2:] == [
        ("来源6", 2, 0),
        ("others", 4, 2),
    ]
    assert len(drawn.bars) == 8


def test_a_passage_without_a_query_is_no_pair(tmp_path: Path) -> None:
    catalog = Catalog.create(str(tmp_path / "corpus"))

    def with_passage(connection: duck.Connection) -> None:
        _fill(connection)
        connection.execute(
            "insert into pairs by name select 8 as pair_id, 'web' as source, 'text-text' as form, "
            "'retrieval' as task, '语料里的一段' as positive, 8 as file_row, "
            "md5('8')::uuid as positive_key"
        )
        connection.execute("insert into signals_small values (8, null, 6, 0.9, 'en', false)")

    catalog.transact(with_passage)
    report = gather_report(catalog, POLICY)
    assert report.pairs == 7
    drawn = {one.condition: one for one in report.histograms}
    assert drawn["digits"].failed == 1
    assert drawn["language"].measured == 6


def test_clusters_are_counted_by_their_first_member(report: ReportData) -> None:
    assert report.clusters == (ClusterSize("exact", 2, 1, 2),)


def test_samples_show_texts_values_and_other_reasons(report: ReportData) -> None:
    samples = {one.reason: one for one in report.samples}
    assert samples.keys() == {"language", "passage-length", "digits", "echo", "exact"}
    digits = samples["digits"]
    assert (digits.pair_id, digits.passage_chars) == (5, 31)
    assert digits.values == {"passage_digit_share": "0.5"}
    assert digits.other_reasons == ("language",)
    assert samples["exact"].pair_id == 2


def test_samples_do_not_depend_on_the_order_of_rows(tmp_path: Path) -> None:
    # Passages of at most three characters: all of them fail.
    rows: list[tuple[object, ...]] = [
        (i, "web", "retrieval", f"问题{i}", f"{i}", 0.0, "zh") for i in range(1, 400)
    ]
    catalog = Catalog.create(str(tmp_path / "corpus"))
    catalog.transact(lambda connection: _fill(connection, rows))
    first = gather_report(catalog, POLICY).samples

    def refill(connection: duck.Connection) -> None:
        for table in ("pairs", "signal_columns", "duplicates"):
            connection.execute(f"delete from {table}")
        connection.execute("drop table signals_small")
        _fill(connection, rows[::-1])

    catalog.transact(refill)
    assert gather_report(catalog, POLICY).samples == first
    with catalog.reader() as connection:
        smallest = connection.execute(
            "select pair_id from pairs "
            "order by md5_number_lower('report sample ' || pair_id) limit 4"
        ).fetchall()
    chosen = [one.pair_id for one in first if one.reason == "passage-length"]
    assert chosen == [pair_id for (pair_id,) in smallest]


def test_a_snapshot_is_reported_as_it_was(tmp_path: Path) -> None:
    catalog = Catalog.create(str(tmp_path / "corpus"))
    catalog.transact(_fill)
    commit_policy(catalog, POLICY)
    snapshot = create_snapshot(catalog, "v1")
    catalog.transact(lambda connection: connection.execute("delete from pairs where pair_id = 7"))
    report = gather_report(catalog, "v1")
    assert (report.pairs, report.kept) == (snapshot.pairs, snapshot.kept) == (7, 3)
    assert dict(report.facts)["digest"] == snapshot.digest
    assert gather_report(catalog).pairs == 6


def test_the_same_rows_give_the_same_bytes(catalog: Catalog, tmp_path: Path) -> None:
    for name in ("a.html", "b.html"):
        write_report(catalog, None, tmp_path / "new" / name)
    first, second = (path.read_bytes() for path in sorted((tmp_path / "new").iterdir()))
    assert first == second


def test_a_report_needs_nothing_else_and_runs_no_text_of_the_corpus(
    catalog: Catalog, tmp_path: Path
) -> None:
    write_report(catalog, None, tmp_path / "funnel.html")
    page = (tmp_path / "funnel.html").read_text(encoding="utf-8")
    assert re.findall(r"(?:src|href)\s*=|@import|url\(", page) == []
    assert set(re.findall(r"https?://[^\"' <]+", page)) == {"http://www.w3.org/2000/svg"}
    assert page.count("<script>") == 1  # ours
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page


@pytest.mark.parametrize(
    ("snapshot", "error", "message"),
    [
        ("v9", CatalogError, "there is no snapshot 'v9'"),
        (
            Policy("bad", (Condition("a", "rules", require="passage_char > 1"),)),
            PolicyError,
            "did you mean passage_chars",
        ),
    ],
)
def test_what_cannot_be_reported_is_refused_and_nothing_is_written(
    catalog: Catalog, tmp_path: Path, snapshot: str | Policy, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        write_report(catalog, snapshot, tmp_path / "funnel.html")
    assert list(tmp_path.iterdir()) == []


def test_an_empty_catalog_has_a_report_too(tmp_path: Path) -> None:
    catalog = Catalog.create(str(tmp_path / "corpus"))
    report = gather_report(catalog)
    assert report == replace(report, stages=(), reasons=(), samples=(), histograms=())
    page = render(report)
    assert "The catalog holds no pairs yet" in page
    assert "lode ingest" in page
    _check_markup(page)
    catalog.transact(lambda connection: _fill(connection, []))
    with_policy = gather_report(catalog, POLICY)
    assert [stage.rows_out for stage in with_policy.stages] == [0, 0, 0, 0, 0]
    _check_markup(render(with_policy))


def test_a_full_page_is_whole_markup_with_every_section(report: ReportData) -> None:
    page = render(report)
    _check_markup(page)
    for section in ("funnel", "reasons", "overlaps", "sources", "signals", "clusters", "samples"):
        assert f'<section id="{section}">' in page


def test_a_page_bears_long_names_and_many_sources() -> None:
    long = "a_source_with_a_name_" * 10
    sources = tuple(SourceRow(f"{long}{i}", 1000 + i, i, 9.0, None, ()) for i in range(100))
    page = render(ReportData("t", "p", (), STAGES, sources=sources))
    _check_markup(page)
    assert page.count('class="name"') == 100
    assert f"{long}1" in page
    assert len(titles.sources(ReportData("t", "p", (), sources=sources))) < 160


def test_titles_say_what_is_seen() -> None:
    reasons = (Reason("short", "rules", "x > 1", 300, 250), Reason("none", "rules", "x < 9", 0, 0))
    data = ReportData(
        "t",
        "p",
        (),
        STAGES,
        reasons,
        (Combination(("short",), 250), Combination(("short", "b"), 50)),
    )
    assert titles.headline(data) == "650 of 1,000 pairs are kept: 65.0%"
    assert titles.funnel(data) == "Most is lost at rules: 300 rows, 30.0% of what reaches it"
    assert titles.reasons(data) == (
        "short rejects the most: 300 pairs; 250 of them fail nothing else"
    )
    assert titles.overlaps(data) == "71.4% of the rejected pairs fail one condition only"
    assert titles.clusters(data) == "No duplicates were found"


def test_titles_of_nothing_claim_nothing() -> None:
    data = ReportData("t", "p", (), (Stage("read", 5, 5),), (Reason("a", "s", "x", 0, 0),))
    assert titles.headline(data) == "All 5 pairs are kept"
    assert titles.funnel(data) == "No stage rejects anything"
    assert titles.reasons(data) == "No condition rejects a pair"
    assert titles.overlaps(data) == "No two conditions fail together"


def test_the_funnel_stands_alone_as_a_picture() -> None:
    drawing = funnel_svg(STAGES)
    root = ElementTree.fromstring(drawing)
    assert root.tag.endswith("svg")
    assert root.get("viewBox", "").split()[:3] == ["-24", "-24", root.get("width")]
    words = ["".join(node.itertext()) for node in root.iter() if node.tag.endswith("text")]
    assert {"read", "1,000", "−300 (30.0%)", "去重", "650"} <= set(words)
    assert "prefers-color-scheme:dark" in drawing


def test_bars_of_the_funnel_are_as_long_as_their_rows() -> None:
    root = ElementTree.fromstring(funnel_svg(STAGES))
    kept = [float(n.get("width", 0)) for n in root.iter() if n.get("class") == "kept"]
    lost = [float(n.get("width", 0)) for n in root.iter() if n.get("class") == "lost"]
    scale = kept[0] / 1000
    assert kept == pytest.approx([1000 * scale, 700 * scale, 650 * scale], abs=0.02)
    assert lost == pytest.approx([10 * scale, 300 * scale, 50 * scale], abs=0.02)


def test_the_funnel_of_a_terminal_is_aligned_in_every_script() -> None:
    lines = funnel_text(STAGES, width=72).split("\n")
    assert [line.split()[0] for line in lines] == ["read", "rules", "去重"]
    shares = ("99.0%", "69.3%", "64.4%")
    columns = {cells(line[: line.index(one)]) for line, one in zip(lines, shares, strict=True)}
    assert len(columns) == 1
    assert all(cells(line) <= 72 for line in lines)
    assert lines[1].count("█") > lines[2].count("█") > 0


def test_a_funnel_of_nothing_is_drawn() -> None:
    assert "empty" in funnel_text(())
    ElementTree.fromstring(funnel_svg(()))
    assert funnel_text((Stage("read", 0, 0),)).split() == ["read", "0", "–", "nothing", "rejected"]
    one_row = funnel_text((Stage("read", 10**9, 10**9), Stage("rules", 10**9, 1)))
    assert "▏" in one_row.split("\n")[1]  # what is not nothing shows


@pytest.mark.parametrize(
    ("part", "whole", "written"),
    [
        (0, 0, "–"),
        (0, 9, "0%"),
        (9, 9, "100%"),
        (1, 3, "33.3%"),
        (999_999, 1_000_000, "> 99.99%"),
        (1, 1_000_000, "< 0.01%"),
        (9996, 10_000, "99.96%"),
        (5, 10_000, "0.05%"),
    ],
)
def test_a_share_is_never_rounded_to_all_or_nothing(part: int, whole: int, written: str) -> None:
    assert numbers.share(part, whole) == written


def test_numbers_are_written_for_people() -> None:
    assert numbers.count(1632227) == "1,632,227"
    assert [numbers.short(n) for n in (0.125, 950, 9610, 94_200, 1_632_227, 2.5e9)] == [
        "0.125", "950", "9.6k", "94k", "1.6M", "2.5G",
    ]  # fmt: skip
    assert [numbers.value(n) for n in (20.0, 0.692, 1500, 0.1 + 0.2)] == [
        "20",
        "0.692",
        "1,500",
        "0.3",
    ]
    assert [numbers.plural(n, "pair") for n in (0, 1, 2)] == ["0 pairs", "1 pair", "2 pairs"]


@pytest.mark.parametrize(
    ("rule", "terms"),
    [
        ("passage_chars >= 20", {"passage_chars": (20.0,)}),
        ("0.3 >= passage_digit_share", {"passage_digit_share": (0.3,)}),
        ("chars between 20 and 1e4", {"chars": (20.0, 10000.0)}),
        ("a > -1.5 and (b < 2 or a <= 3 * 4)", {"a": (-1.5, 12.0), "b": (2.0,)}),
        ("not (a < 7)", {"a": (7.0,)}),
        ("a + b + c + d >= 0.5", {"a + b + c + d": (0.5,)}),
        ("words <= 2 + chars / 400", {"words - (2 + (chars / 400))": (0.0,)}),
        ("language in ('zh', 'und') or han >= 0.1", {"language": (), "han": (0.1,)}),
        ("language = 'zh'", {"language": ()}),
        ("not pair_echo", {"pair_echo": ()}),
        ("name like 'w%' and url is null", {"name": (), "url": ()}),
        ('"score:m" >= 0.4', {"m": (0.4,)}),
        ("(a + b) * (c + d) > 1", {"(a + b) * (c + d)": (1.0,)}),
        ("a < 5 -- a comment", {"a": (5.0,)}),
        ("1 < 2", {}),
    ],
)
def test_a_rule_is_taken_apart_into_what_it_looks_at(
    rule: str, terms: dict[str, tuple[float, ...]]
) -> None:
    assert {term.label: term.thresholds for term in terms_of(rule)} == terms


def test_a_bucket_holds_its_values() -> None:
    assert bucket_values(0) == (0.0, 0.0)
    low, high = bucket_values(1000 + 8 * 3)
    assert low == 8.0
    assert 8.0 < high < 9.0
    assert bucket_values(-1000) == pytest.approx((-(2 ** (1 / 8)), -1.0))


def test_a_share_is_drawn_from_0_and_a_bar_begins_at_its_threshold() -> None:
    scale = choose_scale({0: 50, 990: 30, 999: 20}, [0.28], is_whole=False)
    assert scale is not None
    assert (scale.low, scale.is_log) == (0.0, False)
    edges = [scale.edge(i) for i in range(scale.bars + 1)]
    assert min(abs(edge - 0.28) for edge in edges) < 1e-9
    assert edges[-1] == pytest.approx(1.0, abs=0.05)


def test_few_whole_numbers_get_a_bar_each() -> None:
    scale = choose_scale({0: 5, 1000: 9, 1008: 4, 1012: 1}, [2], is_whole=True)
    assert scale is not None
    assert (scale.low, scale.step, scale.bars) == (0.0, 1.0, 12)


def test_lengths_over_orders_of_size_are_drawn_on_a_log_scale() -> None:
    sizes = {1000 + 8 * power: 100 for power in range(3, 14)}
    scale = choose_scale(sizes, [20], is_whole=True)
    assert scale is not None
    assert scale.is_log
    edges = [scale.edge(i) for i in range(scale.bars + 1)]
    assert min(abs(edge - 20) for edge in edges) < 1e-6
    assert edges[0] <= 8.0
    assert edges[-1] >= 8192.0


def test_nothing_measured_has_no_scale() -> None:
    assert choose_scale({}, [1.0], is_whole=False) is None


def test_a_single_value_can_be_drawn() -> None:
    for sizes in ({0: 10}, {1000: 10}, {-1000: 10}):
        scale = choose_scale(sizes, [], is_whole=False)
        assert scale is not None
        assert scale.step > 0
        assert scale.bars > 0


def test_what_lies_beyond_goes_into_the_outer_bars() -> None:
    scale = Scale(0.0, 1.0, 3, is_log=False)
    counts = {(-1, True): 2, (0, True): 1, (2, False): 4, (3, False): 5}
    bars = make_bars(scale, counts, is_whole=False)
    assert [(bar.passed, bar.failed) for bar in bars] == [(0, 3), (0, 0), (9, 0)]


def test_bars_between_whole_numbers_are_joined_and_lose_no_pair() -> None:
    scale = choose_scale({1000 + 8 * power: 10 for power in range(10)}, [], is_whole=True)
    assert scale is not None
    counts = {(i, False): 1 for i in range(scale.bars)}
    bars = make_bars(scale, counts, is_whole=True)
    assert sum(bar.pairs for bar in bars) == scale.bars
    empty = make_bars(scale, {}, is_whole=True)
    assert len(empty) < scale.bars
    assert all(one.high == two.low for one, two in itertools.pairwise(empty))


def test_a_histogram_colors_what_fails_and_draws_the_threshold() -> None:
    bars = (Bar(0, 5, 0, 40), Bar(5, 10, 60, 0), Bar(10, 15, 20, 0))
    drawn = Histogram("length", "chars", "chars >= 5", None, bars, (5.0, 99.0), opens_high=True)
    page = render(ReportData("t", "p", (), STAGES, histograms=(drawn,)))
    assert "0 to 5: 40 pairs, 40 fail" in page
    assert "10 and more: 20 pairs" in page
    assert page.count('class="threshold"') == 2
    assert "→ 99" in page  # beyond the picture


def test_invisible_characters_are_shown_and_obeyed_by_nobody() -> None:
    assert visible("a\x07b\u202ec\u200bd\x7f") == "a␇b�c�d␡"
    assert visible("第一行\n\t第二行") == "第一行\n\t第二行"
    sample = Sample("short", 1, "s", "q\u202eq", "p\x1bp", 3)
    page = render(
        ReportData("t", "p", (), STAGES, (Reason("short", "rules", "x", 1, 1),), samples=(sample,))
    )
    assert "q�q" in page
    assert "p␛p" in page


def test_a_text_is_cut_to_its_width_on_the_screen() -> None:
    assert cut("short", 10) == "short"
    assert cut("去重与质量检查", 8) == "去重与…"
    assert cells(cut("a" * 50, 10)) == 10


@pytest.mark.parametrize("colors", [LIGHT, DARK], ids=["light", "dark"])
@pytest.mark.parametrize("name", ["ink", "soft", "kept", "lost"])
def test_colors_can_be_read(colors: dict[str, str], name: str) -> None:
    """WCAG 2.1 AA asks 4.5:1 for text."""
    for ground in ("paper", "card"):
        one, two = sorted((_luminance(colors[name]), _luminance(colors[ground])), reverse=True)
        assert (one + 0.05) / (two + 0.05) >= 4.5


def test_views_and_report_agree_under_a_policy_that_is_only_tried(catalog: Catalog) -> None:
    tried = Policy("tried", (Condition("long", "rules", require="passage_chars >= 9"),))
    with catalog.reader() as connection:
        use_policy(connection, tried)
        view = connection.execute("select stage, rows_in, rows_out from funnel").fetchall()
    stages = gather_stages(catalog, tried)
    assert [(stage.name, stage.rows_in, stage.rows_out) for stage in stages] == view


def _luminance(color: str) -> float:
    channels = (int(color[i : i + 2], 16) / 255 for i in (1, 3, 5))
    red, green, blue = (
        one / 12.92 if one <= 0.04045 else ((one + 0.055) / 1.055) ** 2.4 for one in channels
    )
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def _fill(connection: duck.Connection, rows: list[tuple[object, ...]] | None = None) -> None:
    """Write pairs with signals and exact duplicates, as curation would."""
    connection.execute(
        "create temp table raw (pair_id bigint, source varchar, task varchar, query varchar, "
        "passage varchar, digits float, language varchar)"
    )
    chosen = ROWS if rows is None else rows
    if chosen:
        connection.executemany("insert into raw values (?, ?, ?, ?, ?, ?, ?)", chosen)
    connection.execute(
        """
        insert into pairs by name
        select pair_id, source, 'text-text' as form, task, query, passage as positive,
          pair_id as file_row, md5(query)::uuid as query_key, md5(passage)::uuid as positive_key,
          md5(query || '/' || passage)::uuid as pair_key
        from raw
        """
    )
    connection.execute(
        """
        create table signals_small as
        select pair_id, length(query)::integer as query_chars,
          length(passage)::integer as passage_chars, digits as passage_digit_share,
          language as passage_language, query = passage as pair_echo
        from raw
        """
    )
    connection.execute(
        """
        insert into signal_columns
        select column_name, '1', 'signals_small', 1 from (describe signals_small)
        where column_name <> 'pair_id'
        """
    )
    connection.execute(
        """
        insert into duplicates
        select pair_id, 'exact', min(pair_id) over w, pair_id, min(pair_id) over w, 1,
          count(*) over w, false, pair_id = min(pair_id) over w
        from pairs where task <> 'sts' and query <> '问'
        window w as (partition by pair_key)
        qualify count(*) over w > 1
        """
    )
    if rows is None:
        connection.execute(
            "insert into quarantine values (1, 3, 'empty_positive', ''), (1, 9, 'bad_json', '')"
        )
    connection.execute("drop table raw")


def _check_markup(page: str) -> None:
    """Check that every element is closed, by a parser that forgives nothing."""
    body = page.split("<body>", 1)[1].split("</body>", 1)[0]
    body = re.sub(r"<script>.*?</script>", "", body, flags=re.DOTALL)
    ElementTree.fromstring(f"<body>{body.replace('&nbsp;', ' ')}</body>")
