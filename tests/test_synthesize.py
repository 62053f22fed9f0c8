"""Synthesis end to end: from a snapshot to pairs in the catalog, killed and resumed."""

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
from catalog.snapshots import create_snapshot, load_snapshot, snapshot_reader
from curation.ingest import ingest_files
from curation.sources import find_sources
from curation.synthesis.endpoint import KEY_VARIABLE, EndpointError
from curation.synthesis.journal import Journal
from curation.synthesis.prompts import load_prompt
from curation.synthesis.seeds import SeedSettings, choose_seeds
from tests.killed_synthesis import run_synthesis
from tests.llm_server import LlmServer, Reply
from tests.sources import jsonl, write
from tests.test_synthesis_asking import good, passage_number
from tests.tiny_catalog import copy_catalog, fetch

PASSAGES = 60
ALL = Policy("all", (Condition("any", "rules", require="true"),))


@pytest.fixture(scope="module")
def prepared(tmp_path_factory, empty_catalog):
    """A catalog with a snapshot v1 of sixty passages, one of them with two queries."""
    folder = tmp_path_factory.mktemp("synthesis")
    made = copy_catalog(empty_catalog, folder / "corpus")
    rows = [
        {"query": f"问题{n}", "positive": f"第{n}段文字讲的是事情{n}的由来。"}
        for n in range(PASSAGES)
    ]
    rows.append({"query": "另一个问题", "positive": rows[0]["positive"]})
    ingest_files(made, find_sources([write(folder, "a.jsonl", jsonl(*rows))]))
    commit_policy(made, ALL)
    create_snapshot(made, "v1")
    return made


@pytest.fixture
def corpus(tmp_path, prepared):
    return copy_catalog(prepared, tmp_path / "corpus")


def run(catalog, server, passages=PASSAGES, **more):
    return run_synthesis(catalog.location.url, server.url, passages, **more)


def content(catalog):
    """Everything that synthesis writes."""
    return [
        fetch(catalog, "select * from pairs where source like 'synthetic:%' order by pair_id"),
        fetch(catalog, "select * from synthesis_requests order by request"),
        fetch(catalog, "select * from quarantine order by file_id, row, reason"),
        fetch(catalog, "select file_id, path, sha256, rows from files order by file_id"),
        fetch(catalog, "select source, form, task, language from sources order by source"),
    ]


def test_answers_become_ordinary_pairs_with_their_provenance(corpus, tmp_path, monkeypatch):
    monkeypatch.setenv(KEY_VARIABLE, "very-secret-key")
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
    prompt = load_prompt("queries-zh")
    bodies = {passage_number(asked.body): asked.body for asked in server.asked}
    for query, positive, form, task, meta, seed_passage in rows:
        assert positive == seed_passage
        number = int(re.search(r"第(\d+)段", positive)[1])
        assert re.search(r"事情(\d+)", query)[1] == str(number)
        assert (form, task) == ("question-answer", "retrieval")
        kept = json.loads(meta)
        assert (kept["model"], kept["prompt_digest"]) == ("tiny", prompt.digest)
        for slot, name in kept["slots"].items():  # what is stored is what was asked with
            assert prompt.slots[slot][name] in bodies[number]["messages"][-1]["content"]
    schema = bodies[0]["response_format"]["json_schema"]["schema"]
    assert schema["properties"]["queries"]["minItems"] == 3
    assert len({body["seed"] for body in bodies.values()}) == PASSAGES
    assert check_catalog(corpus) == []

    # The key was sent, and is written nowhere.
    assert server.asked[0].headers["authorization"] == "bearer very-secret-key"
    files = [path for path in corpus.location.work.rglob("*") if path.is_file()]
    assert len(files) > 5
    assert not any(b"very-secret-key" in path.read_bytes() for path in files)

    # The policy and the next snapshot apply to them; ingest goes on beside them.
    rule = Condition("no_why", "rules", require="query not like '为什么%'")
    commit_policy(corpus, Policy("all", (rule,)))
    with snapshot_reader(corpus, create_snapshot(corpus, "v2")) as connection:
        counted = connection.execute(
            "select kept, count(*) from verdicts join pairs using (pair_id) where source = ? "
            "group by 1 order by 1",
            [done.source],
        ).fetchall()
    assert counted == [(False, 60), (True, 120)]
    assert load_snapshot(corpus, "v1").kept == PASSAGES + 1
    more = write(tmp_path, "b.jsonl", jsonl({"query": "q", "positive": "p"}))
    assert ingest_files(corpus, find_sources([more])).rows == 1


def test_a_bad_answer_goes_to_quarantine_with_reason_and_raw_text(corpus):
    def wrong(body, times):
        number = passage_number(body)
        if number == 0:
            return Reply("好的，下面是查询：")
        if number == 1:
            return good(body, finish_reason="length")
        if number == 2:
            return Reply(status=400, body=b"too long")
        if number == 3:
            return Reply(json.dumps({"queries": ["谁经历了它", "谁经历了它？", "who is it"]}))
        return good(body)

    with LlmServer(wrong) as server:
        done = run(corpus, server)
    assert (done.pairs, done.unusable, done.quarantined) == (56 * 3 + 1, 3, 5)
    found = fetch(
        corpus,
        "select p.positive, q.reason, q.raw, r.answers, r.reason is null from quarantine q "
        "join synthesis_requests r on r.request = q.row join pairs p on p.pair_id = r.seed_id "
        "order by p.positive, q.reason",
    )
    start = [(row[0][:2], row[1], row[2].decode()[:9], row[3], row[4]) for row in found]
    assert start == [
        ("第0", "the answer is not JSON", "好的，下面是查询：", 2, False),
        ("第1", "the answer was cut at max_tokens, 1,024", '{"queries', 2, False),
        ("第2", "HTTP 400: too long", "", 0, False),
        ("第3", "query is not in the language zh", '{"queries', 1, True),
        ("第3", "query repeats another", '{"queries', 1, True),
    ]
    assert check_catalog(corpus) == []


@pytest.mark.slow
def test_kill_9_and_resume_repeats_no_finished_request(corpus, tmp_path, prepared):
    whole = copy_catalog(prepared, tmp_path / "whole")
    empty = content(corpus)
    with LlmServer(good) as server:
        run(whole, server)
        expected = content(whole)
    with LlmServer(lambda *_: Reply(reset=True)) as server, pytest.raises(EndpointError):
        run(corpus, server)
    assert content(corpus) == empty

    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.killed_synthesis"])
    with LlmServer(lambda body, times: good(body, delay_s=0.03)) as server:
        finished = before = 0
        for target in (15, 35):
            arguments = (corpus.location.url, server.url, PASSAGES)
            process = context.Process(target=run_synthesis, args=arguments)
            process.start()
            deadline = time.monotonic() + 60
            while len(server.asked) < target and time.monotonic() < deadline:
                time.sleep(0.005)
            os.kill(process.pid, signal.SIGKILL)
            process.join()
            assert process.exitcode == -signal.SIGKILL
            assert content(corpus) == empty
            (path,) = corpus.jobs_folder.glob("synthesize-*/scratch/journal-*.jsonl")
            with Journal(path) as journal:
                assert len(journal.finished) > finished
                finished = len(journal.finished)
            before = len(server.asked)
        run(corpus, server)
        assert len(server.asked) - before == PASSAGES - finished
        assert content(corpus) == expected
        run(corpus, server)  # the same command again asks nothing
        assert len(server.asked) - before == PASSAGES - finished
    assert content(corpus) == expected


def test_seeds_are_distinct_passages_in_an_order_that_others_do_not_change(corpus):
    snapshot = load_snapshot(corpus, "v1")

    def ids(*settings, with_query=False):
        seeds = choose_seeds(
            corpus, snapshot, SeedSettings(*settings, min_chars=1), with_query=with_query
        )
        return seeds["pair_id"].to_pylist()

    everything = ids(100)
    assert len(everything) == PASSAGES  # two queries, one passage
    assert everything != sorted(everything)
    assert ids(10) == everything[:10]
    assert ids(20, 10) == everything[10:30]
    assert len(ids(100, with_query=True)) == PASSAGES + 1
    with pytest.raises(CatalogError, match=r"60 passages of 1 to 2000 .* after the first 60"):
        ids(1, 60)
    for bad in ((0,), (1, -1)):
        with pytest.raises(ValueError, match="at least"):
            SeedSettings(*bad)


def test_the_command_makes_hard_negatives_and_graded_pairs(corpus):
    def behave(body, times):
        number = passage_number(body)
        if body["response_format"]["json_schema"]["name"] == "negatives":
            made = {"negatives": [f"与它相近的段落{number}", f"另一段话{number}"]}
        else:
            made = {"pairs": [
                {"sentence1": f"他来了{number}", "sentence2": f"他到了{number}", "similarity": 5},
                {"sentence1": "天晴", "sentence2": "股市下跌", "similarity": 0},
            ]}  # fmt: skip
        return Reply(json.dumps(made, ensure_ascii=False))

    def command(*more):
        arguments = ["synthesize", "v1", "--endpoint", server.url, "--model", "tiny", *more]
        place = ["--min-chars", "1", "--catalog", corpus.location.url]
        return CliRunner().invoke(lode.app, [*arguments, *place], catch_exceptions=False).output

    with LlmServer(behave) as server:
        shown = command("--prompt", "negatives-zh", "--explain")
        assert server.asked == []
        assert json.loads(shown)["model"] == "tiny"
        negatives = command("--prompt", "negatives-zh", "--passages", "100")
        graded = command("--prompt", "sts-zh", "--passages", "5", "--count", "2")
    assert "61 pairs about 61 seeds in 61 requests" in negatives
    assert "10 pairs about 5 seeds in 5 requests" in graded
    rows = fetch(
        corpus,
        "select task, len(negatives), label, count(*) from pairs where source like 'synthetic:%' "
        "group by all order by all",
    )
    assert sorted(rows, key=str) == [
        ("retrieval", 2, None, 61), ("sts", None, 0.0, 5), ("sts", None, 1.0, 5),
    ]  # fmt: skip
