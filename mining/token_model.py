"""A transformer over the tokens of many texts, without padding where its code allows it.

Shapes: T tokens of all texts of a batch; N texts; L tokens of the longest text; D width.
"""

from collections.abc import Iterable, Sequence
from pickle import UnpicklingError
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
from safetensors import SafetensorError

from mining import attention
from mining.model_folder import ModelFolder, first_position
from mining.pooling import unsafe_pickle
from mining.token_batches import Integers, TokenizedTexts, padded_batches, token_batches

# A tokenizer keeps a hundred bytes and more of every token until its call is over.
TOKENIZED_TEXTS: Final = 512
# Weights that a folder may lack: nothing reads what they compute.
_UNUSED_WEIGHTS: Final = ("pooler.",)


class TokenModel(torch.nn.Module):
    """Tokens of texts in, a vector for each token out; for inference and for training."""

    def __init__(self, folder: ModelFolder, dtype: str, *, trusts_code: bool) -> None:
        super().__init__()
        self.config = folder.config
        self.packs = attention.takes_packed_texts(folder.config)
        self.padding = int(folder.config.get("pad_token_id") or 0)
        self.transformer = _load_transformer(
            folder, dtype, packs=self.packs, trusts_code=trusts_code
        )

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.transformer.parameters()).device

    def cut(self, lengths: Integers, budget: int) -> list[Integers]:
        """Cut texts of these lengths into batches of a token budget, padding included if any."""
        return (token_batches if self.packs else padded_batches)(lengths, budget)

    def forward(self, batch: TokenizedTexts) -> torch.Tensor:
        """Return the token vectors of texts, one text after another, T x D."""
        return self._run_packed(batch) if self.packs else self._run_padded(batch)

    def _run_packed(self, batch: TokenizedTexts) -> torch.Tensor:
        """Lay texts end to end."""
        if not len(batch.tokens):
            return torch.zeros((0, self.config["hidden_size"]), device=self.device)
        positions = batch.places() + first_position(self.config)
        found = self.transformer(
            input_ids=self._send(batch.tokens),
            position_ids=self._send(positions),
            texts=attention.pack_texts(batch.lengths, self.device),
            use_cache=False,
        )
        hidden_TD: torch.Tensor = found.last_hidden_state[0]
        return hidden_TD

    def _run_padded(self, batch: TokenizedTexts) -> torch.Tensor:
        """Pad texts for a model that needs it, and leave the padding's vectors out."""
        ids, mask = batch.padded(self.padding)
        mask_NL = torch.from_numpy(mask).to(self.device)
        found = self.transformer(
            input_ids=torch.from_numpy(ids).to(self.device), attention_mask=mask_NL.long()
        )
        hidden_TD: torch.Tensor = found.last_hidden_state[mask_NL]
        return hidden_TD

    def _send(self, row: npt.NDArray[np.int64]) -> torch.Tensor:
        return torch.from_numpy(row).unsqueeze(0).to(self.device, non_blocking=True)


def load_tokenizer(folder: ModelFolder, *, trusts_code: bool) -> Any:
    """Load a folder's tokenizer; it cuts where the folder says, and lowers if it does."""
    import transformers
    from tokenizers.normalizers import Lowercase
    from tokenizers.normalizers import Sequence as Normalizers

    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(
            folder.transformer_path, trust_remote_code=trusts_code, local_files_only=True
        )
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(f"cannot load the tokenizer in {folder.path}: {error}") from error
    tokenizer.model_max_length = folder.max_tokens
    if folder.lowers:
        own = tokenizer.backend_tokenizer.normalizer
        tokenizer.backend_tokenizer.normalizer = Normalizers([Lowercase(), *([own] if own else [])])
    return tokenizer


def tokenize(tokenizer: Any, texts: Sequence[str], max_tokens: int) -> TokenizedTexts:
    """Turn texts into tokens, special ones included, cut to a greatest length."""
    starts = range(0, len(texts), TOKENIZED_TEXTS)
    pieces = (texts[start : start + TOKENIZED_TEXTS] for start in starts)
    return TokenizedTexts.join([_tokenize_piece(tokenizer, piece, max_tokens) for piece in pieces])


def _tokenize_piece(tokenizer: Any, texts: Sequence[str], max_tokens: int) -> TokenizedTexts:
    found = tokenizer(
        list(texts),
        truncation=True,
        max_length=max_tokens,
        padding=False,
        return_attention_mask=False,
        return_token_type_ids=False,
    )["input_ids"]
    return TokenizedTexts.of(found)


def _load_transformer(
    folder: ModelFolder, dtype: str, *, packs: bool, trusts_code: bool
) -> torch.nn.Module:
    import transformers

    auto: Any = transformers.AutoModel
    if folder.config.get("is_encoder_decoder"):
        auto = transformers.AutoModelForTextEncoding
    with quiet(transformers):
        try:
            model, loading = auto.from_pretrained(
                folder.transformer_path,
                dtype=getattr(torch, dtype),
                attn_implementation=attention.register() if packs else "sdpa",
                trust_remote_code=trusts_code,
                local_files_only=True,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # they are refused below, by name
            )
        except UnpicklingError as error:
            raise unsafe_pickle(folder.transformer_path) from error
        except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
            raise ValueError(f"cannot load the model in {folder.path}: {error}") from error
    _check_weights(folder, loading["missing_keys"], loading["mismatched_keys"])
    loaded: torch.nn.Module = model
    return loaded


def _check_weights(
    folder: ModelFolder, missing: Iterable[str], mismatched: Iterable[tuple[str, Any, Any]]
) -> None:
    """Raise where a weight would stay random: it is not there, or has another shape."""
    lost = sorted(name for name in missing if not name.startswith(_UNUSED_WEIGHTS))
    if lost:
        raise ValueError(
            f"model folder {folder.path} lacks {len(lost)} weights that its config.json "
            f"promises (first: {lost[0]}); the download or the export is not complete"
        )
    for name, found, expected in sorted(mismatched, key=lambda weight: weight[0]):
        raise ValueError(
            f"model folder {folder.path}: weight {name} has the shape {tuple(found)}, but "
            f"config.json makes it {tuple(expected)}; they are of different models"
        )


class quiet:
    """transformers without bars and without reports of weights that are not needed."""

    def __init__(self, transformers: Any) -> None:
        self.logging = transformers.utils.logging

    def __enter__(self) -> None:
        self.level = self.logging.get_verbosity()
        self.logging.set_verbosity_error()
        self.logging.disable_progress_bar()

    def __exit__(self, *_: object) -> None:
        self.logging.set_verbosity(self.level)
        self.logging.enable_progress_bar()
