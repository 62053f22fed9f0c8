import pytest

from catalog import duck
from catalog.errors import PolicyError
from catalog.expressions import parse, unknown_column, unknown_name


def refused(text: str) -> str:
    with pytest.raises(PolicyError) as caught:
        parse(text, "condition 'c'")
    message = str(caught.value)
    assert message.startswith("condition 'c': ")
    assert repr(text) in message
    return message


def test_an_expression_knows_its_columns_and_models() -> None:
    found = parse("passage_chars > 3 and (score('bge large') >= 0.4 or Language = 'zh')", "c")
    assert found.columns == {"passage_chars", "language"}
    assert found.score_models == {"bge large"}
    assert '"score:bge large" >= 0.4' in found.sql


def test_names_that_a_lambda_makes_are_no_columns() -> None:
    for text in ("len([n for n in negatives if length(n) > 3]) > 0",
                 "list_filter(negatives, lambda n: length(n) > 3) <> []"):  # fmt: skip
        assert parse(text, "c").columns == {"negatives"}


@pytest.mark.parametrize(
    "text",
    [
        "a between 1 and 2", "x in ('a', 'b')", "case when a > 1 then true else false end",
        "try_cast(a as int) = 1", "meta->>'$.lang' = 'zh'", "x like '%展开%'", "not a is null",
        "a is not distinct from 3", "negatives[1] = 'a'", "regexp_matches(x, '^第.章$')",
        "a // 2 = 1 and -a < 1", "x = 'it''s' -- the end", "x collate nocase = 'a'",
        "a = 1 /* ) */ and\n b = 2",
    ],
)  # fmt: skip
def test_what_is_evaluated_means_what_was_written(text: str) -> None:
    columns = "1 as a, 2 as b, 'b' as x, ['a'] as negatives, '{\"lang\":\"zh\"}' as meta"
    with duck.connect() as connection:
        values = [
            connection.execute(f"select ({sql}\n) from (select {columns})").fetchall()
            for sql in (text, parse(text, "c").sql)
        ]
    assert values[0] == values[1]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("(select 1) = 1", "a subquery"),
        ("a in (select 1)", "a subquery"),
        ("exists(select 1)", "a subquery"),
        ("row_number() over () > 1", "a window function"),
        ("*", "a star"),
        ("columns('a.*') > 1", "a star"),
        ("sum(a) > 1", "the aggregate sum()"),
        ("count(*) > 1", "the aggregate count_star()"),
        ("list_sum(list(a)) > 1", "the aggregate list()"),
        ("unnest(negatives) = 'a'", "unnest()"),
        ("a > $1", "parameter"),
        ("#1 > 2", "positional reference"),
        ("default", "default"),
    ],
)
def test_a_condition_reads_nothing_but_its_own_pair(text: str, found: str) -> None:
    message = refused(text)
    assert f"holds {found}" in message
    assert "only the columns of its own pair" in message


@pytest.mark.parametrize("text", ["random() < 0.5", "now() > x", "uuid() = x", "nextval('a') = 1"])
def test_a_condition_is_the_same_for_ever(text: str) -> None:
    assert "whose value changes" in refused(text)


@pytest.mark.parametrize(
    "text",
    [
        "true) from pairs where (true",
        "true) union select (true",
        "true) limit (1",
        "true) as a, (true",
        "true) as a from read_csv('/etc/passwd') where (true",
    ],
)
def test_a_text_that_leaves_its_brackets_is_not_one_expression(text: str) -> None:
    assert "is not one expression" in refused(text)


@pytest.mark.parametrize(
    "text", ["1=1) --", "1=1) /*", "true; drop table pairs", "", "  ", "a = 'b"]
)
def test_a_text_that_is_no_expression_is_refused(text: str) -> None:
    refused(text)


def test_a_syntax_error_says_where() -> None:
    assert "at character 7: syntax error" in refused("a > 1 andd b")
    assert "at its end: syntax error" in refused("a >")


def test_names_are_not_qualified() -> None:
    assert "'pairs.source' in" in refused("pairs.source = 'a'")
    assert "write the column's name alone" in refused("lake.pairs.source = 'a'")


def test_score_takes_one_name_in_quotes() -> None:
    for text in ("score(a) > 1", "score() > 1", "score('a', 'b') > 1"):
        assert "takes one model name in quotes" in refused(text)


def test_an_unknown_name_comes_with_the_closest_known_ones() -> None:
    known = ["passage_chars", "passage_lines", "query_chars", "zh"]
    assert "did you mean passage_chars" in str(unknown_column("pasage_char", known, "c"))
    assert "did you mean" not in str(unknown_column("xyzzy", known, "c"))
    assert unknown_name("snapshot", "mai", ["may", "june"]) == (
        "there is no snapshot 'mai'; did you mean 'may'? there are: june, may"
    )
    assert unknown_name("snapshot", "v2", []) == "there is no snapshot 'v2'; there are: none yet"
