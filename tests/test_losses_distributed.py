"""N processes are one big batch: the mean of their losses and gradients is that of all rows.

Three processes run every case once, in groups of two and of three. A case is a function of a
``Process`` that holds a cut of the rows; the same rows uncut on one process are what it must equal.
"""

import multiprocessing
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from trainer.balance import TaskLoss, balance_losses, cbb_loss
from trainer.collectives import Group, gather_counts, share_of_mean
from trainer.contrastive import Contrast, info_nce
from trainer.cosent import cosent_loss
from trainer.cosines import score_lists, score_pairs
from trainer.distillation import distillation_loss
from trainer.false_negatives import Known
from trainer.gradcache import cached_step
from trainer.listwise import listwise_loss, pointwise_loss
from trainer.matryoshka import Widths
from trainer.temperature import Temperature

REPOSITORY = Path(__file__).parents[1]
PROCESSES = 3
ROWS = 6
EVEN = (2, 2, 2)
UNEVEN = (1, 2, 3)
PARTLY_NONE = (4, 0, 2)
TWO = (4, 2)
PLAIN = Contrast()
GATHERED = Contrast("gathered")
SHARED = Contrast("shared_query")
WIDTHS = Widths((3, 5), (0.5, 1.0))
EVERYTHING = {"margin": 0.3, "hardness": 2.0, "focus": 0.5, "widths": WIDTHS}


def draw(*shape: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


class Model:
    """An encoder of one layer and a learned temperature: all that has a gradient."""

    def __init__(self) -> None:
        self.weight = (draw(4, 5, seed=9) / 2).requires_grad_()
        self.temperature = Temperature(0.2).double()
        self.parameters = [self.weight, self.temperature.logarithm]

    def encode(self, rows: Tensor) -> Tensor:
        if len(rows) == 0:  # a process without rows need not ask its encoder
            return rows.new_zeros(*rows.shape[:-1], 5)
        return torch.tanh(rows @ self.weight)


@dataclass(frozen=True)
class Rows:
    """Inputs of some rows, what is known of them, and labels and scores of a teacher."""

    queries: Tensor
    positives: Tensor
    negatives: Tensor
    query_ids: Tensor
    positive_ids: Tensor
    negative_ids: Tensor
    labels: Tensor
    teacher: Tensor

    @classmethod
    def make(cls) -> "Rows":
        # Rows 0 and 5 share a positive, 1 and 4 a query, and a negative of 3 is the positive of 2.
        negative_ids = torch.arange(100, 100 + ROWS * 3).view(ROWS, 3, 1)
        negative_ids[3, 1] = 12
        return cls(
            draw(ROWS, 4, seed=1),
            draw(ROWS, 4, seed=2),
            draw(ROWS, 3, 4, seed=3),
            torch.tensor([0, 1, 2, 3, 1, 5]),
            torch.tensor([[10], [11], [12], [13], [14], [10]]),
            negative_ids,
            torch.tensor([0.0, 2.0, 1.0, 1.0, 3.0, 0.0], dtype=torch.float64),
            draw(ROWS, 4, seed=4),
        )

    def cut(self, sizes: Sequence[int], rank: int) -> "Rows":
        start = sum(sizes[:rank])
        return Rows(*(each[start : start + sizes[rank]] for each in vars(self).values()))

    def known(self) -> Known:
        return Known(
            self.query_ids,
            self.positive_ids,
            self.negative_ids,
            teacher_positives_N=self.teacher[:, 0],
            teacher_negatives_NK=self.teacher[:, 1 : 1 + self.negatives.shape[1]],
        )


@dataclass(frozen=True)
class Process:
    """A process of a group that works on a task: its place, its rows, and the model."""

    group: Group
    rank: int
    rows: Rows
    model: Model


def contrast(process: Process, settings: Contrast, negatives: bool = True) -> Tensor:
    rows, encode = process.rows, process.model.encode
    return info_nce(
        encode(rows.queries),
        encode(rows.positives),
        encode(rows.negatives) if negatives else None,
        settings,
        temperature=process.model.temperature(),
        known=rows.known() if negatives else None,
        group=process.group,
    )


def contrast_cached(process: Process, settings: Contrast) -> Tensor:
    """Differentiate by GradCache, in chunks of one row, and return a loss that does it no more."""
    rows, model = process.rows, process.model

    def loss(queries: Tensor, positives: Tensor, negatives: Tensor) -> Tensor:
        return info_nce(
            queries, positives, negatives.unflatten(0, (len(queries), 3)), settings,
            temperature=model.temperature(), known=rows.known(), group=process.group,
        )  # fmt: skip

    sides = [rows.queries, rows.positives, rows.negatives.flatten(0, 1)]
    chunks = [side.split(1) if len(side) else [side] for side in sides]
    value = cached_step(model.encode, chunks, loss)
    gradients = [each.grad for each in model.parameters]
    linear = sum(
        ((p * g).sum() for p, g in zip(model.parameters, gradients, strict=True) if g is not None),
        start=0 * value,
    )
    return linear + (value - linear).detach()


def measure_sts(process: Process) -> Tensor:
    rows, encode = process.rows, process.model.encode
    cosines = score_pairs(encode(rows.queries), encode(rows.positives))
    return cosent_loss(cosines, rows.labels, temperature=0.3, group=process.group)


def list_scores(process: Process) -> Tensor:
    rows, encode = process.rows, process.model.encode
    return score_lists(encode(rows.queries), encode(rows.positives), encode(rows.negatives))


def distil(process: Process) -> Tensor:
    temperature = process.model.temperature()
    return distillation_loss(
        list_scores(process), process.rows.teacher, temperature=temperature, group=process.group
    )


Task = Callable[[Process], Tensor]


@dataclass(frozen=True)
class Case:
    """A task, and how its rows are spread over the first processes: rows, or negatives of all."""

    task: Task
    sizes: tuple[int, ...]
    negatives: bool = False

    def loss(self, process: Process) -> Tensor:
        """Return what one process differentiates; those that have no part in the task, zero."""
        if process.rank >= len(self.sizes):
            return 0 * process.model.weight.sum()
        own = replace(process, rows=self.cut(process.rows, process.rank))
        return balance_losses([TaskLoss(self.task(own), 1.0, len(self.sizes))], PROCESSES)

    def cut(self, rows: Rows, rank: int) -> Rows:
        if not self.negatives:
            return rows.cut(self.sizes, rank)
        start = sum(self.sizes[:rank])
        part = slice(start, start + self.sizes[rank])
        scores = torch.cat([rows.teacher[:, :1], rows.teacher[:, 1:][:, part]], dim=1)
        return replace(
            rows,
            negatives=rows.negatives[:, part],
            negative_ids=rows.negative_ids[:, part],
            teacher=scores,
        )

    def whole(self, model: Model) -> Tensor:
        return self.task(Process(None, 0, Rows.make(), model))


def task(function: Callable[..., Tensor], *arguments: object) -> Task:
    return lambda process: function(process, *arguments)


CASES = {
    "gathered, even": Case(task(contrast, GATHERED), EVEN),
    "gathered, uneven": Case(task(contrast, GATHERED), UNEVEN),
    "gathered, one without rows": Case(task(contrast, GATHERED), PARTLY_NONE),
    "gathered, two processes": Case(task(contrast, GATHERED), TWO),
    "gathered, everything on": Case(task(contrast, Contrast("gathered", **EVERYTHING)), UNEVEN),
    "gathered, no negatives": Case(task(contrast, GATHERED, False), UNEVEN),
    "gathered, cached": Case(task(contrast_cached, GATHERED), PARTLY_NONE),
    "shared query": Case(task(contrast, SHARED), (1, 1, 1), negatives=True),
    "shared query, uneven": Case(task(contrast, SHARED), (2, 0, 1), negatives=True),
    "shared query, two processes": Case(task(contrast, SHARED), (2, 1), negatives=True),
    "shared query, everything on": Case(
        task(contrast, Contrast("shared_query", **EVERYTHING)), (1, 2), negatives=True
    ),
    "shared query, own only": Case(
        task(contrast, Contrast("shared_query", in_batch=False)), (1, 2), negatives=True
    ),
    "local, own only": Case(task(contrast, Contrast(in_batch=False)), PARTLY_NONE),
    "cosent, even": Case(measure_sts, EVEN),
    "cosent, uneven": Case(measure_sts, UNEVEN),
    "cosent, one without rows": Case(measure_sts, PARTLY_NONE),
    "cosent, two processes": Case(measure_sts, TWO),
    "distillation": Case(distil, PARTLY_NONE),
    "listwise": Case(lambda process: listwise_loss(list_scores(process), group=process.group), TWO),
    "pointwise": Case(
        lambda process: pointwise_loss(list_scores(process), group=process.group), UNEVEN
    ),
}


@dataclass(frozen=True)
class Spread:
    """CBB: which processes work on retrieval and which on STS, and the rows of each."""

    retrieval: Case
    retrieval_processes: tuple[int, ...]
    sts: Case
    sts_processes: tuple[int, ...]

    def loss(self, processes: "Processes", all_processes: int = PROCESSES) -> Tensor:
        retrieval = self.part(processes, self.retrieval, self.retrieval_processes)
        sts = self.part(processes, self.sts, self.sts_processes)
        return cbb_loss(
            retrieval,
            sts,
            retrieval_processes=len(self.retrieval_processes),
            sts_processes=len(self.sts_processes),
            all_processes=all_processes,
        )

    def part(self, processes: "Processes", case: Case, ranks: tuple[int, ...]) -> Tensor | None:
        if processes.rank not in ranks:
            return None
        place = ranks.index(processes.rank)
        rows = case.cut(Rows.make(), place)
        return case.task(Process(processes.groups[ranks], place, rows, processes.model))


SPREADS = {
    "two retrieval, one sts": Spread(CASES["gathered, two processes"], (0, 1), Case(measure_sts, (6,)), (2,)),  # noqa: E501
    "two shared, one sts": Spread(CASES["shared query, two processes"], (0, 1), Case(measure_sts, (6,)), (2,)),  # noqa: E501
    "one retrieval, two sts": Spread(Case(task(contrast, PLAIN), (6,)), (0,), Case(measure_sts, TWO), (1, 2)),  # noqa: E501
    "all of both": Spread(CASES["gathered, uneven"], (0, 1, 2), Case(measure_sts, PARTLY_NONE), (0, 1, 2)),  # noqa: E501
    "retrieval on all, sts on two": Spread(CASES["gathered, one without rows"], (0, 1, 2), Case(measure_sts, TWO), (1, 2)),  # noqa: E501
}  # fmt: skip
GROUPS = ((0,), (1,), (2,), (0, 1), (1, 2), (0, 1, 2))


@dataclass(frozen=True)
class Processes:
    """This process of all, the groups it is in, and the model."""

    rank: int
    groups: dict[tuple[int, ...], Group]
    model: Model


def run_cases(rank: int, folder: Path) -> None:
    """Run every case in one of the processes and save its losses and gradients."""
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo",
        init_method=f"file://{folder}/meeting",
        rank=rank,
        world_size=PROCESSES,
        timeout=timedelta(seconds=60),
    )
    groups: dict[tuple[int, ...], Group] = {
        ranks: dist.new_group(list(ranks), timeout=timedelta(seconds=60)) for ranks in GROUPS
    }
    found = {}
    for name, case in CASES.items():
        model = Model()
        group = groups[tuple(range(len(case.sizes)))]
        found[name] = differentiate(case.loss(Process(group, rank, Rows.make(), model)), model)
    for name, spread in SPREADS.items():
        processes = Processes(rank, groups, Model())
        found[name] = differentiate(spread.loss(processes), processes.model)
    processes = Processes(rank, groups, Model())
    found["unscaled"] = differentiate(unscaled_loss(processes), processes.model)
    found["local"] = differentiate(local_loss(processes), processes.model)
    found["refusal"] = [refuse_unequal_queries(processes)]
    torch.save(found, folder / f"{rank}.pt")
    dist.destroy_process_group()


def fork_processes(folder: Path) -> int:
    """Run every case in processes that share one import of torch; return how many failed."""
    fork = multiprocessing.get_context("fork")
    processes = [fork.Process(target=run_cases, args=(rank, folder)) for rank in range(PROCESSES)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    return sum(process.exitcode != 0 for process in processes)


def unscaled_loss(processes: Processes) -> Tensor:
    """Return the loss of two retrieval processes and one STS process, without any scale."""
    spread = SPREADS["two retrieval, one sts"]
    retrieval = spread.part(processes, spread.retrieval, spread.retrieval_processes)
    sts = spread.part(processes, spread.sts, spread.sts_processes)
    return retrieval if retrieval is not None else 0.8 * sts


def local_loss(processes: Processes) -> Tensor:
    rows = Rows.make().cut(UNEVEN, processes.rank)
    everyone = processes.groups[(0, 1, 2)]
    return contrast(Process(everyone, processes.rank, rows, processes.model), PLAIN)


def refuse_unequal_queries(processes: Processes) -> str:
    rows = Rows.make().cut(UNEVEN, processes.rank)
    everyone = processes.groups[(0, 1, 2)]
    with pytest.raises(ValueError, match="the same queries and positives") as refusal:
        contrast(Process(everyone, processes.rank, rows, processes.model), SHARED)
    return str(refusal.value)


def differentiate(loss: Tensor, model: Model) -> list[Tensor]:
    for parameter in model.parameters:
        parameter.grad = None
    if loss.requires_grad:
        loss.backward()
    gradients = [
        torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        for parameter in model.parameters
    ]
    return [loss.detach(), *gradients]


Results = list[dict[str, list[Tensor]]]


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Results:
    """Return what each process found, by case: loss and gradients."""
    folder = tmp_path_factory.mktemp("processes")
    command = [sys.executable, "-W", "error", "-m", "tests.test_losses_distributed", str(folder)]
    run = subprocess.run(
        command, cwd=REPOSITORY, timeout=300, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    return [torch.load(folder / f"{rank}.pt") for rank in range(PROCESSES)]


def average(results: Results, name: str) -> list[Tensor]:
    """Average over all processes, as data-parallel training does with gradients."""
    return [torch.stack(each).mean(dim=0) for each in zip(*(r[name] for r in results), strict=True)]


def assert_equal(left: list[Tensor], right: list[Tensor]) -> None:
    for one, other in zip(left, right, strict=True):
        np.testing.assert_allclose(one.numpy(), other.numpy(), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", CASES)
def test_processes_are_one_big_batch(results: Results, name: str) -> None:
    model = Model()
    assert_equal(average(results, name), differentiate(CASES[name].whole(model), model))


@pytest.mark.parametrize("name", SPREADS)
def test_balanced_tasks_are_one_big_batch(results: Results, name: str) -> None:
    model, spread = Model(), SPREADS[name]
    whole = spread.retrieval.whole(model) + 0.8 * spread.sts.whole(model)
    assert_equal(average(results, name), differentiate(whole, model))


def test_local_negatives_are_the_mean_over_rows_that_see_their_own_process(
    results: Results,
) -> None:
    model = Model()
    parts = [
        contrast(Process(None, 0, Rows.make().cut(UNEVEN, rank), model), PLAIN) * rows
        for rank, rows in enumerate(UNEVEN)
    ]
    assert_equal(average(results, "local"), differentiate(sum(parts) / ROWS, model))


def test_a_missing_scale_would_be_noticed(results: Results) -> None:
    # Two of three processes retrieve: without the scale their task counts 2/3 and the other 1/3.
    model, spread = Model(), SPREADS["two retrieval, one sts"]
    retrieval, sts = spread.retrieval.whole(model), 0.8 * spread.sts.whole(model)
    found = average(results, "unscaled")
    assert_equal(found, differentiate(2 / 3 * retrieval + 1 / 3 * sts, model))
    right = differentiate(spread.retrieval.whole(model) + 0.8 * spread.sts.whole(model), model)
    assert (found[1] - right[1]).norm() > 0.3 * right[1].norm()


@pytest.mark.parametrize("factor", [PROCESSES, 1 / PROCESSES])
@pytest.mark.parametrize("name", CASES)
def test_a_world_size_factor_would_be_noticed(results: Results, name: str, factor: float) -> None:
    model = Model()
    whole = differentiate(CASES[name].whole(model), model)
    with pytest.raises(AssertionError, match="Not equal to tolerance"):
        assert_equal([each * factor for each in average(results, name)], whole)


def test_shared_queries_of_unequal_number_are_refused_on_every_process(results: Results) -> None:
    for found in results:
        assert found["refusal"] == [
            "the processes hold [1, 2, 3] queries, but negatives is shared_query: "
            "give every process of the group the same queries and positives"
        ]


def test_a_process_alone_is_a_group_of_one() -> None:
    assert gather_counts([4, 2], torch.device("cpu"), None) == [[4, 2]]
    assert share_of_mean(torch.tensor([1.0, 3.0]), 2, None) == 2
    assert share_of_mean(torch.zeros(0), 0, None) == 0


if __name__ == "__main__":
    sys.exit(fork_processes(Path(sys.argv[1])))
