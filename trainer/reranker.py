"""The reranker in training: a cross-encoder that reads a query and a passage and gives one logit.

Folders are plain Hugging Face ones, which sentence-transformers' CrossEncoder and FlagEmbedding
load. Shapes: P pairs of a micro-batch; L their tokens with padding.
"""

import contextlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from catalog.draws import draw
from mining.model_files import find_folder
from mining.token_batches import Integers, TokenizedTexts
from mining.token_model import quiet
from trainer.model import align_weights

# Encoders begin with a new head; a model of another purpose is refused.
ENCODERS: Final = ("Model", "ForMaskedLM", "ForPreTraining")
RERANKERS: Final = "ForSequenceClassification"


@dataclass(frozen=True)
class PairTokens:
    """Tokens of pairs, and which of the two texts each is of, where the model is told."""

    ids: TokenizedTexts
    types: TokenizedTexts | None

    @property
    def lengths(self) -> Integers:
        """The tokens of every pair."""
        return self.ids.lengths

    def take(self, rows: Integers) -> "PairTokens":
        """Return chosen pairs in the order given."""
        return PairTokens(self.ids.take(rows), self.types and self.types.take(rows))


class Reranker(nn.Module):
    """Pairs of texts in, logits out; CrossEncoder gives their sigmoid."""

    def __init__(self, base: str, max_tokens: int | None, seed: int, precision: str) -> None:
        super().__init__()
        self.precision = precision
        self.path = find_folder(base)
        config = _read_config(self.path)
        self.tokenizer = _load_tokenizer(self.path)
        self.max_tokens = _greatest_length(self.path, config, self.tokenizer, max_tokens)
        self.tokenizer.model_max_length = self.max_tokens
        self.transformer = _load_transformer(self.path, seed)
        self.losses = nn.Module()  # no temperature is learned
        self.train()

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.parameters()).device

    def tokenize(self, queries: Sequence[str], passages: Sequence[str]) -> PairTokens:
        """Turn pairs into tokens; of one that is too long the longer text is cut."""
        found = self.tokenizer(
            list(queries), list(passages), truncation=True, max_length=self.max_tokens,
            padding=False, return_attention_mask=False,
        )  # fmt: skip
        types = found.get("token_type_ids")
        return PairTokens(TokenizedTexts.of(found["input_ids"]), types and TokenizedTexts.of(types))

    def forward(self, pairs: PairTokens) -> Tensor:
        """Return the logits of pairs in their order, in float32."""
        ids_PL, mask_PL = pairs.ids.padded(self.tokenizer.pad_token_id)
        given = {"input_ids": ids_PL, "attention_mask": mask_PL.astype(np.int64)}
        if pairs.types is not None:
            given["token_type_ids"] = pairs.types.padded(0)[0]
        sent = {name: torch.from_numpy(array).to(self.device) for name, array in given.items()}
        with self._autocast():
            logits_P1: Tensor = self.transformer(**sent).logits
        return logits_P1[:, 0].float()

    @torch.no_grad()
    def score(self, queries: Sequence[str], passages: Sequence[str]) -> np.ndarray:
        """Return the logits of a few pairs, without dropout."""
        was_training = self.training
        self.eval()
        logits_P: np.ndarray = self(self.tokenize(queries, passages)).cpu().numpy()
        self.train(was_training)
        return logits_P

    def save_model(self, folder: Path, card: str) -> None:
        """Write a folder that CrossEncoder loads; the caller syncs it."""
        folder.mkdir(parents=True, exist_ok=True)
        transformer: Any = self.transformer
        transformer.config.architectures = [type(transformer).__name__]
        transformer.config.save_pretrained(folder)
        weights = {name: weight.clone() for name, weight in transformer.state_dict().items()}
        save_file(weights, folder / "model.safetensors", {"format": "pt"})
        self.tokenizer.save_pretrained(folder)
        (folder / "README.md").write_text(card, encoding="utf-8")

    def _autocast(self) -> contextlib.AbstractContextManager[Any]:
        if self.precision == "float32":
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, getattr(torch, self.precision))


def _read_config(path: Path) -> dict[str, Any]:
    """Read config.json; refuse what cannot become a reranker, naming what it is."""
    file = path / "config.json"
    if not file.exists():
        raise ValueError(f"{path} has no config.json: it is no folder of a transformer")
    config: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    for name in config.get("architectures") or ():
        if not name.endswith((*ENCODERS, RERANKERS)):
            raise ValueError(
                f"{path} is a {name}; a reranker begins with an encoder "
                f"({', '.join(f'*{end}' for end in ENCODERS)}) or a reranker (*{RERANKERS})"
            )
        labels = len(config.get("id2label") or (0, 1))
        if name.endswith(RERANKERS) and labels != 1:
            raise ValueError(f"{path} is a {name} of {labels} labels; a reranker gives one score")
    return config


def _load_tokenizer(path: Path) -> Any:
    import transformers

    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(path, local_files_only=True)
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(f"cannot load the tokenizer in {path}: {error}") from error
    if tokenizer.cls_token_id is None or tokenizer.pad_token_id is None:
        raise ValueError(
            f"{path} has no first token that speaks for a pair (its tokenizer names no cls_token): "
            "a reranker begins with an encoder such as BERT or XLM-RoBERTa"
        )
    return tokenizer


def _greatest_length(path: Path, config: dict[str, Any], tokenizer: Any, wanted: int | None) -> int:
    """Return how many tokens of a pair are read; refuse more than there are positions."""
    positions = int(config.get("max_position_embeddings") or 1 << 30)
    if "roberta" in str(config.get("model_type")):
        positions -= int(config.get("pad_token_id", 1)) + 1  # theirs begin behind the padding's
    if wanted is not None and wanted > positions:
        raise ValueError(f"max_tokens is {wanted}; {path} reads at most {positions}")
    return wanted or min(positions, int(tokenizer.model_max_length))


def _load_transformer(path: Path, seed: int) -> nn.Module:
    import transformers

    drawn = int(draw(seed, "reranker head", np.array([0]))[0] >> np.uint64(1))
    with torch.random.fork_rng(devices=[]), quiet(transformers):
        torch.manual_seed(drawn)
        try:
            model = transformers.AutoModelForSequenceClassification.from_pretrained(
                path, num_labels=1, dtype=torch.float32, local_files_only=True,
                use_safetensors=True,
            )  # fmt: skip
        except (OSError, ValueError, KeyError, RuntimeError) as error:
            raise ValueError(f"cannot load the model in {path} as a reranker: {error}") from error
    loaded: nn.Module = model
    align_weights(loaded)
    return loaded
