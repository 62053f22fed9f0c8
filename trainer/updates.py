"""Updates: the texts of one step of one process, and where each stands in which task.

A text that several rows share is encoded once. What is made here needs no model, so that a thread
makes the next update while this one is computed.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import torch

from catalog.pack import NONE, Pack
from catalog.pack.layout import Ids, Rows
from mining.token_batches import TokenizedTexts
from trainer.batches import Plan
from trainer.conflicts import identify, passage_identities
from trainer.false_negatives import Known
from trainer.negatives import DynamicNegatives
from trainer.settings import ContrastiveTask, CosentTask, TrainSettings
from trainer.teacher import teacher_scores

Places = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]
Tokenize = Callable[[Sequence[str]], TokenizedTexts]
SIDES: Final = ("query", "passage")
Form = tuple[str, str]
"""How a text is put to the model: its side, and the instruction before it."""


@dataclass(frozen=True)
class TaskRows:
    """The rows of a task: pairs by position in the pack, their texts by place in the update.

    ``negatives`` [n, k] are meaningless where ``absent``. ``is_mined`` says which of them
    dynamic negatives chose: their scores are what replacement is decided from. ``teacher``
    [n, 1 + k] are stored scores of positives and negatives, where they are distilled.
    """

    positions: Ids
    queries: Places
    positives: Places
    negatives: Places
    absent: Mask
    is_mined: Mask
    known: Known | None = None
    labels: npt.NDArray[np.float32] | None = None
    teacher: npt.NDArray[np.float32] | None = None


@dataclass(frozen=True)
class Update:
    """All that one process computes of a step, counted from 0."""

    step: int
    texts: TokenizedTexts
    tasks: Mapping[str, TaskRows]


@dataclass
class UpdateMaker:
    """Makes the updates of a process out of plan, pack and the present hard negatives."""

    settings: TrainSettings
    pack: Pack
    plan: Plan
    tokenize: Tokenize
    prompts: Mapping[str, str]
    process: int = 0
    negatives: DynamicNegatives | None = None

    def make(self, step: int) -> Update:
        """Return the update of a step."""
        asked = _Asked()
        tasks, number = self.settings.tasks_at(step)
        drafts = {
            name: self._draft(name, positions, asked)
            for name, positions in self.plan.rows(number, self.process).items()
            if name in tasks
        }
        places, rows = asked.number()
        texts = [
            text
            for (side, prompt), own in rows.items()
            for text in self.pack.prompted_texts(side, own, prompt)
        ]
        rows_of = {name: draft(places) for name, draft in drafts.items()}
        return Update(step, self.tokenize(texts), rows_of)

    def _draft(
        self, name: str, positions: Ids, asked: "_Asked"
    ) -> Callable[[Mapping[int, Places]], TaskRows]:
        """Ask for the texts of a task's rows; return what makes the rows when they have places."""
        if self.negatives is not None and name == "retrieval":
            positions = positions[~self.negatives.is_excluded(positions)]
        pairs = self.pack.pairs()
        queries, passages = pairs.query[positions], pairs.passage[positions]
        task = self.settings.tasks[name]
        own, is_mined = (
            np.empty((len(positions), 0), np.uint32),
            np.empty((len(positions), 0), bool),
        )
        known = labels = teacher = None
        if isinstance(task, ContrastiveTask):
            own, is_mined = self._hard_negatives(name, task, positions)
            known = self._known(positions, own)
            teacher = teacher_scores(self.pack, positions, own) if task.distillation else None
        else:
            labels = pairs.label[positions]
        absent = own == NONE
        query, passage = (self._form(task, side) for side in SIDES)
        wanted = [
            asked.ask(query, queries),
            asked.ask(passage, passages),
            asked.ask(passage, np.where(absent, passages[:, None], own)),
        ]

        def make(places: Mapping[int, Places]) -> TaskRows:
            at = [places[number] for number in wanted]
            texts = at[0], at[1], at[2]
            return TaskRows(positions, *texts, absent, is_mined, known, labels, teacher)

        return make

    def _form(self, task: ContrastiveTask | CosentTask, side: str) -> Form:
        own = task.query_instruction if side == "query" else task.passage_instruction
        return side, self.prompts[side] if own is None else own

    def _hard_negatives(
        self, name: str, task: ContrastiveTask, positions: Ids
    ) -> tuple[Rows, Mask]:
        """Choose mined negatives, and given ones where there are none."""
        n = self.settings.negatives.num_negatives if task.hard_negatives else 0
        rows = np.full((len(positions), n), NONE, np.uint32)
        if self.negatives is not None and name == "retrieval" and n:
            rows = self.negatives.choose(self.pack.pairs().query[positions]).rows
        is_mined = rows != NONE
        if n:
            rows = fill_given(rows, *self.pack.negatives(positions))
        if task.columns == "shared_query":
            # Each process of the task holds other negatives of the same queries.
            span = self.plan.spans[name]
            mine = np.arange(n) % len(span) == self.process - span.start
            rows, is_mined = np.where(mine, rows, NONE).astype(np.uint32), is_mined & mine
        return rows, is_mined

    def _known(self, positions: Ids, negatives: Rows) -> Known:
        found = identify(self.pack, positions)
        absent = negatives == NONE
        stored = np.where(absent, 0, negatives) if len(self.pack.clusters) else negatives
        identities = passage_identities(self.pack, stored.astype(np.int64))
        identities[absent] = -1
        return Known(
            torch.from_numpy(found.query),
            torch.from_numpy(found.of_passages()),
            torch.from_numpy(identities),
            torch.from_numpy(absent),
        )


class _Asked:
    """Rows of texts that are asked for, numbered so that each text of a form is there once."""

    def __init__(self) -> None:
        self.requests: list[tuple[Form, npt.NDArray[np.integer]]] = []

    def ask(self, form: Form, rows: npt.NDArray[np.integer]) -> int:
        """Note rows, and return the number under which their places will be."""
        self.requests.append((form, rows))
        return len(self.requests) - 1

    def number(self) -> tuple[dict[int, Places], dict[Form, Ids]]:
        """Return the places of each request's texts, and the rows of each form's texts."""
        places: dict[int, Places] = {}
        texts: dict[Form, Ids] = {}
        first = 0
        forms = dict.fromkeys(form for form, _ in self.requests)
        for form in sorted(forms, key=lambda form: SIDES.index(form[0])):
            numbers = [n for n, (of, _) in enumerate(self.requests) if of == form]
            flat = [self.requests[n][1].reshape(-1).astype(np.int64) for n in numbers]
            joined = np.concatenate([np.empty(0, np.int64), *flat])
            texts[form], inverse = np.unique(joined, return_inverse=True)
            at = 0
            for n in numbers:
                rows = self.requests[n][1]
                places[n] = (first + inverse[at : at + rows.size]).reshape(rows.shape)
                at += rows.size
            first += len(texts[form])
        return places, texts


def fill_given(rows: Rows, given: Rows, offsets: Ids) -> Rows:
    """Put given negatives [offsets] where chosen ones [n, k] are missing, in their order."""
    if not len(given):
        return rows
    filled = rows.copy()
    empty = rows == NONE
    place = np.cumsum(empty, axis=1) - 1
    is_there = empty & (place < np.diff(offsets)[:, None])
    filled[is_there] = given[(offsets[:-1, None] + place)[is_there]]
    return filled
