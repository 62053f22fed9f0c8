"""One update: its gradients are those of a written-out loop, on any number of processes."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from torch import Tensor

from catalog.pack import Pack
from tests.train_process import FILE, Made, make, make_lists, run_group
from trainer import processes
from trainer.batches import Plan
from trainer.engine import NotFiniteError, OptimizerSettings, TorchEngine, average_gradients
from trainer.model import EmbeddingModel
from trainer.negatives import DynamicNegatives
from trainer.settings import LEARNED, ContrastiveTask, CosentTask, TrainSettings
from trainer.step import StepResult, Trained, train_step
from trainer.task_losses import TaskLosses
from trainer.updates import Update, UpdateMaker

Gradients = dict[str, Tensor]
RETRIEVAL = ContrastiveTask(batch=7, temperature=0.1)
STS = CosentTask(batch=5)
LISTS = make_lists()
# What tests.pack_catalog writes: of every list, but for the fourth, whose positive has none.
POSITIVE_SCORE, UNSCORED = 0.75, 4
CASES: dict[str, dict[str, Any]] = {
    "gathered": {"retrieval": RETRIEVAL},
    "cached": {"retrieval": RETRIEVAL, "cached": True, "batch_tokens": 64},
    "distilled": {"retrieval": replace(RETRIEVAL, distillation=0.5, teacher_temperature=0.2)},
    "local": {"retrieval": replace(RETRIEVAL, columns="local")},
    "shared query": {"retrieval": replace(RETRIEVAL, columns="shared_query")},
    "both on both": {"retrieval": RETRIEVAL, "sts": STS},
    "one at a time": {"retrieval": RETRIEVAL, "sts": STS, "tasks_per_update": "one"},
    "one each": {
        "retrieval": replace(RETRIEVAL, processes=1, temperature=LEARNED),
        "sts": replace(STS, processes=1),
    },
    "sts with wide prefixes": {"sts": STS, "widths": (8, 32)},
    "classes": {"classification": ContrastiveTask(batch=5, hard_negatives=False)},
}


class Keeping(TorchEngine):
    """Averages the gradients of an update and keeps them; the weights stay."""

    def step(self, lr: float) -> float:
        average_gradients([w for w in self.module.parameters() if w.requires_grad])
        return 1.0

    def gradients(self) -> Gradients:
        named = self.module.named_parameters()
        return {name: weight.grad for name, weight in named if weight.grad is not None}


@dataclass
class Stage:
    """A model without dropout, its losses, and what makes its updates."""

    trained: Trained
    maker: UpdateMaker
    engine: Keeping
    cached: bool

    def step(self, number: int = 0) -> tuple[StepResult, Gradients]:
        update = self.maker.make(number)
        result = train_step(self.trained, self.engine, update, 1e-3, cached=self.cached)
        return result, self.engine.gradients()


def set_stage(pack: Pack, settings: TrainSettings) -> Stage:
    plan = Plan(pack, settings.plan(), processes.count())
    model = EmbeddingModel(settings.model, 1, settings.precision, settings.batch_tokens).eval()
    losses = TaskLosses(settings, processes.count(), processes.task_groups(plan.spans))
    trained = Trained(model, losses)
    negatives = DynamicNegatives(
        pack, settings.negatives, "a", gather=processes.gather_bytes, score=None
    )
    prompts = {side: model.prompt(side) for side in ("query", "passage")}
    maker = UpdateMaker(settings, pack, plan, model.tokenize, prompts, processes.rank(), negatives)
    return Stage(trained, maker, Keeping(trained, OptimizerSettings()), settings.cached)


def settings_of(made: Made, case: str) -> TrainSettings:
    return made.settings(**{"retrieval": None, "sts": None, **CASES[case]})


def differentiate_cases(made: Made, folder: Path) -> None:
    """Make one update of every case in one of the processes, and save what it gave."""
    with processes.joined("torch"):
        found = {}
        for case in CASES:
            result, gradients = set_stage(made.pack(), settings_of(made, case)).step()
            found[case] = (result.losses, gradients)
        torch.save(found, folder / f"{processes.rank()}.pt")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    made = make(tmp_path_factory.mktemp("step"))
    made.pack()
    return made


@pytest.fixture(scope="module")
def both(made: Made) -> list[dict[str, tuple[dict[str, float], Gradients]]]:
    """Return what each of two processes found."""
    assert run_group(differentiate_cases, [made, made.folder]) == [0, 0]
    return [torch.load(made.folder / f"{rank}.pt") for rank in range(2)]


def assert_same(found: Gradients, expected: Gradients) -> None:
    """Compare gradients. Some are 0 but for rounding: the bound is by the largest of all."""
    assert set(found) == set(expected)
    largest = max(float(gradient.abs().max()) for gradient in expected.values())
    for name, gradient in expected.items():
        torch.testing.assert_close(
            found[name], gradient, rtol=1e-3, atol=2e-6 * largest, msg=lambda m, n=name: f"{n}: {m}"
        )


# The written-out update -------------------------------------------------------------------------


@dataclass
class Row:
    """A retrieval pair with the texts of its negatives, and the process that has it."""

    query: str
    positive: str
    negatives: list[str]
    process: int


def read_rows(pack: Pack, maker: UpdateMaker, name: str, processes: int = 1) -> list[Row]:
    """Read a batch's rows from the pack; negatives as the rules in words say."""
    positions = maker.plan.batch(0)[name]
    pairs = pack.pairs()
    cut = len(positions) // processes
    rows = []
    for place, position in enumerate(positions.tolist()):
        texts = [
            pack.texts(side, np.array([number]))[0]
            for side, number in (
                ("query", pairs.query[position]), ("passage", pairs.passage[position])
            )
        ]  # fmt: skip
        number = int(texts[0].removeprefix("q"))
        mined = [passage for passage, *_ in LISTS.get(FILE + number, [])][10:13]
        names = {1: "the answer", 4: "only a candidate"}
        own = [f"{names[passage // FILE]} {passage % FILE}" for passage in mined]
        own += [f"given {number} {k}" for k in range(number % 3)][: 3 - len(own)]
        rows.append(Row(*texts, own, min(place // cut, processes - 1)))
    return rows


class Padded:
    """The base model as transformers runs it: padded, first token, length 1."""

    def __init__(self, made: Made) -> None:
        self.tokenizer = transformers.AutoTokenizer.from_pretrained(made.model)
        self.transformer = transformers.AutoModel.from_pretrained(
            made.model, attn_implementation="eager"
        ).eval()

    def __call__(self, texts: list[str]) -> Tensor:
        tokens = self.tokenizer(texts, padding=True, truncation=True, return_tensors="pt")
        hidden = self.transformer(**tokens).last_hidden_state
        return torch.nn.functional.normalize(hidden[:, 0], dim=-1)

    def gradients(self) -> Gradients:
        prefix = "model.tokens.transformer."
        named = self.transformer.named_parameters()
        return {prefix + name: weight.grad for name, weight in named if weight.grad is not None}


def contrast_slowly(encode: Padded, rows: list[Row], temperature: float) -> Tensor:
    """Write InfoNCE out: a query against the texts of all rows of its process."""
    total = torch.zeros(())
    texts = ["find: " + row.query for row in rows] + [row.positive for row in rows]
    texts = list(dict.fromkeys([*texts, *(text for row in rows for text in row.negatives)]))
    vectors = dict(zip(texts, encode(texts), strict=True))
    for row in rows:
        columns = [row.positive]
        for other in rows:
            if other.process != row.process:
                continue
            if other is not row and other.positive != row.positive and other.query != row.query:
                columns.append(other.positive)
            columns += [text for text in other.negatives if text != row.positive]
        query = vectors["find: " + row.query]
        scores = torch.stack([(query * vectors[text]).sum() / temperature for text in columns])
        total = total + torch.log(torch.exp(scores).sum()) - scores[0]
    return total / len(rows)


def distill_slowly(encode: Padded, rows: list[Row]) -> Tensor:
    """Write the divergence out: mined negatives have the miner's scores, given ones have none."""
    total = torch.zeros(())
    for row in rows:
        number = int(row.query.removeprefix("q"))
        mined = [score for _, score, _ in LISTS.get(FILE + number, [])][10:13]
        if not mined or number == UNSCORED:
            continue
        vectors = encode(["find: " + row.query, row.positive, *row.negatives[: len(mined)]])
        student = torch.log_softmax(vectors[1:] @ vectors[0] / 0.1, dim=0)
        teacher = torch.log_softmax(
            torch.tensor([POSITIVE_SCORE, *np.float16(mined).tolist()]) / 0.2, dim=0
        )
        total = total + (teacher.exp() * (teacher - student)).sum()
    return total / len(rows)


def cosent_slowly(encode: Padded, pack: Pack, positions: np.ndarray) -> Tensor:
    pairs = pack.pairs()
    labels = pairs.label[positions].tolist()
    left = encode(["find: " + text for text in pack.texts("query", pairs.query[positions])])
    right = encode(pack.texts("passage", pairs.passage[positions]))
    cosines = (left * right).sum(dim=1) / 0.05
    total = torch.ones(())
    for i, label in enumerate(labels):
        for j, other in enumerate(labels):
            if label > other:
                total = total + torch.exp(cosines[j] - cosines[i])
    return torch.log(total)


def test_an_update_is_the_written_out_loop(made: Made) -> None:
    pack = made.pack()
    stage = set_stage(pack, settings_of(made, "both on both"))
    result, gradients = stage.step()
    rows = read_rows(pack, stage.maker, "retrieval")
    encode = Padded(made)
    retrieval = contrast_slowly(encode, rows, 0.1)
    sts = cosent_slowly(encode, pack, stage.maker.plan.batch(0)["sts"])
    (retrieval + 0.8 * sts).backward()
    assert result.losses == pytest.approx(
        {"retrieval": retrieval.item(), "sts": sts.item()}, rel=1e-5
    )
    assert_same(gradients, encode.gradients())
    # The batch is one that a missing rule would show in.
    positives = {row.positive for row in rows}
    assert any(text in positives for row in rows for text in row.negatives)
    assert {len(row.negatives) for row in rows} >= {1, 3}


def test_a_distilled_update_adds_the_written_out_divergence(made: Made) -> None:
    stage = set_stage(made.pack(), settings_of(made, "distilled"))
    result, gradients = stage.step()
    rows = read_rows(made.pack(), stage.maker, "retrieval")
    encode = Padded(made)
    divergence = distill_slowly(encode, rows)
    loss = contrast_slowly(encode, rows, 0.1) + 0.5 * divergence
    loss.backward()
    assert divergence.item() > 0.01
    assert result.losses["retrieval"] == pytest.approx(loss.item(), rel=1e-5)
    assert_same(gradients, encode.gradients())


def test_the_written_out_loop_notices_a_missing_mask(made: Made) -> None:
    stage = set_stage(made.pack(), settings_of(made, "gathered"))
    update = stage.maker.make(0)
    rows = replace(update.tasks["retrieval"], known=None)
    train_step(stage.trained, stage.engine, replace(update, tasks={"retrieval": rows}), 0.0)
    encode = Padded(made)
    contrast_slowly(encode, read_rows(made.pack(), stage.maker, "retrieval"), 0.1).backward()
    with pytest.raises(AssertionError):
        assert_same(stage.engine.gradients(), encode.gradients())


@pytest.mark.parametrize("case", ["gathered", "both on both"])
def test_a_cached_update_is_the_plain_one_with_dropout(made: Made, case: str) -> None:
    found = []
    for cached in (False, True):
        settings = replace(settings_of(made, case), cached=cached, batch_tokens=64)
        stage = set_stage(made.pack(), settings)
        stage.trained.train()
        torch.manual_seed(3)
        found.append(stage.step())
        assert len(stage.trained.model.micro_batches(stage.maker.make(0).texts)) > 3
    assert found[0][0].losses == pytest.approx(found[1][0].losses, rel=1e-6)
    assert_same(found[1][1], found[0][1])


# Processes --------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("case", [case for case in CASES if case != "local"])
def test_two_processes_make_the_update_of_one(made: Made, both: list[Any], case: str) -> None:
    settings = settings_of(made, case)
    for name in ("retrieval", "sts"):
        task = getattr(settings, name)
        if task is not None:
            settings = replace(settings, **{name: replace(task, processes="all")})
    result, gradients = set_stage(made.pack(), settings).step()
    for losses, found in (each[case] for each in both):
        assert losses == pytest.approx(result.losses, rel=1e-5)
        assert_same(found, gradients)


def test_local_negatives_are_those_of_the_own_process(made: Made, both: list[Any]) -> None:
    stage = set_stage(made.pack(), settings_of(made, "local"))
    rows = read_rows(made.pack(), stage.maker, "retrieval", processes=2)
    encode = Padded(made)
    loss = contrast_slowly(encode, rows, 0.1)
    loss.backward()
    assert [sum(row.process == p for row in rows) for p in range(2)] == [3, 4]
    for losses, found in (each["local"] for each in both):
        assert losses["retrieval"] == pytest.approx(loss.item(), rel=1e-5)
        assert_same(found, encode.gradients())


def test_a_wrong_scale_would_be_noticed(made: Made, both: list[Any]) -> None:
    _, gradients = set_stage(made.pack(), settings_of(made, "gathered")).step()
    with pytest.raises(AssertionError):
        assert_same(both[0]["gathered"][1], {n: g / 2 for n, g in gradients.items()})


# What a step says and refuses -------------------------------------------------------------------


def test_a_learned_temperature_gets_a_gradient(both: list[Any]) -> None:
    name = "losses.temperatures.retrieval.logarithm"
    assert all(each["one each"][1][name].abs() > 1e-6 for each in both)


def test_the_scores_of_a_step_are_cosines_of_its_own_negatives(made: Made) -> None:
    stage = set_stage(made.pack(), settings_of(made, "gathered"))
    stage.step()
    rows = read_rows(made.pack(), stage.maker, "retrieval")
    encode, scores = Padded(made), stage.trained.losses.scores["retrieval"]
    for place, row in enumerate(rows):
        texts = ["find: " + row.query, row.positive, *row.negatives]
        query, positive, *own = encode(texts).detach()
        assert scores.positives[place] == pytest.approx(float((query * positive).sum()), abs=1e-5)
        expected = [float((query * passage).sum()) for passage in own]
        expected += [math.nan] * (3 - len(own))
        np.testing.assert_allclose(scores.negatives[place], expected, atol=1e-5)


def poison(stage: Stage) -> Update:
    with torch.no_grad():
        next(stage.trained.model.parameters()).fill_(math.nan)
    return stage.maker.make(0)


@pytest.mark.parametrize("case", ["gathered", "cached", "sts with wide prefixes"])
def test_a_loss_that_is_no_number_stops_before_the_weights_change(made: Made, case: str) -> None:
    stage = set_stage(made.pack(), settings_of(made, case))
    before = {name: w.clone() for name, w in stage.trained.named_parameters()}
    update = poison(stage)
    engine = TorchEngine(stage.trained, OptimizerSettings())
    with pytest.raises(NotFiniteError, match=r"loss of step 0 is nan; the last checkpoint is good"):
        train_step(stage.trained, engine, update, 1.0, cached=stage.cached)
    changed = [n for n, w in stage.trained.named_parameters() if not torch.equal(w, before[n])]
    assert len(changed) == 1  # the poisoned one


def test_a_gradient_that_is_no_number_stops_before_the_weights_change(made: Made) -> None:
    stage = set_stage(made.pack(), settings_of(made, "gathered"))
    engine = TorchEngine(stage.trained, OptimizerSettings())
    weight = stage.trained.model.tokens.transformer.embeddings.word_embeddings.weight
    weight.register_hook(lambda gradient: gradient * math.inf)
    before = weight.detach().clone()
    with pytest.raises(NotFiniteError, match="norm of the gradients is"):
        train_step(stage.trained, engine, stage.maker.make(0), 1.0)
    assert torch.equal(weight, before)


def test_an_update_without_rows_moves_nothing(made: Made) -> None:
    stage = set_stage(made.pack(), settings_of(made, "gathered"))
    negatives = stage.maker.negatives
    assert negatives is not None
    for cached in (False, True):
        update = _without_rows(stage.maker.make)
        result = train_step(stage.trained, stage.engine, update, 1.0, cached=cached)
        assert result.losses == {"retrieval": 0.0}
        assert all(not gradient.any() for gradient in stage.engine.gradients().values())


def _without_rows(make: Callable[[int], Update]) -> Update:
    update = make(0)
    rows = update.tasks["retrieval"]
    known = rows.known
    assert known is not None
    none = {name: value[:0] for name, value in vars(rows).items() if isinstance(value, np.ndarray)}
    nothing = type(known)(**{n: v[:0] for n, v in vars(known).items() if v is not None})
    texts = update.texts.take(np.empty(0, np.int64))
    return Update(0, texts, {"retrieval": replace(rows, **none, known=nothing)})


def test_a_task_has_instructions_of_its_own(made: Made) -> None:
    told = {
        "retrieval": replace(RETRIEVAL, query_instruction="找：", passage_instruction=""),
        "sts": replace(STS, query_instruction="像：", passage_instruction="像："),
    }
    settings = made.settings(**told)
    pack, asked = made.pack(), []
    stage = set_stage(pack, settings)
    tokenize = stage.maker.tokenize
    stage.maker.prompts = {"query": "q: ", "passage": "p: "}
    stage.maker.tokenize = lambda texts: asked.extend(texts) or tokenize(texts)
    update = stage.maker.make(0)
    pairs = pack.pairs()
    for name, rows in update.tasks.items():
        query, passage = ("找：", "") if name == "retrieval" else ("像：", "像：")
        queries = pack.texts("query", pairs.query[rows.positions])
        passages = pack.texts("passage", pairs.passage[rows.positions])
        assert [asked[place] for place in rows.queries] == [query + text for text in queries]
        assert [asked[place] for place in rows.positives] == [passage + text for text in passages]
    assert len(set(asked)) == len(asked)
    assert settings.task_prompts() == {
        "retrieval": "找：", "retrieval-document": "", "sts": "像：", "sts-document": "像：",
    }  # fmt: skip


def test_without_its_own_a_task_has_the_models_instructions(made: Made) -> None:
    asked: list[str] = []
    stage = set_stage(made.pack(), made.settings(retrieval=RETRIEVAL, sts=STS))
    tokenize = stage.maker.tokenize
    stage.maker.prompts = {"query": "q: ", "passage": "p: "}
    stage.maker.tokenize = lambda texts: asked.extend(texts) or tokenize(texts)
    stage.maker.make(0)
    assert {text[:3] for text in asked} == {"q: ", "p: "}
