"""Prompts, answers and the journal: what is read, what is refused and why."""

import json

import pytest

from catalog.errors import CatalogError, JobBusyError
from curation.synthesis.journal import Finished, Journal
from curation.synthesis.kinds import KINDS, AnswerError
from curation.synthesis.prompts import load_prompt, shipped_prompts
from curation.synthesis.seeds import Seed

PASSAGE = "光合作用是植物利用光能，把二氧化碳和水变成有机物并放出氧气的过程，主要在叶绿体里进行。"
SEED = Seed(7, PASSAGE, "什么是光合作用")


def read(content, kind="queries", language="zh", count=3):
    if not isinstance(content, str):
        content = json.dumps(content)
    return KINDS[kind].read(SEED, content, count, language)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("好的，下面是查询：", "the answer is not JSON"),
        ("", "the answer is empty"),
        ("[" * 100_000, "the answer is not JSON"),
        ({"questions": ["为什么"]}, "does not follow the schema: an object with a list 'queries'"),
        ({"queries": "为什么"}, "does not follow the schema"),
        ({"queries": ["为什么"], "more": 1}, "does not follow the schema"),
        ({"queries": []}, "0 items, not 3"),
        ({"queries": ["一", "二", "三", "四"]}, "4 items, not 3"),
        ({"queries": ["  "]}, "query is empty"),
        ({"queries": [7]}, "query is not a text"),
        ({"queries": ["！？"]}, "query has no letters"),
        ({"queries": ["a\0b"]}, "query holds a control character"),
        ('{"queries": ["\\ud800"]}', "query holds a lone surrogate"),
        ({"queries": ["为" * 2001]}, "query is longer than 2,000 characters"),
        ({"queries": [PASSAGE]}, "query is a copy"),
        ({"queries": [PASSAGE[:34] + "？"]}, "query is a copy"),
        ({"queries": ["what do plants do"]}, "query is not in the language zh"),
    ],
)
def test_an_answer_that_gives_nothing_says_why(content, reason):
    with pytest.raises(AnswerError) as caught:
        read(content)
    assert reason in str(caught.value)


def test_what_can_be_used_of_an_answer_is_used():
    reading = read({"queries": ["植物怎样利用光能", "植物怎样利用光能？", PASSAGE]})
    assert [draft.query for draft in reading.drafts] == ["植物怎样利用光能"]
    assert reading.faults == ["query repeats another", "query is a copy"]
    short = read({"queries": ["光合作用"]})  # stands in the passage, and is a query of its own
    assert [draft.query for draft in short.drafts] == ["光合作用"]


def test_a_raw_tab_or_line_break_in_a_text_spoils_no_answer():
    reading = read('{"queries": ["植物怎样\n利用\t光能", "植物\x08怎样呼吸"]}')
    assert [draft.query for draft in reading.drafts] == ["植物怎样\n利用\t光能"]
    assert reading.faults == ["query holds a control character"]


def test_languages_may_hold_names_of_the_other():
    assert read({"queries": ["怎么用 Python 画图"]}).drafts
    assert read({"queries": ["what is 光合 in plants of a garden"]}, language="en").drafts
    with pytest.raises(AnswerError, match="language en"):
        read({"queries": ["什么是光合作用"]}, language="en")


def test_a_hard_negative_is_neither_the_passage_nor_the_query():
    reading = read({"negatives": ["呼吸作用消耗氧气。", PASSAGE, SEED.query]}, "negatives")
    (draft,) = reading.drafts
    assert (draft.query, draft.positive) == (SEED.query, PASSAGE)
    assert draft.negatives == ("呼吸作用消耗氧气。",)
    assert len(reading.faults) == 2


def test_graded_pairs():
    def item(one, two, grade):
        return {"sentence1": one, "sentence2": two, "similarity": grade}

    items = [item("天晴了", "放晴了", 4), item("天晴了", "天晴了。", 5), item("天晴", "下雨", 6)]
    reading = read({"pairs": items}, "sts")
    assert [(one.query, one.positive, one.label) for one in reading.drafts] == [
        ("天晴了", "放晴了", 0.8)
    ]
    assert reading.faults[0] == "sentence2 is a copy"
    assert "similarity is a number from 0 to 5" in reading.faults[1]
    for bad in (item("天晴", "下雨", True), item("天晴", ["下雨"], 1), {"sentence1": "天"}, "天"):
        with pytest.raises(AnswerError):
            read({"pairs": [bad]}, "sts")


def test_every_shipped_prompt_can_be_written():
    assert len(shipped_prompts()) == 6
    for name in shipped_prompts():
        prompt = load_prompt(name)
        kind = KINDS[prompt.kind]
        slots = prompt.draw_slots(0, SEED.pair_id)
        system, user = prompt.messages(slots, kind.values(SEED, 3))
        assert PASSAGE in user["content"]
        assert "$" not in system["content"] + user["content"]
        assert f'"{kind.key}"' in user["content"]


def test_slots_are_drawn_by_seed_and_passage_alone():
    prompt = load_prompt("queries-zh")
    drawn = [prompt.draw_slots(0, pair_id) for pair_id in range(400)]
    assert drawn == [prompt.draw_slots(0, pair_id) for pair_id in range(400)]
    assert drawn != [prompt.draw_slots(1, pair_id) for pair_id in range(400)]
    for slot, choices in prompt.slots.items():
        for choice in choices:
            share = sum(one[slot] == choice for one in drawn) / 400
            assert abs(share - 1 / len(choices)) < 0.1, (slot, choice)
    personas = {one["persona"] for one in drawn if one["type"] == "fact"}
    assert len(personas) == len(prompt.slots["persona"])  # slots do not go together


def test_a_passage_with_placeholders_stays_as_it_is():
    prompt = load_prompt("queries-zh")
    values = {"passage": "价格是 $count 元 {x} %s", "count": "3"}
    _, user = prompt.messages(prompt.draw_slots(0, 1), values)
    assert "价格是 $count 元 {x} %s" in user["content"]


PROMPT = """
kind = "queries"
system = "s"
user = "$passage $count $tone $language"
[slots.tone]
dry = "dry"
[slots.language]
en = "English"
"""


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('"queries"', '"poems"', "kind is 'poems': one of queries, negatives, sts"),
        ("$tone", "$mood", "$mood is none of count, language, passage, tone"),
        ("$passage", "", "never says $passage"),
        ("$tone", "5 $ of", "a lone $"),
        ("en =", "eo =", "some of zh, en"),
        ('dry = "dry"', "", "slot 'tone' needs names"),
        ('dry = "dry"', "dry = 1", "slot 'tone' needs names"),
        ('system = "s"', 'system = "s"\nmodel = "m"', "'model' is none of"),
        ('system = "s"', "", "system must be a text"),
        ("kind =", "kind", "not valid TOML"),
    ],
)
def test_a_wrong_prompt_says_what_is_wrong(tmp_path, old, new, said):
    path = tmp_path / "mine.toml"
    path.write_text(PROMPT)
    assert load_prompt(str(path)).name == "mine"
    path.write_text(PROMPT.replace(old, new, 1))
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the message is compared below
        load_prompt(str(path))
    assert said in str(caught.value)


def test_a_prompts_digest_is_of_what_decides_the_request(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(PROMPT)
    first = load_prompt(str(path)).digest
    path.write_text('about = "a note"\n' + PROMPT)
    assert load_prompt(str(path)).digest == first
    path.write_text(PROMPT.replace('dry = "dry"', 'dry = "drier"'))
    assert load_prompt(str(path)).digest != first


def test_an_unknown_prompt_names_those_that_there_are():
    with pytest.raises(ValueError, match="one of negatives-en, negatives-zh, queries-en"):
        load_prompt("queries-fr")


def finished(number):
    return Finished(number, f"答案{number}\n\u2028", None, 1, 1)


def test_a_torn_line_is_asked_again_and_whole_ones_are_not(tmp_path):
    path = tmp_path / "journal"
    with Journal(path) as journal:
        for number in range(3):
            journal.add(finished(number))
    whole = path.read_bytes()
    bounds = [at + 1 for at, byte in enumerate(whole) if byte == ord("\n")]
    assert len(bounds) == 3
    around = {at + more for at in [0, *bounds] for more in (-1, 0, 1)}
    for size in sorted({*range(0, len(whole), 17), *around} & {*range(len(whole) + 1)}):
        path.write_bytes(whole[:size])
        with Journal(path) as journal:
            kept = sum(bound <= size for bound in bounds)
            assert journal.finished == {number: finished(number) for number in range(kept)}
            journal.add(finished(9))
        with Journal(path) as journal:
            assert sorted(journal.finished) == [*range(kept), 9]


def test_a_line_that_was_damaged_in_the_middle_is_not_passed_over(tmp_path):
    path = tmp_path / "journal"
    with Journal(path) as journal:
        for number in range(3):
            journal.add(finished(number))
    content = bytearray(path.read_bytes())
    content[30] ^= 1
    path.write_bytes(content)
    with pytest.raises(CatalogError, match="damaged after byte 0; remove it"), Journal(path):
        pass
    assert path.read_bytes() == content  # nothing is cut off what a person may want to look at


def test_two_processes_do_not_write_one_journal(tmp_path):
    with (
        Journal(tmp_path / "journal"),
        pytest.raises(JobBusyError, match="still writes"),
        Journal(tmp_path / "journal"),
    ):
        pass
