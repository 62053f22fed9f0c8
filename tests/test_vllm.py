"""A real vLLM: synthesis, judging and labelling against its server, killed and gone on with.

``make test-vllm`` makes vLLM's environment and runs these; the model is random, so what it writes
means nothing, but every byte of it comes through vLLM's own grammar, batching and HTTP.
"""

import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from catalog.lake import Catalog
from catalog.maintenance import check_catalog
from catalog.policies import Condition, Policy
from catalog.policy_commit import commit_policy
from catalog.snapshots import create_snapshot
from curation.classifiers.cards import read_card
from curation.ingest import find_sources, ingest_files
from curation.synthesis.endpoint import KEY_VARIABLE, EndpointError
from curation.synthesis.journal import Journal
from tests.killed_synthesis import run_synthesis
from tests.llm_server import LlmServer, made_up
from tests.sources import jsonl, write
from tests.tiny_catalog import copy_catalog, fetch
from tests.vllm_server import CONTEXT_TOKENS, KEY, MODEL, VARIABLE, VllmServer

PASSAGES = 60
WAIT_S = 300

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.skipif(
        VARIABLE not in os.environ, reason=f"{VARIABLE} names no Python with vLLM: make test-vllm"
    ),
]


@pytest.fixture(scope="module")
def vllm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[VllmServer]:
    server = VllmServer(tmp_path_factory.mktemp("vllm"))
    try:
        server.wait_until_ready()
        yield server
    finally:
        server.stop()


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory, empty_catalog: Catalog) -> Catalog:
    """A catalog with a snapshot v1 of sixty pairs."""
    folder = tmp_path_factory.mktemp("prepared")
    made = copy_catalog(empty_catalog, folder / "corpus")
    rows = [
        {"query": f"问题{n}", "positive": f"第{n}段文字讲的是事情{n}的由来。" * 4}
        for n in range(PASSAGES)
    ]
    ingest_files(made, find_sources([write(folder, "a.jsonl", jsonl(*rows))]))
    commit_policy(made, Policy("all", (Condition("any", "rules", require="true"),)))
    create_snapshot(made, "v1")
    return made


@pytest.fixture
def corpus(tmp_path: Path, prepared: Catalog, monkeypatch: pytest.MonkeyPatch) -> Catalog:
    monkeypatch.setenv(KEY_VARIABLE, KEY)
    return copy_catalog(prepared, tmp_path / "corpus")


def command(verb: str, corpus: Catalog, vllm: VllmServer, *more: str) -> list[str]:
    return [
        sys.executable, "-m", "lode", verb, "v1", "--endpoint", vllm.url, "--model", MODEL,
        "--catalog", corpus.location.url, "--concurrency", "4", "--max-answers", "1",
        "--max-tokens", "400", *more,
    ]  # fmt: skip


def run(words: list[str]) -> str:
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=WAIT_S)
    assert done.returncode == 0, done.stderr
    return done.stdout


def refusal(words: list[str]) -> str:
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=WAIT_S)
    assert done.returncode == 1, done.stdout
    assert "Traceback" not in done.stderr
    return done.stderr


def kill_and_go_on(corpus: Catalog, vllm: VllmServer, words: list[str]) -> tuple[int, int]:
    """Kill a command in the middle and run it again: return what was finished, and what was left.

    What was left are the requests that the server answered in the second run.
    """
    process = subprocess.Popen(words, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + WAIT_S
    while not (lines := journal_lines(corpus)) or lines < PASSAGES // 3:
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.kill()
    process.wait()
    finished, answered = journal_lines(corpus), vllm.finished()
    run(words)
    return finished, vllm.finished() - answered


def journal_lines(corpus: Catalog) -> int:
    paths = corpus.jobs_folder.glob("*/scratch/journal-*.jsonl")
    return sum(path.read_bytes().count(b"\n") for path in paths)


def test_pairs_of_every_kind_come_through_vllms_grammar(corpus: Catalog, vllm: VllmServer) -> None:
    for prompt in ("queries-zh", "negatives-zh", "sts-zh"):
        words = command("synthesize", corpus, vllm, "--passages", "20", "--min-chars", "1")
        run([*words, "--prompt", prompt, "--count", "2"])
    reasons = Counter(dict(fetch(corpus, "select reason, count(*) from quarantine group by 1")))
    # What a random model writes is mostly nonsense, but it is JSON that follows the schema.
    assert not [reason for reason in reasons if "JSON" in reason or "schema" in reason]
    tasks = dict(
        fetch(corpus, "select task, count(*) from pairs where source like 'synthetic:%' group by 1")
    )
    assert set(tasks) == {"retrieval", "sts"}
    assert fetch(corpus, "select count(*) from synthesis_requests") == [(60,)]
    tokens = "select min(prompt_tokens) > 0, min(completion_tokens) > 0 from synthesis_requests"
    assert fetch(corpus, tokens) == [(True, True)]
    assert check_catalog(corpus) == []


def test_a_killed_synthesis_asks_vllm_for_no_answer_twice(
    corpus: Catalog, vllm: VllmServer
) -> None:
    words = command(
        "synthesize", corpus, vllm, "--passages", str(PASSAGES), "--min-chars", "1",
        "--temperature", "1.2",
    )  # fmt: skip
    finished, asked = kill_and_go_on(corpus, vllm, words)
    assert PASSAGES // 3 <= finished < PASSAGES
    assert asked == PASSAGES - finished
    requests = "select count(*), sum(requests)::int from synthesis_requests"
    assert fetch(corpus, requests) == [(PASSAGES, PASSAGES)]
    answered = vllm.finished()
    assert f"{PASSAGES} seeds in {PASSAGES} requests" in run(words)
    assert vllm.finished() == answered


def test_a_killed_judge_asks_vllm_for_no_grade_twice(corpus: Catalog, vllm: VllmServer) -> None:
    words = command("judge", corpus, vllm, "--prompt", "answers-zh")
    finished, asked = kill_and_go_on(corpus, vllm, words)
    assert PASSAGES // 3 <= finished < PASSAGES
    assert asked == PASSAGES - finished
    judged = "select count(*), count(choice), count(reason) from judgments"
    assert fetch(corpus, judged) == [(PASSAGES, PASSAGES, 0)]
    scores = "select count(*), bool_and(score between 0 and 1) from scores"
    assert fetch(corpus, scores) == [(PASSAGES, True)]
    answered = vllm.finished()
    assert "nothing to ask" in run(words)
    assert vllm.finished() == answered


def test_labels_of_vllm_teach_a_classifier(
    corpus: Catalog, vllm: VllmServer, tmp_path: Path
) -> None:
    words = command("judge", corpus, vllm, "--prompt", "advertisement-zh", "--temperature", "1.5")
    # Also those with control characters in the reason, which vLLM lets through: 7 of 60.
    assert "0 unusable" in run(words)
    table, folder = str(tmp_path / "labels.parquet"), tmp_path / "ad"
    sql = (
        "select positive as text, choice as label from judgments join pairs using (pair_id) "
        "where name = 'advertisement-zh' and choice is not null order by pair_id"
    )
    lode = [sys.executable, "-m", "lode"]
    run([*lode, "sql", sql, "-f", "parquet", "-o", table, "--catalog", corpus.location.url])
    run([*lode, "classifier", "train", table, str(folder), "--positive", "advertisement"])
    assert read_card(folder).label == "advertisement"


def test_what_vllm_refuses_is_said_in_its_own_words(
    corpus: Catalog, vllm: VllmServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = command("judge", corpus, vllm)
    assert "The model `other` does not exist" in refusal([*words, "--model", "other"])
    assert "max_tokens" in refusal([*words, "--max-tokens", str(CONTEXT_TOKENS + 1)])
    monkeypatch.setenv(KEY_VARIABLE, "another-key")
    said = refusal(words)
    assert f"set {KEY_VARIABLE}" in said
    assert "another-key" not in said
    assert fetch(corpus, "select count(*) from judgments") == [(0,)]


def test_a_vllm_that_dies_costs_nothing_that_it_answered(corpus: Catalog, vllm: VllmServer) -> None:
    """The last one: it kills the server, and ends the work at another with the same model."""

    def stop_midway(stage: str, done: int) -> None:
        if done >= PASSAGES // 3:
            vllm.stop()

    url = corpus.location.url
    with pytest.raises(EndpointError, match="gave no answer to"):
        run_synthesis(url, vllm.url, PASSAGES, progress=stop_midway, timeout_s=WAIT_S)
    (path,) = corpus.jobs_folder.glob("synthesize-*/scratch/journal-*.jsonl")
    with Journal(path) as journal:
        finished = len(journal.finished)
    assert PASSAGES // 3 <= finished < PASSAGES
    with LlmServer(made_up) as other:
        assert run_synthesis(url, other.url, PASSAGES).seeds == PASSAGES
        assert len(other.asked) == PASSAGES - finished
