"""Hugging Face sequence-classification models: batches of about equal length, bf16 where native."""

import json
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from curation.classifiers.classifier import Scores
from curation.classifiers.reading import read_texts
from curation.texts import Texts

# Tokens a batch, padding included: some megabytes of activations on CPU, some GB on a GPU.
BATCH_TOKENS: Final = {"cpu": 4_096, "cuda": 65_536}
# Texts tokenized and sorted by length at once: bounds the memory that a large column takes.
CHUNK_TEXTS: Final = 8_192
MAX_TOKENS: Final = 512  # of models that state no limit
_NO_LIMIT: Final = 10**6  # a tokenizer without a limit states 10**30


class TransformerClassifier:
    """A model with a classification head; one device, loaded from its folder alone."""

    def __init__(self, folder: Path, reads: str, max_chars: int, device: str | None = None) -> None:
        """Load a model; ValueError says what the folder lacks."""
        import torch

        self.labels = config_labels(folder)
        self.reads, self.max_chars = reads, max_chars
        self.device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        self.dtype = native_dtype(self.device)
        self.tokenizer, self.model = _load(folder, self.dtype, len(self.labels))
        self.model.eval().requires_grad_(False).to(self.device)
        self.activation = _activation(self.model.config, len(self.labels))
        self.max_tokens = _max_tokens(self.tokenizer, self.model.config)

    def scores(self, texts: Texts) -> Scores:
        """Score texts: texts x labels."""
        read = read_texts(texts, self.reads, self.max_chars)
        found: Scores = np.zeros((len(read), len(self.labels)), np.float32)
        present = np.flatnonzero(read.valid)
        for start in range(0, len(present), CHUNK_TEXTS):
            rows = present[start : start + CHUNK_TEXTS]
            found[rows] = self._score_chunk([read.text(int(row)) for row in rows])
        return found

    def _score_chunk(self, texts: list[str]) -> Scores:
        encoded = self.tokenizer(
            texts, truncation=True, max_length=self.max_tokens, return_attention_mask=False
        )
        lengths = np.array([len(ids) for ids in encoded["input_ids"]], np.int64)
        found: Scores = np.empty((len(texts), len(self.labels)), np.float32)
        for rows in length_batches(lengths, BATCH_TOKENS[self.device.split(":")[0]]):
            batch = {key: [values[row] for row in rows] for key, values in encoded.items()}
            found[rows] = self._score_batch(batch)
        return found

    def _score_batch(self, batch: dict[str, Any]) -> Scores:
        import torch

        padded = self.tokenizer.pad(batch, return_tensors="pt").to(self.device)
        with torch.inference_mode():
            logits = self.model(**padded).logits.float()
            if self.activation == "softmax":
                logits = logits.softmax(dim=-1)
            elif self.activation == "sigmoid":
                logits = logits.sigmoid()
        scores: Scores = logits.cpu().numpy()
        if not np.isfinite(scores).all():
            raise ValueError(
                f"the model in {self.model.name_or_path} gives scores that are not finite in "
                f"{self.dtype}; its weights are broken, or it overflows in this type"
            )
        return scores


def length_batches(lengths: npt.NDArray[np.int64], budget: int) -> list[npt.NDArray[np.int64]]:
    """Cut texts into batches of at most `budget` tokens with padding, the longest texts first.

    What does not fit into memory then fails at once, not after hours.
    """
    order = np.argsort(-lengths, kind="stable")
    batches, start = [], 0
    while start < len(order):
        count = max(1, budget // max(1, int(lengths[order[start]])))
        batches.append(order[start : start + count])
        start += count
    return batches


def native_dtype(device: str) -> str:
    """Choose bfloat16 where there are instructions for it; elsewhere it is slower than float32."""
    import torch

    if device.startswith("cuda"):
        return "bfloat16" if torch.cuda.get_device_capability(device)[0] >= 8 else "float16"
    features = torch.cpu.get_capabilities()
    native = features.get("amx_bf16") or features.get("avx512_bf16")
    return "bfloat16" if native else "float32"


def config_labels(folder: Path) -> tuple[str, ...]:
    """Read the labels that a model's config.json names, in order."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    named = {int(number): str(label) for number, label in config.get("id2label", {}).items()}
    size = len(named) or int(config.get("num_labels", 2))
    return tuple(named.get(number, f"LABEL_{number}") for number in range(size))


def _load(folder: Path, dtype: str, labels: int) -> tuple[Any, Any]:
    import torch
    import transformers

    logging: Any = transformers.utils.logging
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
        auto: Any = transformers.AutoModelForSequenceClassification
        model, loading = auto.from_pretrained(
            folder,
            dtype=getattr(torch, dtype),
            local_files_only=True,
            output_loading_info=True,
        )
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise ValueError(f"cannot load the classifier in {folder}: {error}") from error
    finally:
        logging.set_verbosity(verbosity)
        logging.enable_progress_bar()
    if loading["missing_keys"]:
        first = sorted(loading["missing_keys"])[0]
        raise ValueError(
            f"{folder} lacks {len(loading['missing_keys'])} weights of a classifier (first: "
            f"{first}): it would answer at random; give a model that was trained to classify"
        )
    return tokenizer, model


def _activation(config: Any, labels: int) -> str:
    """Say how logits become scores: as Hugging Face's problem types mean them."""
    if getattr(config, "problem_type", None) == "regression":
        return "none"
    is_single = labels == 1 or config.problem_type == "multi_label_classification"
    return "sigmoid" if is_single else "softmax"


def _max_tokens(tokenizer: Any, config: Any) -> int:
    # RoBERTa's positions begin after its padding token's.
    spare = 2 if config.model_type in ("roberta", "xlm-roberta", "camembert") else 0
    positions = getattr(config, "max_position_embeddings", None) or _NO_LIMIT
    limit = min(tokenizer.model_max_length, positions - spare)
    return int(limit) if limit < _NO_LIMIT - spare else MAX_TOKENS
