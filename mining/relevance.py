"""Relevance: a cross-encoder reads query and candidate together and says which ones answer."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class RelevanceSettings:
    """Which cross-encoder (folder or name), and from which score on a candidate counts as relevant.

    Only the first ``ranks`` candidates are read: a cross-encoder is slow, and false negatives are
    at the top. Scores are the model's own, after its activation: 0 to 1 for most rerankers.
    """

    model: str
    min_score: float = 0.5
    ranks: int = 50
    batch_size: int = 64
    max_tokens: int = 512

    def __post_init__(self) -> None:
        for name in ("ranks", "batch_size", "max_tokens"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")


class Relevance:
    """A loaded cross-encoder."""

    def __init__(self, settings: RelevanceSettings) -> None:
        from sentence_transformers import CrossEncoder  # imports for seconds

        self.settings = settings
        self.model: Any = CrossEncoder(settings.model, max_length=settings.max_tokens)
        if self.model.config.num_labels != 1:
            raise ValueError(
                f"{settings.model} gives {self.model.config.num_labels} scores a pair; a reranker "
                "gives one"
            )

    def judge(self, queries: Sequence[str], passages: Sequence[str]) -> npt.NDArray[np.bool_]:
        """Say for each query and the passage beside it whether that answers it."""
        if not queries:
            return np.zeros(0, bool)
        scores = self.model.predict(
            list(zip(queries, passages, strict=True)),
            batch_size=self.settings.batch_size,
            show_progress_bar=False,
        )
        relevant: npt.NDArray[np.bool_] = np.asarray(scores) >= self.settings.min_score
        return relevant
