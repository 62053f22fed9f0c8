"""Judgments: a language model grades pairs and labels passages; grades are scores of a policy."""

import json
import multiprocessing
import os
import re
import signal
import time

import pytest
from typer.testing import CliRunner

import lode
from catalog.errors import CatalogError
from catalog.maintenance import check_catalog
from catalog.policies import Condition, Policy
from catalog.policy_commit import commit_policy
from catalog.snapshots import create_snapshot, load_snapshot
from curation.ingest import ingest_files
from curation.judge import Judged, Selection, judge
from curation.sources import find_sources
from curation.synthesis.choices import SHIPPED, JudgeSettings, load_choices
from curation.synthesis.endpoint import Endpoint
from curation.synthesis.kinds import AnswerError
from curation.synthesis.prompts import shipped_prompts
from curation.synthesis.seeds import Seed
from tests.killed_judge import run_judge
from tests.llm_server import LlmServer, Reply
from tests.sources import jsonl, write
from tests.tiny_catalog import copy_catalog, fetch

PAIRS = 40


@pytest.fixture(scope="module")
def prepared(tmp_path_factory, empty_catalog):
    """A snapshot v1 of forty pairs, and of a passage that two of them share."""
    folder = tmp_path_factory.mktemp("judge")
    made = copy_catalog(empty_catalog, folder / "corpus")
    rows = [{"query": f"问题{n}", "positive": f"第{n}段文字讲的是事情{n}。"} for n in range(PAIRS)]
    rows.append({"query": "又一个问题", "positive": rows[0]["positive"]})
    ingest_files(made, find_sources([write(folder, "a.jsonl", jsonl(*rows))]))
    commit_policy(made, Policy("all", (Condition("any", "rules", require="true"),)))
    create_snapshot(made, "v1")
    return made


@pytest.fixture
def corpus(tmp_path, prepared):
    return copy_catalog(prepared, tmp_path / "corpus")


def number_of(body):
    return int(re.search(r"第(\d+)段文字", body["messages"][-1]["content"])[1])


def graded(body, times=0, **more):
    """Grade by the passage's number: 0 to 3."""
    answer = {"why": f"看第{number_of(body)}段", "choice": str(number_of(body) % 4)}
    return Reply(json.dumps(answer, ensure_ascii=False), **more)


def labelled(body, times=0):
    choice = "advertisement" if number_of(body) % 3 == 0 else "clean"
    return Reply(json.dumps({"why": "", "choice": choice}))


def run(catalog, server, prompt="answers-zh", **more) -> Judged:
    return run_judge(catalog.location.url, server.url, prompt, **more)


def test_grades_are_scores_that_a_policy_asks_for(corpus):
    with LlmServer(graded) as server:
        done = run(corpus, server)
        assert (done.asked, done.unusable) == (PAIRS + 1, 0)
        assert done.choices == {"0": 11, "1": 10, "2": 10, "3": 10}
        # All have a judgment: nothing is asked twice.
        assert run(corpus, server).asked == 0
    assert len(server.asked) == PAIRS + 1
    rows = fetch(
        corpus,
        "select p.positive, j.choice, j.why, s.score from judgments j join pairs p using (pair_id) "
        "join scores s on s.pair_id = j.pair_id and s.model = 'answers-zh'",
    )
    assert len(rows) == PAIRS + 1
    for positive, choice, why, score in rows:
        number = int(re.search(r"第(\d+)段", positive)[1])
        assert (choice, why) == (str(number % 4), f"看第{number}段")
        assert score == pytest.approx(number % 4 / 3)
    low = Condition("no_answer", "quality", require="score('answers-zh') >= 0.6")
    commit_policy(corpus, Policy("judged", (low,)))
    assert fetch(corpus, "select count(*) from verdicts where kept") == [(20,)]
    assert check_catalog(corpus) == []
    schema = server.asked[0].body["response_format"]["json_schema"]["schema"]
    assert schema["properties"]["choice"]["enum"] == ["0", "1", "2", "3"]
    assert "问题" in server.asked[0].body["messages"][-1]["content"]


def test_labels_of_passages_teach_a_classifier(corpus, tmp_path):
    with LlmServer(labelled) as server:
        done = run(corpus, server, "advertisement-zh")
    # A passage that two pairs hold is judged once, and labels are no scores.
    assert done.choices == {"advertisement": 14, "clean": 26}
    assert fetch(corpus, "select count(*) from scores") == [(0,)]
    table = tmp_path / "labels.parquet"
    sql = (
        "select positive as text, choice as label from judgments join pairs using (pair_id) "
        "where name = 'advertisement-zh' and choice is not null order by pair_id"
    )
    words = ["sql", sql, "-f", "parquet", "-o", str(table), "--catalog", corpus.location.url]
    assert CliRunner().invoke(lode.app, words).exit_code == 0
    words = ["classifier", "train", str(table), str(tmp_path / "ad"), "--positive", "advertisement"]
    taught = CliRunner().invoke(lode.app, words)
    assert taught.exit_code == 0, taught.output
    assert (tmp_path / "ad" / "model.bin").exists()


def test_the_grade_of_a_passage_is_that_of_all_its_pairs(corpus):
    with LlmServer(graded) as server:
        assert run(corpus, server, "fluency-zh").asked == PAIRS
    shared = "select count(*), count(distinct s.score) from scores s join pairs p using (pair_id) "
    assert fetch(corpus, shared + "where p.positive like '第0段%'") == [(2, 1)]
    assert fetch(corpus, "select count(*) from scores") == [(PAIRS + 1,)]


def test_a_sample_is_drawn_by_hash_and_grows(corpus):
    with LlmServer(graded) as server:
        few = run(corpus, server, selection=Selection("query like '问题%'", sample=8))
        first = {number_of(asked.body) for asked in server.asked}
        more = run(corpus, server, selection=Selection("query like '问题%'", sample=20))
    asked = [number_of(each.body) for each in server.asked]
    assert (few.asked, more.asked, len(first)) == (8, 12, 8)
    assert len(set(asked)) == len(asked) == 20


def test_what_cannot_be_used_has_a_reason_and_is_asked_again(corpus):
    def wrong(body, times):
        number = number_of(body)
        bad = {0: "不是 JSON", 1: '{"why": "x", "choice": "7"}', 2: '{"choice": 2}', 3: "[]"}
        return Reply(bad[number]) if number in bad else graded(body)

    with LlmServer(wrong) as server:
        done = run(corpus, server)
    assert done.unusable == 4  # two pairs hold passage 0
    reasons = fetch(
        corpus,
        "select p.positive[2], reason from judgments join pairs p using (pair_id) "
        "where choice is null order by 1, 2",
    )
    assert reasons == [
        ("0", "the answer is not JSON"),
        ("0", "the answer is not JSON"),
        ("1", "the answer chooses none of 0, 1, 2, 3"),
        ("3", "the answer does not follow the schema: 'why' and 'choice'"),
    ]
    assert fetch(corpus, "select count(*) from scores") == [(PAIRS + 1 - 4,)]
    with LlmServer(graded) as server:
        assert run(corpus, server).choices == {"0": 2, "1": 1, "3": 1}
    assert fetch(corpus, "select count(*), count(distinct pair_id) from scores") == [
        (PAIRS + 1, PAIRS + 1)
    ]


def test_a_name_stands_for_one_prompt_and_model(corpus):
    with LlmServer(graded) as server:
        run(corpus, server, selection=Selection(sample=3))
        with pytest.raises(CatalogError, match="give this one another --name"):
            run(corpus, server, model="other")
        assert run(corpus, server, model="other", selection=Selection(name="second")).asked == 41


def test_a_killed_run_asks_for_nothing_twice(corpus):
    def slow(body, times):
        return graded(body, delay_s=0.05)

    with LlmServer(slow) as server:
        process = multiprocessing.get_context("spawn").Process(
            target=run_judge, args=(corpus.location.url, server.url, "answers-zh")
        )
        process.start()
        deadline = time.monotonic() + 60
        while len(server.asked) < 12 and time.monotonic() < deadline:
            time.sleep(0.01)
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        before = len(server.asked)
        assert 12 <= before < PAIRS
        assert fetch(corpus, "select count(*) from judgments") == [(0,)]
        # Somebody else commits meanwhile: what was asked is still finished.
        commit_policy(corpus, Policy("other", ()))
        done = run(corpus, server)
    assert done.asked == PAIRS + 1
    # What was under way when it was killed, at most four, is asked again.
    assert len(server.asked) <= PAIRS + 1 + 4
    assert fetch(corpus, "select count(*), count(distinct pair_id) from scores") == [(41, 41)]


@pytest.mark.parametrize("name", shipped_prompts(SHIPPED))
def test_every_shipped_prompt_can_be_written_and_answered(name):
    prompt = load_choices(name)
    settings = JudgeSettings("m", prompt)
    body = settings.body(Seed(7, "文字$passage的内容", "查询"), 1)
    text = body["messages"][-1]["content"]
    assert "文字$passage的内容" in text
    assert ("查询" in text.replace("$query", "")) or not prompt.needs_query
    assert all(f"- {choice}: " in text for choice in prompt.choices)
    for choice in prompt.choices:
        assert prompt.read(json.dumps({"why": "因为", "choice": choice})) == (choice, "因为")
    if prompt.is_graded:
        scores = [prompt.score(choice) for choice in prompt.choices]
        assert (min(scores), max(scores)) == (0, 1)
    with pytest.raises(AnswerError, match="chooses none of"):
        prompt.read('{"why": "", "choice": "maybe"}')


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("$passage", "$text", r"\$text is none of choices, passage, query"),
        ("$choices", "", r"never says \$choices"),
        ("[choices]", "[choice]", "'choice' is none of about, system, user, choices"),
        ('1 = "主题', 'eins = 3\n1 = "主题', "at least two names with a text each"),
        ("$query", "$", "a lone"),
    ],
)
def test_a_wrong_prompt_says_what_is_wrong(tmp_path, old, new, said):
    content = (SHIPPED / "answers-zh.toml").read_text()
    assert old in content
    (tmp_path / "own.toml").write_text(content.replace(old, new))
    with pytest.raises(ValueError, match=said):
        load_choices(str(tmp_path / "own.toml"))


def test_bad_settings_stop_before_any_request(corpus):
    with pytest.raises(ValueError, match="there is no prompt 'fine': give a TOML file, or one of"):
        load_choices("fine")
    with LlmServer(graded) as server:
        with pytest.raises(CatalogError, match="--where 'colour = 3' is no condition over"):
            run(corpus, server, selection=Selection("colour = 3"))
        with pytest.raises(ValueError, match="sample is -1"):
            Selection(sample=-1)
        words = [
            "judge", "v1", "--endpoint", server.url, "--model", "m", "--explain",
            "--catalog", corpus.location.url,
        ]  # fmt: skip
        shown = CliRunner().invoke(lode.app, words)
    assert shown.exit_code == 0, shown.output
    assert json.loads(shown.output)["model"] == "m"
    assert server.asked == []


def test_the_snapshot_decides_what_is_judged(corpus):
    first = Condition("few", "rules", require="query <> '问题1'")
    commit_policy(corpus, Policy("few", (first,)))
    create_snapshot(corpus, "v2")
    with LlmServer(graded) as server:
        settings = JudgeSettings("tiny", load_choices("answers-zh"))
        endpoint = Endpoint(server.url, 4, 2)
        assert judge(corpus, load_snapshot(corpus, "v2"), settings, endpoint).asked == PAIRS
