"""Relevance: a cross-encoder reads query and candidate together and says which ones answer."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from catalog.bounds import check_at_least_one


@dataclass(frozen=True)
class RelevanceSettings:
    """Which cross-encoder (folder or name), and from which score on a candidate counts as relevant.

    Only the first ``ranks`` candidates are read: a cross-encoder is slow, and false negatives are
    at the top. Scores are the model's own, after its activation: 0 to 1 for most rerankers.
    ``max_tokens`` of a pair are read, or as many as the model can.
    """

    model: str
    min_score: float = 0.5
    ranks: int = 50
    batch_size: int = 64
    max_tokens: int = 512

    def __post_init__(self) -> None:
        check_at_least_one(self, "ranks", "batch_size", "max_tokens")


class Relevance:
    """A loaded cross-encoder."""

    def __init__(self, settings: RelevanceSettings) -> None:
        from sentence_transformers import CrossEncoder  # imports for seconds

        self.settings = settings
        self.model: Any = CrossEncoder(settings.model)
        positions = getattr(self.model.config, "max_position_embeddings", None) or 1 << 30
        tokenizer = self.model.tokenizer
        own = min(int(tokenizer.model_max_length), positions)
        tokenizer.model_max_length = min(settings.max_tokens, own)
        if self.model.config.num_labels != 1:
            raise ValueError(
                f"{settings.model} gives {self.model.config.num_labels} scores a pair; a reranker "
                "gives one"
            )

    def judge(self, queries: Sequence[str], passages: Sequence[str]) -> npt.NDArray[np.bool_]:
        """Say for each query and the passage beside it whether that answers it."""
        relevant: npt.NDArray[np.bool_] = self.score(queries, passages) >= self.settings.min_score
        return relevant

    def score(self, queries: Sequence[str], passages: Sequence[str]) -> npt.NDArray[np.float32]:
        """Return the score of each query and the passage beside it, after the activation."""
        if not queries:
            return np.zeros(0, np.float32)
        scores = self.model.predict(
            list(zip(queries, passages, strict=True)),
            batch_size=self.settings.batch_size,
            show_progress_bar=False,
        )
        return np.asarray(scores, np.float32)
