"""Lode's encoder as mteb sees a model: it encodes, and searches by Lode's own exact search.

This module imports mteb, which takes seconds: import it where something is evaluated.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from mteb.models import ModelMeta
from mteb.types import PromptType

from mining.encoder import Encoder, Side, Vectors
from mining.search import NO_PASSAGE, search
from mining.search_plan import SearchSettings

Batches = Iterable[Mapping[str, Any]]


class EvaluatedEncoder:
    """An encoder behind mteb's protocols for encoders and for searches.

    ``pair_side`` is the side as which both sentences of a pair are encoded.
    """

    def __init__(
        self,
        encoder: Encoder,
        organization: str,
        pair_side: Side = "passage",
        search_settings: SearchSettings | None = None,
    ) -> None:
        self.encoder, self.pair_side = encoder, pair_side
        self.search_settings = search_settings
        self.mteb_model_meta = describe(encoder, organization)
        self._passage_ids: list[str] = []
        self._passages = np.empty((0, encoder.width), np.float32)

    def encode(
        self, inputs: Batches, *, prompt_type: PromptType | None = None, **_: Any
    ) -> Vectors:
        """Encode batches of texts as queries, passages, or sentences of pairs."""
        texts = [text for batch in inputs for text in batch["text"]]
        return self.encoder.encode(texts, self._side(prompt_type))

    def similarity(self, embeddings1: Any, embeddings2: Any) -> torch.Tensor:
        """Return inner products, each with each: what the encoder is made for."""
        return _tensor(embeddings1) @ _tensor(embeddings2).T

    def similarity_pairwise(self, embeddings1: Any, embeddings2: Any) -> torch.Tensor:
        """Return inner products, row by row."""
        return (_tensor(embeddings1) * _tensor(embeddings2)).sum(dim=1)

    def index(self, corpus: Any, **_: Any) -> None:
        """Encode the passages that are searched next."""
        self._passage_ids = list(corpus["id"])
        self._passages = self.encoder.encode(list(corpus["text"]), "passage")

    def search(self, queries: Any, *, top_k: int, **_: Any) -> dict[str, dict[str, float]]:
        """Return the scores of the best passages for each query, by ids."""
        vectors = self.encoder.encode(list(queries["text"]), "query")
        depth = min(top_k, len(self._passage_ids))
        rows, scores = search(vectors, self._passages, depth, self.search_settings)
        return {
            key: self._by_id(own_rows, own_scores)
            for key, own_rows, own_scores in zip(queries["id"], rows, scores, strict=True)
        }

    def _by_id(
        self, rows: npt.NDArray[np.int64], scores: npt.NDArray[np.float32]
    ) -> dict[str, float]:
        pairs = zip(rows.tolist(), scores.tolist(), strict=True)
        return {self._passage_ids[row]: score for row, score in pairs if row != NO_PASSAGE}

    def _side(self, prompt_type: PromptType | None) -> Side:
        if prompt_type is None:
            return self.pair_side
        return "query" if prompt_type == PromptType.query else "passage"


def describe(encoder: Encoder, organization: str) -> ModelMeta:
    """Write what mteb stores of a model: name, revision, width, instructions."""
    query, passage = encoder.spec("query"), encoder.spec("passage")
    return ModelMeta.create_empty(
        {
            "name": f"{organization}/{encoder.name}",
            "revision": encoder.revision,
            "embed_dim": encoder.width,
            "max_tokens": query.max_tokens,
            "use_instructions": bool(query.instruction or passage.instruction),
        }
    )


def _tensor(values: Any) -> torch.Tensor:
    return torch.as_tensor(values, dtype=torch.float32)
