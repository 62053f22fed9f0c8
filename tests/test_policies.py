from pathlib import Path

import pytest

from catalog.errors import PolicyError
from catalog.lake import Catalog
from catalog.policies import Condition, Policy, parse_order, read_policy_file
from catalog.policy_commit import commit_policy
from catalog.policy_diff import diff_policies
from catalog.policy_store import active_policy, load_policy
from tests.tiny_catalog import POLICY, fetch

TRUE = Condition("true", "rules", require="true")
DOCUMENT = {
    "name": "p",
    "prefer": ["pair_id desc"],
    "conditions": [
        {"name": "a", "stage": "rules", "require": "pair_id > 0", "source": "a paper"},
        {"name": "b", "stage": "duplicates", "unique": "near", "where": "source = 'x'"},
    ],
}


def test_a_document_and_its_policy_are_the_same() -> None:
    policy = Policy.from_document(DOCUMENT)
    assert policy.to_document() == DOCUMENT
    assert Policy.from_document(policy.to_document()) == policy
    assert policy.stages == ("rules", "duplicates")


def test_the_digest_follows_content_but_not_where_it_comes_from() -> None:
    policy = Policy.from_document(DOCUMENT)
    [first, second] = DOCUMENT["conditions"]
    cited = Policy.from_document({**DOCUMENT, "conditions": [{**first, "source": "mine"}, second]})
    moved = Policy.from_document(
        {**DOCUMENT, "conditions": [{**first, "require": "pair_id > 1"}, second]}
    )
    assert cited.digest == policy.digest != moved.digest


@pytest.mark.parametrize(
    ("condition", "message"),
    [
        ({"name": "A b", "stage": "s", "require": "true"}, "a name is made of"),
        ({"name": "a", "stage": "", "require": "true"}, "stage is missing"),
        ({"name": "a", "stage": "s"}, "give either require = an SQL condition or unique"),
        ({"name": "a", "stage": "s", "require": "true", "unique": "near"}, "give either"),
        ({"name": "a", "stage": "s", "unique": "fuzzy"}, "allowed are exact and near"),
        ({"name": "a", "stage": "s", "require": "1 >"}, "cannot read '1 >'"),
        ({"name": "a", "stage": "s", "require": "true", "where": "("}, "cannot read '('"),
        ({"name": "a", "stage": "s", "requires": "true"}, "did you mean 'require'?"),
        ({"stage": "s", "require": "true"}, "condition 'number 1': name and stage are needed"),
    ],
)
def test_a_condition_says_what_is_wrong_with_it(condition: dict[str, str], message: str) -> None:
    with pytest.raises(PolicyError, match="condition '") as caught:
        Policy.from_document({"name": "p", "conditions": [condition]})
    assert message in str(caught.value)


def test_a_policy_has_room_for_64_conditions() -> None:
    conditions = tuple(Condition(f"c{i}", "s", require="true") for i in range(65))
    assert len(Policy("p", conditions[:64]).conditions) == 64
    with pytest.raises(PolicyError, match="has 65 conditions; at most 64 are possible"):
        Policy("p", conditions)


def test_a_policy_is_a_list_of_distinct_conditions_in_the_order_of_the_funnel() -> None:
    with pytest.raises(PolicyError, match="condition 'true' is there twice"):
        Policy("p", (TRUE, TRUE))
    other = Condition("other", "language", require="true")
    last = Condition("last", "rules", require="true")
    with pytest.raises(PolicyError, match="conditions of stage 'rules' are not together"):
        Policy("p", (TRUE, other, last))
    with pytest.raises(PolicyError, match="policy 'P': a name is made of"):
        Policy("P", ())
    with pytest.raises(PolicyError, match="unknown key 'condition'; did you mean 'conditions'"):
        Policy.from_document({"name": "p", "condition": []})


def test_an_order_may_descend() -> None:
    assert parse_order("passage_chars DESC") == ("passage_chars", True)
    assert parse_order(" source = 'x' asc ") == ("source = 'x'", False)
    assert parse_order("pair_id") == ("pair_id", False)
    with pytest.raises(PolicyError, match="prefer 'a nulls first'"):
        parse_order("a nulls first")


def test_a_policy_file_is_a_recipes_policy(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(
        "[signals]\nx = 1\n[policy]\nprefer = ['pair_id']\n"
        "[[policy.conditions]]\nname = 'a'\nstage = 'rules'\nrequire = 'true'\n"
    )
    assert read_policy_file(path) == Policy(
        "mine", (Condition("a", "rules", require="true"),), ("pair_id",)
    )
    path.write_text("[recipe]\n")
    with pytest.raises(PolicyError, match=r"mine.toml has no \[policy\]"):
        read_policy_file(path)
    path.write_text("[policy\n")
    with pytest.raises(PolicyError, match="is not valid TOML"):
        read_policy_file(path)
    with pytest.raises(PolicyError, match="there is no file"):
        read_policy_file(tmp_path / "other.toml")


def test_committing_keeps_every_version_and_the_last_is_active(corpus: Catalog) -> None:
    stricter = Policy("zh", (*POLICY.conditions, Condition("more", "late", require="true")))
    assert commit_policy(corpus, POLICY) == 1  # it is there and active already
    assert commit_policy(corpus, stricter) == 2
    assert commit_policy(corpus, Policy("other", (TRUE,))) == 1
    assert commit_policy(corpus, stricter) == 3  # active again
    with corpus.reader() as connection:
        assert active_policy(connection) == (stricter, 3)
        assert load_policy(connection, "zh", 1) == POLICY
        assert load_policy(connection, "zh") == stricter
        with pytest.raises(PolicyError, match="no policy 'zhs'; did you mean 'zh'"):
            load_policy(connection, "zhs")
        with pytest.raises(PolicyError, match="no policy 'zh version 9'"):
            load_policy(connection, "zh", 9)


def test_a_policy_that_cannot_be_evaluated_changes_nothing(corpus: Catalog) -> None:
    version = corpus.version()
    wrong = Policy("wrong", (TRUE, Condition("c", "rules", require="pasage_chars > 1")))
    with pytest.raises(PolicyError, match="did you mean passage_chars"):
        commit_policy(corpus, wrong)
    assert corpus.version() == version
    assert fetch(corpus, "select policy, version from policies") == [("zh", 1)]


def test_a_difference_shows_how_the_funnel_would_move(tiny_corpus: Catalog) -> None:
    changed = tuple(
        Condition("long_enough", "rules", require="passage_chars >= 8")
        if condition.name == "long_enough"
        else condition
        for condition in POLICY.conditions
        if condition.name != "chinese"
    )
    with tiny_corpus.reader() as connection:
        text = diff_policies(connection, POLICY, Policy("zh", changed, POLICY.prefer))
    lines = [line.split() for line in text.splitlines() if line]
    assert ["language", "9", "-"] in lines
    assert ["rules", "7", "5", "-2"] in lines
    assert "1 pairs would come, 3 would go" in text
    assert ["long_enough", "1", "4", "+3"] in lines
