"""The losses of all tasks of an update, from its embeddings: what one backward differentiates."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from trainer.balance import TaskLoss, balance_losses
from trainer.batches import assign_processes
from trainer.collectives import Group
from trainer.contrastive import info_nce
from trainer.cosent import cosent_loss
from trainer.cosines import score_lists, score_pairs
from trainer.distillation import distillation_loss
from trainer.false_negatives import Known
from trainer.matryoshka import Widths, matryoshka
from trainer.settings import LEARNED, ContrastiveTask, CosentTask, TrainSettings
from trainer.temperature import Temperature
from trainer.updates import TaskRows, Update

Scores = npt.NDArray[np.float32]


@dataclass(frozen=True)
class TaskScores:
    """What a contrastive task's forward pass says: cosines [n] and [n, k], NaN where absent."""

    positives: Scores
    negatives: Scores


class TaskLosses(nn.Module):
    """Embeddings of an update in, the number to differentiate out; learned temperatures inside."""

    def __init__(
        self, settings: TrainSettings, processes: int, groups: Mapping[str, Group]
    ) -> None:
        super().__init__()
        self.settings, self.processes, self.groups = settings, processes, groups
        self.spans = assign_processes(settings.plan().tasks, processes)
        self.widths = Widths.equal(settings.widths) if settings.widths else None
        self.temperatures = nn.ModuleDict(
            {
                name: Temperature()
                for name, task in settings.tasks.items()
                if task.temperature == LEARNED
            }
        )
        self.values: dict[str, Tensor] = {}
        self.scores: dict[str, TaskScores] = {}

    def forward(self, embeddings_TD: Tensor, update: Update) -> Tensor:
        """Return the balanced sum of this process's shares; ``values`` and ``scores`` say more."""
        shares = []
        self.values, self.scores = {}, {}
        for name, rows in update.tasks.items():
            task = self.settings.tasks[name]
            measure = self._contrast if isinstance(task, ContrastiveTask) else self._cosent
            loss = measure(name, embeddings_TD, rows)
            self.values[name] = loss.detach()
            shares.append(TaskLoss(loss, task.weight, len(self.spans[name])))
        total = balance_losses(shares, self.processes)
        for name, temperature in self.temperatures.items():
            if name not in update.tasks:
                # Another process's: DeepSpeed adds up only gradients that every process has.
                total = total + 0 * temperature()
        return total

    def temperature(self, name: str) -> float | Tensor:
        """Return a task's temperature, fixed or learned."""
        if name in self.temperatures:
            learned: Tensor = self.temperatures[name]()
            return learned
        return float(self.settings.tasks[name].temperature)

    def _contrast(self, name: str, embeddings_TD: Tensor, rows: TaskRows) -> Tensor:
        task = self.settings.tasks[name]
        assert isinstance(task, ContrastiveTask)
        queries_ND, positives_ND = embeddings_TD[rows.queries], embeddings_TD[rows.positives]
        negatives_NKD = embeddings_TD[rows.negatives] if rows.negatives.shape[1] else None
        self.scores[name] = _score(queries_ND, positives_ND, negatives_NKD, rows)
        loss = info_nce(
            queries_ND,
            positives_ND,
            negatives_NKD,
            task.contrast(self.widths),
            temperature=self.temperature(name),
            known=_send(rows.known, embeddings_TD.device),
            group=self.groups[name],
        )
        if rows.teacher is None or negatives_NKD is None:
            return loss
        sides = [queries_ND, positives_ND, negatives_NKD]
        return loss + task.distillation * self._distill(name, task, sides, rows.teacher)

    def _distill(
        self, name: str, task: ContrastiveTask, sides: list[Tensor], teacher: Scores
    ) -> Tensor:
        teacher_NL = torch.from_numpy(teacher).to(sides[0].device)

        def measure(queries_ND: Tensor, positives_ND: Tensor, negatives_NKD: Tensor) -> Tensor:
            return distillation_loss(
                score_lists(queries_ND, positives_ND, negatives_NKD), teacher_NL,
                temperature=self.temperature(name), teacher_temperature=task.teacher_temperature,
                group=self.groups[name],
            )  # fmt: skip

        return matryoshka(measure, sides, self.widths or Widths.equal([sides[0].shape[1]]))

    def _cosent(self, name: str, embeddings_TD: Tensor, rows: TaskRows) -> Tensor:
        task = self.settings.tasks[name]
        assert isinstance(task, CosentTask)
        assert rows.labels is not None
        labels_N = torch.from_numpy(rows.labels).to(embeddings_TD.device)
        temperature, group = self.temperature(name), self.groups[name]

        def measure(left_ND: Tensor, right_ND: Tensor) -> Tensor:
            cosines_N = score_pairs(left_ND, right_ND)
            return cosent_loss(cosines_N, labels_N, temperature=temperature, group=group)

        sides = [embeddings_TD[rows.queries], embeddings_TD[rows.positives]]
        return matryoshka(measure, sides, self.widths or Widths.equal([embeddings_TD.shape[1]]))


@torch.no_grad()
def _score(
    queries_ND: Tensor, positives_ND: Tensor, negatives_NKD: Tensor | None, rows: TaskRows
) -> TaskScores:
    if negatives_NKD is None:
        negatives_NKD = positives_ND.new_zeros(len(positives_ND), 0, positives_ND.shape[1])
    scores = score_lists(queries_ND, positives_ND, negatives_NKD).float().cpu().numpy()
    own = scores[:, 1:].reshape(rows.absent.shape)
    return TaskScores(scores[:, 0], np.where(rows.absent, np.float32(np.nan), own))


def _send(known: Known | None, device: torch.device) -> Known | None:
    if known is None or device.type == "cpu":
        return known
    tensors = {name: value for name, value in vars(known).items() if value is not None}
    return Known(**{name: value.to(device) for name, value in tensors.items()})
