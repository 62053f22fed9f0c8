"""Asking a language model: a real server that is slow, rude and wrong, and what each costs."""

import json
import re
import time

import pytest

from curation.synthesis.asking import Asking
from curation.synthesis.endpoint import KEY_VARIABLE, Endpoint, EndpointError
from curation.synthesis.journal import Journal
from curation.synthesis.seeds import Seed
from tests.killed_synthesis import settings_of
from tests.llm_server import LlmServer, Reply

SEEDS = [Seed(100 + n, f"第{n}段文字讲的是事情{n}的由来。", f"问题{n}") for n in range(60)]


def passage_number(body):
    return int(re.search(r"第(\d+)段文字", body["messages"][-1]["content"])[1])


def good(body, times=0, **more):
    """Answer as asked, differently for each passage."""
    number = passage_number(body)
    queries = [f"事情{number}是怎么来的", f"谁经历了事情{number}", f"为什么有事情{number}"]
    return Reply(json.dumps({"queries": queries}, ensure_ascii=False), **more)


def ask(folder, behave, seeds=SEEDS, **more):
    """Ask about the seeds and return what is in the journal and the server."""
    with LlmServer(behave) as server, Journal(folder / "journal") as journal:
        limits = {"concurrency": 4, "timeout_s": 1, "max_requests": 3, "backoff_s": 0.01, **more}
        endpoint = Endpoint(server.url, **limits)
        Asking(settings_of(60), endpoint, journal, lambda done: None).ask_all(seeds, 0)
    return journal.finished, server


def contents(finished):
    return {number: done.content for number, done in finished.items()}


def numbers(server):
    return [passage_number(asked.body) for asked in server.asked]


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


def test_a_rude_server_costs_requests_and_no_answer(tmp_path):
    (tmp_path / "calm").mkdir()
    calm, _ = ask(tmp_path / "calm", good)
    finished, _ = ask(tmp_path, rude)
    assert contents(finished) == contents(calm)
    assert {done.requests for done in finished.values()} == {3}
    assert {done.answers for done in finished.values()} == {1}


def test_requests_that_fail_for_ever_cost_only_themselves(tmp_path):
    def behave(body, times):
        number = passage_number(body)
        if number == 3:
            return Reply(status=400, body=b'{"error": "prompt is too long"}')
        if number == 4:
            return Reply(status=500)
        return Reply(delay_s=2) if number == 5 else good(body)

    finished, server = ask(tmp_path, behave)
    asked = numbers(server)
    assert (asked.count(3), asked.count(4), asked.count(5)) == (1, 3, 3)
    reasons = {number: done.reason for number, done in finished.items() if done.reason}
    assert reasons.pop(3) == 'HTTP 400: {"error": "prompt is too long"}'
    assert reasons.pop(4) == "no answer after 3 requests: HTTP 500"
    assert reasons.pop(5).startswith("no answer after 3 requests: TimeoutError")
    assert reasons == {}
    assert len(finished) == 60


def test_nobody_asks_while_the_server_wants_to_be_left_alone(tmp_path):
    came = []

    def behave(body, times):
        came.append(time.monotonic())
        wait = (("Retry-After", "0.5"),)
        return Reply(status=429, headers=wait) if len(came) == 1 else good(body)

    ask(tmp_path, behave, concurrency=1)
    assert came[1] - came[0] >= 0.49


def test_no_more_requests_are_under_way_than_asked_for(tmp_path):
    _, server = ask(tmp_path, lambda body, times: good(body, delay_s=0.01))
    assert server.most_at_once == 4


def test_an_answer_that_cannot_be_used_is_asked_for_once_more(tmp_path):
    finished, server = ask(tmp_path, lambda body, times: good(body) if times else Reply("no"))
    assert {(done.reason, done.requests, done.answers) for done in finished.values()} == {
        (None, 2, 2)
    }
    seeds = {asked.body["seed"] for asked in server.asked}
    assert len(seeds) == 120  # the second answer is sampled otherwise


def test_a_server_that_is_gone_stops_and_keeps_what_is_finished(tmp_path):
    seen = []

    def dies(body, times):
        seen.append(body)
        return good(body) if len(seen) <= 20 else Reply(reset=True)

    with pytest.raises(EndpointError, match="20 that are finished"):
        ask(tmp_path, dies)
    finished, server = ask(tmp_path, good)
    assert len(server.asked) == 40  # and nothing that failed meanwhile is lost
    assert all(done.content for done in finished.values())


@pytest.mark.parametrize(
    ("status", "said"), [(401, KEY_VARIABLE), (404, "no such model"), (400, "in a row")]
)
def test_a_server_that_answers_nobody_finishes_nothing(tmp_path, status, said):
    with pytest.raises(EndpointError, match=said):
        ask(tmp_path, lambda body, times: Reply(status=status, body=b"no"))
    with Journal(tmp_path / "journal") as journal:
        assert journal.finished == {}


def test_few_requests_to_nobody_are_no_result_either(tmp_path):
    endpoint = Endpoint("http://127.0.0.1:9", max_requests=1)
    with Journal(tmp_path / "journal") as journal:
        asking = Asking(settings_of(3), endpoint, journal, lambda done: None)
        with pytest.raises(EndpointError, match="no answer to 3 requests"):
            asking.ask_all(SEEDS[:3], 0)


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("127.0.0.1:8000", "such as http://127.0.0.1:8000"),
        ("ftp://x", "such as http://127.0.0.1:8000"),
        ("http://me:secret@x", KEY_VARIABLE),
        ("http://x/?api_key=secret", KEY_VARIABLE),
    ],
)
def test_a_wrong_url_is_refused_without_repeating_a_key(url, said):
    with pytest.raises(ValueError, match=re.escape(said)):
        Endpoint(url)


def test_the_url_is_taken_with_and_without_its_version():
    urls = ("http://x:1", "http://x:1/", "http://x:1/v1", "http://x:1/v1/")
    assert {Endpoint(url).completions_url for url in urls} == {"http://x:1/v1/chat/completions"}
