"""Scores of queries and passages by the model as it is now, in the middle of its training."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch

from catalog.pack import NONE, Pack
from catalog.pack.layout import Rows
from trainer import processes
from trainer.cosines import normalize
from trainer.model import EmbeddingModel


@dataclass(frozen=True)
class LiveScores:
    """Cosines by the present weights, with the instructions that retrieval is trained with."""

    model: EmbeddingModel
    pack: Pack
    task_prompts: Mapping[str, str]

    @torch.no_grad()
    def __call__(self, queries: Rows, passages: Rows) -> np.ndarray:
        """Score passages [m, k] of queries [m], rows of the pack; return [m, k], as on process 0.

        Where a passage is NONE, that of the row's first is scored in its place.
        """
        flat = np.where(passages == NONE, passages[:, :1], passages).reshape(-1)
        unique, places = np.unique(flat, return_inverse=True)
        self.model.eval()
        query_MD = self._encode("query", "retrieval", queries)
        passage_UD = self._encode("passage", "retrieval-document", unique)
        self.model.train()
        at = torch.from_numpy(places).to(passage_UD.device)
        lists_MKD = passage_UD[at].view(*passages.shape, -1)
        scores = (lists_MKD @ query_MD[:, :, None])[..., 0].float().cpu().numpy()
        return processes.from_first(scores)

    def _encode(self, side: str, task: str, rows: Rows) -> torch.Tensor:
        prompt = self.task_prompts.get(task, self.model.prompt(side))
        texts = self.pack.prompted_texts(side, rows, prompt)
        return normalize(self.model(self.model.tokenize(texts)))
