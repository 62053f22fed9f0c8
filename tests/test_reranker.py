"""Rerankers: losses and gradients are their formulas, folders load in CrossEncoder, runs resume."""

import json
import os
import random
import shutil
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from catalog.errors import CatalogError
from catalog.executors import ExecutorSettings
from catalog.pack import NONE
from catalog.snapshots import create_snapshot, load_snapshot
from lode import app
from mining.candidates import FilterSettings
from mining.embed import embed
from mining.encoder import EncoderSettings
from mining.mine import mine
from mining.mine_settings import MineSettings
from mining.relevance import RelevanceSettings
from mining.reranking import rerank
from mining.search import NO_PASSAGE
from tests.mined_catalog import add_run
from tests.model_folders import bert, qwen, save_model
from tests.pack_catalog import make_catalog, pair
from tests.tiny_catalog import fetch
from tests.train_process import (
    CONTEXT,
    FILE,
    RUN,
    Made,
    make,
    make_lists,
    result_of,
    run_group,
    start,
    train_until,
)
from trainer.batches import Plan
from trainer.engine import OptimizerSettings, TorchEngine, average_gradients
from trainer.reranker import Reranker
from trainer.reranker_run import train_reranker
from trainer.reranker_settings import RerankSettings
from trainer.reranker_step import rerank_step
from trainer.reranker_updates import (
    ABSENT,
    RerankUpdate,
    RerankUpdateMaker,
    choose_negatives,
    trainable_pairs,
)
from trainer.resume import load_run
from trainer.run import RunPlace

pytestmark = pytest.mark.slow

KILLS = int(os.environ.get("LODE_KILLS", "1"))


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """A mined catalog, an encoder, and the same encoder without dropout in ``still``."""
    made = make(tmp_path_factory.mktemp("reranker"))
    still = made.folder / "still"
    shutil.copytree(made.model, still)
    config = json.loads((still / "config.json").read_text())
    config |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    (still / "config.json").write_text(json.dumps(config))
    return made


def settings_of(made: Made, **more: Any) -> RerankSettings:
    given: dict[str, Any] = {
        "base": str(made.model), "num_negatives": 3, "candidate_ranks": (2, 12), "batch": 5,
        "batch_tokens": 128, "steps": 5, "checkpoint_every": 2, "log_every": 1,
        "precision": "float32", "optimizer": OptimizerSettings(lr=1e-3),
    }  # fmt: skip
    return RerankSettings(**given | more)


def still_settings(made: Made, **more: Any) -> RerankSettings:
    return settings_of(made, base=str(made.folder / "still"), **more)


def maker_of(
    made: Made, settings: RerankSettings, model: Reranker, process: int = 0, processes: int = 1
) -> RerankUpdateMaker:
    pack = made.pack()
    plan = Plan(pack, settings.plan(), processes, trainable_pairs(pack, settings))
    return RerankUpdateMaker(settings, pack, plan, model.tokenize, process)


def new_model(settings: RerankSettings) -> Reranker:
    return Reranker(settings.base, settings.max_tokens, settings.seed, settings.precision)


class Gradients(TorchEngine):
    """Keeps the gradients of its only step."""

    def step(self, lr: float) -> float:
        average_gradients(self.module.parameters())
        self.found = {name: weight.grad for name, weight in self.module.named_parameters()}
        return 0.0


def gradients_of(made: Made, settings: RerankSettings, process: int = 0, processes: int = 1):
    model = new_model(settings)
    engine = Gradients(model, settings.optimizer)
    update = maker_of(made, settings, model, process, processes).make(0)
    result = rerank_step(model, engine, update, 1e-3, settings)
    return engine.found, result, update, model


# The step ---------------------------------------------------------------------------------------


def slow_loss(settings: RerankSettings, update: RerankUpdate, model: Reranker) -> torch.Tensor:
    """Write the loss out, list by list and passage by passage, each read alone."""
    total, lists, pairs = torch.zeros(()), len(update.places), 0
    for row, places in enumerate(update.places):
        logits = [model(update.pairs.take(np.array([p])))[0] for p in places if p != ABSENT]
        scores = [logit / settings.temperature for logit in logits]
        pairs += len(scores)
        if settings.loss == "listwise":
            mass = sum(torch.exp(score) for score in scores)
            total = total - torch.log(torch.exp(scores[0]) / mass) / lists
        else:
            chances = [1 / (1 + torch.exp(-score)) for score in scores]
            total = total - torch.log(chances[0]) - sum(torch.log(1 - c) for c in chances[1:])
        if update.teacher is None:
            continue
        known = [(s, t) for s, t in zip(scores, update.teacher[row], strict=False) if t > -np.inf]
        mass = sum(torch.exp(score) for score, _ in known)
        wanted = np.exp([t / settings.teacher_temperature for _, t in known])
        for (score, _), share in zip(known, wanted / wanted.sum(), strict=True):
            missed = float(share) * (np.log(share) - torch.log(torch.exp(score) / mass))
            total = total + settings.distillation * missed / lists
    return total / pairs if settings.loss == "binary" else total


@pytest.mark.parametrize(
    "more",
    [
        {"loss": "listwise", "temperature": 0.7},
        {"loss": "binary", "temperature": 1.3},
        {"loss": "listwise", "distillation": 0.5, "teacher_temperature": 0.1},
        {"loss": "listwise", "num_negatives": 9, "candidate_ranks": (25, 31)},  # short lists
        {"loss": "binary", "num_negatives": 9, "candidate_ranks": (25, 31)},
    ],
)
def test_the_gradient_of_a_step_is_that_of_the_written_out_loss(made: Made, more: Any) -> None:
    settings = still_settings(made, batch=8, **more)
    found, result, update, model = gradients_of(made, settings)
    if settings.num_negatives == 9:
        assert (update.places == ABSENT).any()
    assert len(list(update.micro_batches(settings.batch_tokens))) > 1
    model.zero_grad()
    loss = slow_loss(settings, update, model)
    loss.backward()
    own = result.values["loss/rerank"]
    own += settings.distillation * result.values.get("loss/distillation", 0.0)
    assert own == pytest.approx(float(loss.detach()), rel=1e-5)
    for name, weight in model.named_parameters():
        torch.testing.assert_close(found[name], weight.grad, rtol=1e-3, atol=1e-6)


def write_gradients(made: Made, settings: RerankSettings, folder: Path) -> None:
    from trainer import processes

    with processes.joined("torch"):
        found, result, *_ = gradients_of(made, settings, processes.rank(), processes.count())
        if processes.rank() == 0:
            save_file(found, folder / "gradients.safetensors")
            (folder / "values.json").write_text(json.dumps(result.values))


@pytest.mark.parametrize("loss", ["listwise", "binary"])
def test_processes_have_the_gradient_of_one_big_batch(
    made: Made, tmp_path: Path, loss: str
) -> None:
    settings = still_settings(
        made, loss=loss, distillation=0.5, num_negatives=9, candidate_ranks=(25, 31)
    )
    found, result, *_ = gradients_of(made, settings)  # 5 lists: 2 and 3 of them
    assert run_group(write_gradients, [made, settings, tmp_path]) == [0, 0]
    both = load_file(tmp_path / "gradients.safetensors")
    for name, gradient in found.items():
        torch.testing.assert_close(both[name], gradient, rtol=1e-3, atol=1e-6)
    assert json.loads((tmp_path / "values.json").read_text()) == pytest.approx(result.values)


def test_micro_batches_hold_whole_lists_within_the_budget(made: Made) -> None:
    settings = settings_of(made, batch=12)
    update = maker_of(made, settings, new_model(settings)).make(0)
    batches = list(update.micro_batches(400))
    assert sorted(np.concatenate(batches).tolist()) == list(range(12))
    longest = []
    for lists in batches:
        lengths = update.pairs.lengths[update.places[lists][update.places[lists] != ABSENT]]
        assert len(lists) == 1 or len(lengths) * lengths.max() <= 400
        longest.append(lengths.max())
    assert longest == sorted(longest, reverse=True)
    assert len(batches) < 12


# Negatives --------------------------------------------------------------------------------------


def test_negatives_are_drawn_from_the_ranks_anew_at_every_step(made: Made) -> None:
    pack, settings = made.pack(), settings_of(made)
    positions = trainable_pairs(pack, settings)
    lists = make_lists()
    drawn = [choose_negatives(pack, positions, settings, step) for step in (0, 0, 1)]
    assert np.array_equal(drawn[0], drawn[1])
    assert not np.array_equal(drawn[0], drawn[2])
    pairs = pack.pairs()
    for position, rows in zip(positions, drawn[0], strict=True):
        query = int(pack.ids("query")[pairs.query[position]])
        rows = rows[rows != NONE]
        assert len(set(rows.tolist())) == len(rows)
        if query in lists:
            passages = [p for p, _, _ in lists[query]][2:12]
            assert len(rows) == 3
            assert set(pack.ids("passage")[rows].tolist()) <= set(passages)
        else:  # not mined: what came with the data
            (number,) = [query - FILE]
            assert pack.texts("passage", rows) == [f"given {number} {k}" for k in range(len(rows))]
            assert len(rows) == number % 3 > 0
    unmined = {n for n in range(24) if n % 5 == 0 and n % 3 == 0}
    assert len(positions) == 24 - len(unmined)


# Folders ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def whole(made: Made) -> Made:
    """A run 'whole' that nothing disturbed."""
    train_reranker(made.place("whole"), settings_of(made))
    return made


@pytest.mark.filterwarnings("default")
def test_a_checkpoint_gives_the_same_scores_in_crossencoder(whole: Made) -> None:
    from sentence_transformers import CrossEncoder

    folder = whole.folder / "whole" / "checkpoint"
    queries = ["q1", "q2", "a much longer question " * 3, ""]
    passages = ["the answer 1", "an answer " * 20, "the answer " * 20, "q"]
    logits = Reranker(str(folder), None, 1, "float32").score(queries, passages)
    encoder = CrossEncoder(str(folder))
    assert len({round(float(x), 4) for x in logits}) == 4
    theirs = encoder.predict(list(zip(queries, passages, strict=True)), show_progress_bar=False)
    np.testing.assert_allclose(theirs, 1 / (1 + np.exp(-logits)), atol=1e-5)
    plain = encoder.predict(
        list(zip(queries, passages, strict=True)), show_progress_bar=False,
        activation_fn=torch.nn.Identity(),
    )  # fmt: skip
    np.testing.assert_allclose(plain, logits, atol=1e-4)
    names = {path.name for path in folder.iterdir()}
    assert {"model.safetensors", "config.json", "README.md", "tokenizer.json"} <= names
    assert not [name for name in names if name.endswith((".bin", ".pt", ".pkl"))]
    card = (folder / "README.md").read_text()
    assert f"3 of the candidates of `{RUN}` at ranks 2 to 11" in card
    assert "pipeline_tag: text-ranking" in card


def test_a_folder_of_another_kind_is_refused_by_name(tmp_path: Path) -> None:
    def refused(folder: Path) -> str:
        with pytest.raises(ValueError) as error:  # noqa: PT011
            Reranker(str(folder), None, 1, "float32")
        return str(error.value)

    plain = bert(tmp_path / "bert")
    config = json.loads((plain / "config.json").read_text())

    def described(**changes: Any) -> Path:
        (plain / "config.json").write_text(json.dumps(config | changes))
        return plain

    message = refused(described(architectures=["BertForTokenClassification"]))
    assert "is a BertForTokenClassification; a reranker begins with an encoder" in message
    labels = {str(n): str(n) for n in range(3)}
    sorts = described(architectures=["BertForSequenceClassification"], id2label=labels)
    assert "of 3 labels; a reranker gives one score" in refused(sorts)
    assert "names no cls_token" in refused(qwen(tmp_path / "qwen"))
    assert "has no config.json" in refused(tmp_path)
    described()
    with pytest.raises(ValueError, match=r"max_tokens is 100; .* reads at most 64"):
        Reranker(str(plain), 100, 1, "float32")
    (plain / "model.safetensors").unlink()
    assert "cannot load the model" in refused(plain)


def test_a_reranker_is_trained_on_from_its_folder(whole: Made) -> None:
    folder = (whole.folder / "whole" / "checkpoint").resolve()
    again = Reranker(str(folder), None, 99, "float32")
    weights = load_file(folder / "model.safetensors")
    for name, weight in again.transformer.state_dict().items():
        assert torch.equal(weight, weights[name])
    two = (Reranker(str(whole.model), None, seed, "float32") for seed in (1, 1, 2))
    one, same, other = (each.transformer.classifier.weight for each in two)
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


# Runs -------------------------------------------------------------------------------------------


def rerank_until(made: Made, settings: Any, run: str, last_call: int, calls: Any) -> None:
    train_until(made, settings, run, last_call, calls, train_reranker)


@pytest.mark.thorough
def test_kill_9_at_any_call_changes_nothing_but_the_time(whole: Made, tmp_path: Path) -> None:
    copy = whole.copy(tmp_path / "made")
    calls = CONTEXT.Value("q", 0)

    def life(run: str, last_call: int) -> int | None:
        calls.value = 0
        process = start(rerank_until, [copy, settings_of(whole), run, last_call, calls])
        process.join()
        return process.exitcode

    assert life("undisturbed", 0) == 0
    expected, total = result_of(whole, "whole"), calls.value
    assert expected["runs"] == [("rerank", "finished", 5)]
    assert {name for _, name, _ in expected["metrics"]} >= {"loss/rerank", "positive_first/rerank"}
    assert result_of(copy, "undisturbed") == expected
    drawn = random.Random(7)
    for number in range(KILLS):
        run = f"killed-{number}"
        assert life(run, drawn.randint(total // 2, total)) == -signal.SIGKILL
        assert life(run, 0) == 0
        assert result_of(copy, run) == expected, run


def test_a_run_goes_on_from_its_folder_alone_and_as_itself_only(
    whole: Made, tmp_path: Path
) -> None:
    copy = whole.copy(tmp_path / "made")
    shutil.copytree(whole.folder / "whole", copy.folder / "whole", symlinks=True)
    place, found = load_run(copy.folder / "whole", str(copy.folder / "corpus"))
    assert found == settings_of(whole)
    said: list[str] = []
    train_reranker(place, found, said.append)
    assert said[-1] == "going on after step 5 of 5"
    with pytest.raises(CatalogError, match=r"holds another run \(other temperature\)"):
        train_reranker(place, replace(found, temperature=0.5))


def test_a_snapshot_without_candidates_names_the_missing_step(tmp_path: Path) -> None:
    catalog = make_catalog(tmp_path / "corpus", [pair(1, n, f"q{n}", f"p{n}") for n in range(4)])
    create_snapshot(catalog, "v1")
    place = RunPlace(tmp_path / "r", catalog, load_snapshot(catalog, "v1"))
    with pytest.raises(CatalogError, match="has none; first: lode mine v1"):
        train_reranker(place, RerankSettings("nowhere"))
    assert not place.folder.exists()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"loss": "pairwise"}, "loss is 'pairwise'; allowed are listwise, binary"),
        ({"candidate_ranks": (9, 3)}, r"candidate_ranks is \[9, 3\]"),
        ({"candidate_ranks": (9,)}, r"give two, such as \[2, 200\]"),
        ({"num_negatives": 0}, "num_negatives is 0; it must be at least 1"),
        ({"temperature": 0.0}, "temperature is 0.0"),
        ({"distillation": -1.0}, "distillation is -1.0"),
    ],
)
def test_a_wrong_setting_is_refused(more: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RerankSettings("model", **more)


# What is learned, and used back ------------------------------------------------------------------

TOPICS, ANSWERS = "abcd", "wxyz"  # the answer to a question about a topic holds its partner


def question(topic: int, number: int) -> str:
    return f"{TOPICS[topic] * 3} {number}"


def answer(topic: int, number: int) -> str:
    return f"{ANSWERS[topic] * 3} {number}"


def make_grammar(folder: Path) -> Made:
    """Questions and answers whose topics fit; candidates are answers to other topics."""
    numbers = range(10, 60)
    rows = [
        pair(1, n, question(n % 4, number), answer(n % 4, number))
        for n, number in enumerate(numbers)
    ]
    catalog = make_catalog(folder / "corpus", rows)
    lists = {}
    for n in range(len(rows)):
        others = [m for m in range(len(rows)) if (n - m) % 4]
        lists[FILE + n] = [(FILE + m, 0.9 - rank / 64, 0) for rank, m in enumerate(others)]
    add_run(catalog, RUN, create_snapshot(catalog, "v1"), lists)
    bert(folder / "model")
    config = transformers.AutoConfig.from_pretrained(folder / "model")
    config.initializer_range = 0.1
    save_model(transformers.BertModel, config, folder / "model")
    return Made(folder)


def score_answers(model: Reranker) -> np.ndarray:
    """Return the logits of answers to every topic [n, 4], the right one first, of new numbers."""
    asked = [(topic, number) for topic in range(4) for number in range(70, 80)]
    queries = [question(*each) for each in asked for _ in range(4)]
    passages = [answer((topic + k) % 4, number + 7) for topic, number in asked for k in range(4)]
    return model.score(queries, passages).reshape(-1, 4)


def share_first(scores: np.ndarray) -> float:
    return float((scores[:, 0] > scores[:, 1:].max(axis=1)).mean())


@pytest.fixture(scope="module")
def learned(tmp_path_factory: pytest.TempPathFactory) -> Made:
    made = make_grammar(tmp_path_factory.mktemp("grammar"))
    settings = settings_of(
        made, candidate_ranks=(0, 40), batch=16, batch_tokens=4096, steps=100,
        checkpoint_every=500, optimizer=OptimizerSettings(lr=4e-3), log_every=50,
    )  # fmt: skip
    train_reranker(made.place("r"), settings)
    return made


def test_training_puts_answers_above_others_to_new_questions(learned: Made) -> None:
    before = Reranker(str(learned.model), None, 1, "float32")
    after = Reranker(str(learned.folder / "r" / "checkpoint"), None, 1, "float32")
    assert share_first(score_answers(before)) < 0.6
    assert share_first(score_answers(after)) > 0.95


@pytest.mark.filterwarnings("default")
def test_mining_removes_what_a_trained_reranker_calls_relevant(learned: Made) -> None:
    folder = str(learned.folder / "r" / "checkpoint")
    logits = score_answers(Reranker(folder, None, 1, "float32"))
    middle = 1 / (1 + np.exp(-(logits[:, 0].mean() + logits[:, 1:].mean()) / 2))
    relevance = RelevanceSettings(folder, min_score=float(middle), ranks=50)
    encoder, catalog = EncoderSettings("lexical-16"), learned.catalog
    snapshot, executor = load_snapshot(catalog, "v1"), ExecutorSettings(1)
    for side in ("query", "passage"):
        embed(catalog, snapshot, encoder, side, executor)
    settings = MineSettings(30, filters=FilterSettings(relative_margin=None), relevance=relevance)
    mined = mine(catalog, snapshot, settings, encoder, executor)
    found = fetch(
        catalog,
        "select query_id, unnest(passage_ids), unnest(filtered_by) from candidates where run = "
        f"'{mined.run}'",
    )
    same = [bool(flags & 64) for query, passage, flags in found if not (query - passage) % 4
            and not flags & ~64]  # fmt: skip
    other = [bool(flags & 64) for query, passage, flags in found if (query - passage) % 4]
    assert len(same) > 100
    assert len(other) > 100
    assert np.mean(same) > 0.9  # answers to the same topic are false negatives
    assert np.mean(other) < 0.2


def write_collection(folder: Path) -> Path:
    """Answers of all topics share the number that they are found by."""
    folder.mkdir()
    corpus = [
        {"_id": f"{t}-{n}", "title": "", "text": answer(t, n)}
        for t in range(4)
        for n in range(70, 80)
    ]
    asked = [{"_id": str(n), "text": question(n % 4, n)} for n in range(70, 80)]
    judged = [{"query-id": str(n), "corpus-id": f"{n % 4}-{n}", "score": 1} for n in range(70, 80)]
    for name, rows in (("corpus", corpus), ("queries", asked), ("qrels", judged)):
        pq.write_table(pa.Table.from_pylist(rows), folder / f"{name}.parquet")
    return folder


@pytest.mark.filterwarnings("default")
def test_the_second_stage_of_retrieval_is_evaluated_and_kept(learned: Made, tmp_path: Path) -> None:
    folder = write_collection(tmp_path / "digits")
    reranker = str(learned.folder / "r" / "checkpoint")
    words = ["evaluate", "retrieval", str(folder), "-m", "bm25", "--rerank", reranker]
    url = learned.catalog.location.url
    done = CliRunner().invoke(app, [*words, "--rerank-depth", "4", "--record", "--catalog", url])
    assert done.exit_code == 0, done.exception
    header, found, reranked, kept = done.stdout.splitlines()
    assert header.split() == [
        "collection", "ndcg_at_10", "recall_at_10", "recall_at_100", "mrr_at_10",
    ]  # fmt: skip
    assert (found.split()[:2], reranked.split()[:2]) == (
        ["digits", "found"],
        ["digits", "reranked"],
    )
    before, after = float(found.split()[2]), float(reranked.split()[2])
    assert after > before + 0.2
    assert kept == "8 values kept in evaluations"
    rows = fetch(
        learned.catalog,
        "select run, model, round(value, 4) from evaluations where metric = 'ndcg_at_10' and "
        "is_main order by value",
    )
    name = (learned.folder / "r" / "checkpoint").resolve().name
    assert rows == [(None, "bm25", before), ("r", f"bm25+{name}", after)]
    words[1] = str(learned.model)
    refused = CliRunner().invoke(app, words)
    assert "--rerank is for: lode evaluate retrieval" in str(refused.exception)


def test_only_the_first_passages_are_reranked(learned: Made) -> None:
    class Longest:
        def score(self, queries: list[str], passages: list[str]) -> np.ndarray:
            assert len(queries) == len(passages) == 5
            return np.array([len(passage) for passage in passages], np.float32)

    passages = ["a", "bb", "ccc", "dddd"]
    rows = np.array([[0, 2, 1, 3], [1, 0, NO_PASSAGE, NO_PASSAGE]])
    found = rerank(Longest(), ["x", "y"], passages, rows, 3)
    assert found.tolist() == [[2, 1, 0, 3], [1, 0, NO_PASSAGE, NO_PASSAGE]]
    with pytest.raises(ValueError, match="depth of reranking is 0"):
        rerank(Longest(), ["x", "y"], passages, rows, 0)
