"""Teacher scores: the cosine of every kept pair, once, and never of two models under one name."""

import os
import signal
from pathlib import Path

import numpy as np
import pytest

from catalog.errors import CatalogError
from catalog.executors import ExecutorSettings
from catalog.lake import Catalog
from catalog.policies import Condition, Policy
from catalog.policy_commit import commit_policy
from catalog.snapshots import create_snapshot, load_snapshot
from mining import score as scoring
from mining.encoder import Encoder, EncoderSettings
from mining.score import cosines, score
from tests.pack_catalog import make_catalog, pair
from tests.processes import start_process
from tests.tiny_catalog import copy_catalog, fetch

ENCODER = EncoderSettings("lexical-16")
ROWS = [pair(1, n, f"怎么做菜{n}", f"做菜{n}要先洗菜") for n in range(30)]
ROWS += [pair(1, 40, None, "没有问题的一段话"), pair(1, 41, "丢掉", "丢掉", source="dropped")]
ONE = ExecutorSettings(1)
ALL = "select pair_id, model, revision, score from scores order by pair_id"


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Catalog:
    made = make_catalog(tmp_path_factory.mktemp("score") / "corpus", ROWS)
    create_snapshot(made, "v1", "keep")
    return made


@pytest.fixture
def corpus(template: Catalog, tmp_path: Path) -> Catalog:
    return copy_catalog(template, tmp_path / "corpus")


def run(catalog: Catalog, settings: EncoderSettings = ENCODER, name: str = "v1", **more: bool):
    return score(catalog, load_snapshot(catalog, name), settings, ONE, **more)


def test_a_score_is_the_cosine_of_query_and_positive(corpus: Catalog) -> None:
    done = run(corpus)
    assert (done.model, done.pairs, done.texts) == ("lexical-16", 30, 61)
    encoder = Encoder.load(ENCODER)
    kept = ROWS[:30]
    queries = encoder.encode([row["query"] for row in kept], "query")
    passages = encoder.encode([row["positive"] for row in kept], "passage")
    expected = (queries.astype(np.float16).astype(float) * passages.astype(np.float16)).sum(axis=1)
    rows = fetch(corpus, ALL)
    assert [pair_id for pair_id, *_ in rows] == [row["pair_id"] for row in kept]
    np.testing.assert_allclose([value for *_, value in rows], expected, atol=2e-3)


def test_cosines_do_not_depend_on_lengths_and_zeros_have_none() -> None:
    queries = np.array([[3, 4], [0, 0], [1, 0]], np.float16)
    passages = np.array([[6, 8], [1, 1], [-2, 0]], np.float16)
    assert cosines(queries, passages).tolist() == [1, 0, -1]


@pytest.mark.slow
def test_only_new_pairs_are_scored(corpus: Catalog) -> None:
    run(corpus)
    before = fetch(corpus, ALL)
    assert run(corpus).pairs == 0
    commit_policy(corpus, Policy("all", ()))
    create_snapshot(corpus, "v2")
    assert run(corpus, name="v2").pairs == 1
    assert set(before) < set(fetch(corpus, ALL))


def test_a_policy_can_ask_for_a_score(corpus: Catalog) -> None:
    run(corpus)
    low = Policy("close", (Condition("score", "quality", require="score('lexical-16') >= 0.5"),))
    commit_policy(corpus, low)
    rejected = fetch(corpus, "select pair_id from verdicts where not kept order by 1")
    assert rejected == fetch(corpus, "select pair_id from scores where score < 0.5 order by 1")
    assert 0 < len(rejected) < 30


@pytest.mark.slow
def test_two_revisions_never_share_a_name(corpus: Catalog) -> None:
    run(corpus, EncoderSettings("lexical-16", name="teacher"))
    before = fetch(corpus, ALL)
    other = EncoderSettings("lexical-32", name="teacher")
    with pytest.raises(CatalogError, match="another --name, or --replace"):
        run(corpus, other)
    assert fetch(corpus, ALL) == before
    assert run(corpus, other, replace=True).pairs == 30
    rows = fetch(corpus, ALL)
    assert len(rows) == 30
    assert {revision for _, _, revision, _ in rows}.isdisjoint({before[0][2]})
    run(corpus)
    assert fetch(corpus, "select model, count(*) from scores group by 1 order by 1") == [
        ("lexical-16", 30),
        ("teacher", 30),
    ]


def score_and_die(url: str) -> None:
    """Score in tasks of 8 pairs, and die after the second."""
    scoring.TASK_PAIRS = 8  # type: ignore[misc]
    catalog = Catalog.open(url)

    def die(stage: str, done: int) -> None:
        if stage == "score" and done >= 16:
            os.kill(os.getpid(), signal.SIGKILL)

    score(catalog, load_snapshot(catalog, "v1"), ENCODER, ONE, die)


@pytest.mark.slow
def test_a_killed_run_shows_nothing_and_goes_on(
    corpus: Catalog, template: Catalog, tmp_path: Path
) -> None:
    process = start_process(score_and_die, [corpus.location.url])
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert fetch(corpus, "select count(*) from scores") == [(0,)]
    run(corpus)
    other = copy_catalog(template, tmp_path / "other")
    run(other)
    assert fetch(corpus, ALL) == fetch(other, ALL)


def test_an_empty_snapshot_has_no_scores(corpus: Catalog) -> None:
    commit_policy(corpus, Policy("none", (Condition("none", "rules", require="false"),)))
    create_snapshot(corpus, "empty")
    assert run(corpus, name="empty").pairs == 0
