"""Synthesis end to end: a real server that misbehaves, a real catalog, kills."""

import json
import multiprocessing
import os
import re
import signal
import time

import pytest

from catalog.errors import CatalogError
from catalog.maintenance import check_catalog
from catalog.policies import Condition, Policy
from catalog.policy_commit import commit_policy
from catalog.snapshots import create_snapshot, load_snapshot, snapshot_reader
from curation.fresh_files import select_fresh
from curation.sources import find_sources
from curation.synthesis.endpoint import KEY_VARIABLE, Endpoint, EndpointError
from curation.synthesis.journal import Journal
from curation.synthesize import synthesize
from tests.killed_synthesis import run_synthesis, settings_of
from tests.llm_server import LlmServer, Reply
from tests.sources import jsonl, write
from tests.tiny_catalog import add_file, copy_catalog, fetch, pair

PASSAGES = 60
ALL = Policy("all", (Condition("any", "rules", require="true"),))


@pytest.fixture(scope="module")
def prepared(tmp_path_factory, empty_catalog):
    """A catalog with a snapshot v1 of sixty passages, one of them with two queries."""
    made = copy_catalog(empty_catalog, tmp_path_factory.mktemp("synthesis") / "corpus")
    rows = [pair(n, f"问题{n}", f"第{n}段文字讲的是事情{n}的由来。") for n in range(PASSAGES)]
    rows.append(pair(PASSAGES, "另一个问题", rows[0]["positive"]))
    add_file(made, "a.jsonl", rows)
    commit_policy(made, ALL)
    create_snapshot(made, "v1")
    return made


@pytest.fixture
def corpus(tmp_path, prepared):
    return copy_catalog(prepared, tmp_path / "corpus")


def passage_number(body):
    return int(re.search(r"第(\d+)段文字", body["messages"][-1]["content"])[1])


def good(body, times=0, **more):
    """Answer as asked, differently for each passage."""
    number = passage_number(body)
    queries = [f"事情{number}是怎么来的", f"谁经历了事情{number}", f"为什么有事情{number}"]
    return Reply(json.dumps({"queries": queries}, ensure_ascii=False), **more)


def run(catalog, server, passages=PASSAGES, **more):
    return run_synthesis(catalog.location.url, server.url, passages, **more)


def content(catalog):
    """Everything that synthesis writes and that must not depend on how it went."""
    return [
        fetch(catalog, "select * from pairs where source like 'synthetic:%' order by pair_id"),
        fetch(catalog, "select * from synthesis_requests order by request"),
        fetch(catalog, "select * from quarantine order by file_id, row, reason"),
        fetch(catalog, "select file_id, path, sha256, rows from files order by file_id"),
    ]


def test_answers_become_ordinary_pairs_with_their_provenance(corpus):
    with LlmServer(good) as server:
        done = run(corpus, server)
    assert (done.pairs, done.seeds, done.unusable, done.quarantined) == (180, 60, 0, 0)
    rows = fetch(
        corpus,
        "select s.query, s.positive, s.form, s.task, s.meta, o.positive from pairs s "
        "join pairs o on o.pair_id = (s.meta->>'seed_id')::bigint "
        f"where s.source = '{done.source}' order by s.pair_id",
    )
    assert len(rows) == 180
    for query, positive, form, task, meta, seed_passage in rows:
        assert positive == seed_passage
        assert re.search(r"事情(\d+)", query)[1] == re.search(r"第(\d+)段", positive)[1]
        assert (form, task) == ("question-answer", "retrieval")
        kept = json.loads(meta)
        assert kept["model"] == "tiny"
        assert kept["prompt"] == "queries-zh"
        assert set(kept["slots"]) == {"persona", "type", "length", "difficulty", "language"}
    assert fetch(corpus, f"select count(*) from sources where source = '{done.source}'") == [(1,)]
    assert check_catalog(corpus) == []


def test_the_drawn_slots_and_the_schema_are_in_the_request(corpus):
    settings = settings_of(PASSAGES)
    with LlmServer(good) as server:
        run(corpus, server)
        bodies = {passage_number(asked.body): asked.body for asked in server.asked}
    stored = fetch(
        corpus, "select p.positive, r.slots from synthesis_requests r join pairs p on "
        "p.pair_id = r.seed_id"
    )  # fmt: skip
    assert len(stored) == PASSAGES == len(bodies)
    personas = set()
    for positive, slots in stored:
        number = int(re.search(r"第(\d+)段", positive)[1])
        asked = bodies[number]["messages"][-1]["content"]
        for slot, name in json.loads(slots).items():
            assert settings.prompt.slots[slot][name] in asked
        personas.add(json.loads(slots)["persona"])
        schema = bodies[number]["response_format"]["json_schema"]["schema"]
        assert schema["properties"]["queries"]["minItems"] == 3
    assert len(personas) == len(settings.prompt.slots["persona"])
    assert len({body["seed"] for body in bodies.values()}) == PASSAGES


def test_the_policy_and_the_next_snapshot_apply_to_synthetic_pairs(corpus):
    with LlmServer(good) as server:
        source = run(corpus, server).source
    rule = Condition("no_why", "rules", require="query not like '为什么%'")
    commit_policy(corpus, Policy("all", (rule,)))
    after = create_snapshot(corpus, "v2")
    with snapshot_reader(corpus, after) as connection:
        counted = connection.execute(
            "select kept, count(*) from verdicts join pairs using (pair_id) where source = ? "
            "group by 1 order by 1", [source]
        ).fetchall()  # fmt: skip
    assert counted == [(False, 60), (True, 120)]
    assert load_snapshot(corpus, "v1").kept == PASSAGES + 1


def wrong(body, times):
    """Answer a different kind of nonsense for each passage below ten, always."""
    number = passage_number(body)
    passage = re.search(r"第\d+段文字讲的是事情\d+的由来。", body["messages"][-1]["content"])[0]
    bad = {
        0: "好的，下面是查询：",
        1: '{"questions": ["为什么"]}',
        2: '{"queries": "为什么"}',
        3: "",
        4: '{"queries": []}',
        5: '{"queries": ["  "]}',
        6: json.dumps({"queries": [passage]}),
        7: '{"queries": ["what happened here"]}',
        8: '{"queries": ["\\ud800", 7, "a\\u0000"]}',
    }
    if number in bad:
        return Reply(bad[number])
    if number == 9:
        return good(body, finish_reason="length")
    if number == 10:
        return Reply(json.dumps({"queries": ["谁经历了它", "谁经历了它？", passage]}))
    return good(body)


def test_a_bad_answer_goes_to_quarantine_with_reason_and_raw_text(corpus):
    with LlmServer(wrong) as server:
        done = run(corpus, server)
    assert (done.pairs, done.unusable, done.requests) == (49 * 3 + 1, 10, 70)
    found = fetch(
        corpus,
        "select p.positive, q.reason, q.raw from quarantine q "
        "join synthesis_requests r on r.request = q.row join pairs p on p.pair_id = r.seed_id",
    )
    by_number = {}
    for positive, reason, raw in found:
        number = int(re.search(r"第(\d+)段", positive)[1])
        by_number.setdefault(number, []).append((reason, raw.decode()))
    reasons = {number: {reason for reason, _ in rows} for number, rows in by_number.items()}
    assert reasons[0] == {"the answer is not JSON"}
    assert by_number[0][0][1] == "好的，下面是查询："
    for number in (1, 2, 4):
        assert "does not follow the schema" in next(iter(reasons[number]))
    assert reasons[3] == {"the answer is empty"}
    assert reasons[5] == {"query is empty"}
    assert reasons[6] == {"query is a copy"}
    assert reasons[7] == {"query is not in the language zh"}
    assert reasons[8] == {
        "query holds a lone surrogate; query is not a text; query holds a NUL character"
    }
    assert reasons[9] == {"the answer was cut at max_tokens, 1,024"}
    assert reasons[10] == {"query repeats another", "query is a copy"}
    assert set(reasons) == set(range(11))
    answers = dict(fetch(corpus, "select answers, count(*) from synthesis_requests group by 1"))
    assert answers == {1: 50, 2: 10}  # asked once more, no further
    assert check_catalog(corpus) == []


def test_a_second_answer_that_can_be_used_is_taken(corpus):
    with LlmServer(lambda body, times: good(body) if times else Reply("nonsense")) as server:
        done = run(corpus, server)
    assert (done.pairs, done.unusable, done.requests) == (180, 0, 120)


def rude(body, times):
    """Fail twice in a way that depends on the passage; the third request is answered."""
    if times == 2:
        return good(body)
    ways = [
        Reply(status=500),
        Reply(status=429, headers=(("Retry-After", "0.05"),)),
        Reply(reset=True),
        Reply("x" * 500, cut_after=100),
        Reply(body=b"<html>busy</html>"),
        Reply(body=b'{"choices": []}'),
        Reply(status=503, headers=(("Retry-After", "Fri, 27 Nov 2026 20:00:00 GMT"),)),
    ]
    return ways[passage_number(body) % len(ways)]


def test_a_rude_server_costs_requests_and_no_row(corpus, tmp_path, prepared):
    calm = copy_catalog(prepared, tmp_path / "calm")
    with LlmServer(good) as server:
        run(calm, server)
    with LlmServer(rude) as server:
        done = run(corpus, server)
    assert (done.pairs, done.requests) == (180, 180)
    assert content(corpus)[0] == content(calm)[0]


def test_requests_that_fail_for_ever_cost_only_themselves(corpus):
    def behave(body, times):
        number = passage_number(body)
        if number == 3:
            return Reply(status=400, body=b'{"error": "prompt is too long"}')
        if number == 4:
            return Reply(status=500)
        return Reply(delay_s=5) if number == 5 else good(body)

    with LlmServer(behave) as server:
        done = run(corpus, server)
        times = [passage_number(asked.body) for asked in server.asked]
    assert (done.pairs, done.unusable) == (57 * 3, 3)
    assert (times.count(3), times.count(4), times.count(5)) == (1, 3, 3)
    reasons = [reason for (reason,) in fetch(corpus, "select reason from quarantine order by 1")]
    assert reasons[0] == 'HTTP 400: {"error": "prompt is too long"}'
    assert reasons[1] == "no answer after 3 requests: HTTP 500"
    assert reasons[2].startswith("no answer after 3 requests: TimeoutError")


def test_no_more_requests_are_under_way_than_asked_for(corpus):
    with LlmServer(lambda body, times: good(body, delay_s=0.01)) as server:
        run(corpus, server)
        assert server.most_at_once == 4


def test_a_server_that_is_gone_stops_the_run_and_keeps_what_is_finished(corpus):
    seen = []

    def dies(body, times):
        seen.append(body)
        return good(body) if len(seen) <= 20 else Reply(reset=True)

    with LlmServer(dies) as server, pytest.raises(EndpointError, match="20 that are finished"):
        run(corpus, server)
    assert content(corpus)[:3] == [[], [], []]
    with LlmServer(good) as server:
        done = run(corpus, server)
        assert len(server.asked) == PASSAGES - 20  # nothing that failed meanwhile is lost
    assert (done.pairs, done.unusable) == (180, 0)


@pytest.mark.parametrize(
    ("status", "said"), [(401, KEY_VARIABLE), (404, "no such model"), (400, "in a row")]
)
def test_a_server_that_answers_nobody_stops_before_anything_is_written(corpus, status, said):
    with (
        LlmServer(lambda body, times: Reply(status=status, body=b"no")) as server,
        pytest.raises(EndpointError, match=said),
    ):
        run(corpus, server)
    assert content(corpus)[:3] == [[], [], []]
    with pytest.raises(EndpointError, match="in a row"):
        run_synthesis(corpus.location.url, "http://127.0.0.1:9", 5)


def test_kill_9_and_resume_repeats_no_finished_request(corpus, tmp_path, prepared):
    whole = copy_catalog(prepared, tmp_path / "whole")
    with LlmServer(good) as server:
        run(whole, server)

    def slow(body, times):
        return good(body, delay_s=0.02)

    url = corpus.location.url
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.killed_synthesis"])
    with LlmServer(slow) as server:
        finished = 0
        for target in (15, 30):
            process = context.Process(target=run_synthesis, args=(url, server.url, PASSAGES))
            process.start()
            deadline = time.monotonic() + 60
            while len(server.asked) < target and time.monotonic() < deadline:
                time.sleep(0.005)
            os.kill(process.pid, signal.SIGKILL)
            process.join()
            assert process.exitcode == -signal.SIGKILL
            assert content(corpus)[:3] == [[], [], []]
            (path,) = corpus.jobs_folder.glob("synthesize-*/scratch/journal-*.jsonl")
            with Journal(path) as journal:
                assert len(journal.finished) >= finished
                finished = len(journal.finished)
            before = len(server.asked)
        assert finished >= 10
        run(corpus, server)
        assert len(server.asked) - before == PASSAGES - finished
        assert content(corpus) == content(whole)
        run(corpus, server)  # the same command again does nothing
        assert len(server.asked) - before == PASSAGES - finished
    assert content(corpus) == content(whole)


def test_more_seeds_are_the_same_ones_and_others_behind_them(corpus):
    catalog, snapshot = corpus, load_snapshot(corpus, "v1")
    with LlmServer(good) as server:
        first = run(corpus, server, 10)
        settings = settings_of(10)
        rest = type(settings.seeds)(100, skip=10, min_chars=1)
        later = type(settings)("tiny", settings.prompt, rest)
        second = synthesize(catalog, snapshot, later, Endpoint(server.url))
    assert (first.seeds, second.seeds) == (10, 50)
    assert len({passage_number(asked.body) for asked in server.asked}) == PASSAGES


def test_a_snapshot_without_such_passages_is_refused(corpus):
    snapshot = load_snapshot(corpus, "v1")
    settings = settings_of(10)
    long = type(settings.seeds)(10, min_chars=500)
    with pytest.raises(CatalogError, match=r"0 passages of 500 to 2000 characters"):
        synthesize(
            corpus, snapshot, type(settings)("tiny", settings.prompt, long), Endpoint("http://x")
        )


def test_hard_negatives_and_graded_pairs(corpus):
    def behave(body, times):
        number = passage_number(body)
        if "negatives" in body["response_format"]["json_schema"]["schema"]["properties"]:
            assert f"问题{number}\n" in body["messages"][-1]["content"] or "另一个问题" in str(body)
            made = {"negatives": [f"与它相近的段落{number}", f"另一段话{number}"]}
        else:
            made = {"pairs": [
                {"sentence1": f"他来了{number}", "sentence2": f"他到了{number}", "similarity": 5},
                {"sentence1": "天晴", "sentence2": "股市下跌", "similarity": 0},
                {"sentence1": "天晴", "sentence2": "下雨", "similarity": 9},
            ]}  # fmt: skip
        return Reply(json.dumps(made, ensure_ascii=False))

    with LlmServer(behave) as server:
        negatives = run(corpus, server, prompt="negatives-zh")
        graded = run(corpus, server, 5, prompt="sts-zh")
    assert (negatives.seeds, negatives.pairs) == (61, 61)  # a row a query
    rows = fetch(
        corpus,
        f"select len(negatives), task from pairs where source = '{negatives.source}' group by all",
    )
    assert rows == [(2, "retrieval")]
    assert fetch(
        corpus,
        f"select task, label, count(*) from pairs where source = '{graded.source}' "
        "group by all order by label",
    ) == [("sts", 0.0, 5), ("sts", 1.0, 5)]
    assert graded.quarantined == 5


def test_the_key_comes_from_the_environment_and_is_written_nowhere(corpus, monkeypatch):
    monkeypatch.setenv(KEY_VARIABLE, "very-secret-key")
    with LlmServer(good) as server:
        run(corpus, server)
        assert server.asked[0].headers["authorization"] == "bearer very-secret-key"
    work = corpus.location.work
    files = [path for path in work.rglob("*") if path.is_file()]
    assert len(files) > 5
    assert not any(b"very-secret-key" in path.read_bytes() for path in files)


def test_ingest_goes_on_beside_synthetic_files(corpus, tmp_path):
    with LlmServer(good) as server:
        run(corpus, server)
    path = write(tmp_path, "b.jsonl", jsonl({"query": "q", "positive": "p"}))
    fresh, skipped = select_fresh(corpus, find_sources([path]), False, 1)
    assert ([one.path for one in fresh], skipped) == ([str(path)], [])
