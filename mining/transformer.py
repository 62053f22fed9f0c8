"""Transformer encoders: a published model folder, run without padding where its code allows it.

Shapes: T tokens of all texts of a batch; N texts; L tokens of the longest text; D width.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pickle import UnpicklingError
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
from safetensors import SafetensorError

from mining import attention
from mining.embeddings import EmbeddingSpec
from mining.encoder import Encoder, EncoderSettings, Side, Vectors, check_finite, spec_of
from mining.linear import prepack_linears, supports_prepacked
from mining.model_folder import ModelFolder, first_position, read_model_folder
from mining.pooling import load_heads, pool, unsafe_pickle
from mining.token_batches import TokenizedTexts, padded_batches, token_batches

# Texts tokenized and sorted by length at once: the next ones are tokenized while these are encoded.
CHUNK_TEXTS: Final = 8_192
# Weights that a folder may lack: nothing reads what they compute.
_UNUSED_WEIGHTS: Final = ("pooler.",)


class TransformerEncoder(Encoder):
    """A Hugging Face or sentence-transformers model."""

    def __init__(self, settings: EncoderSettings) -> None:
        self.settings = settings
        self.folder = read_model_folder(
            settings.model, settings.name, settings.pooling, settings.max_tokens
        )
        self.name, self.revision = self.folder.name, self.folder.revision
        self.width = self.folder.width
        self.device = _open_device(settings.device)
        torch.set_num_threads(settings.threads)
        self.packs = attention.takes_packed_texts(self.folder.config)
        self.model = _load_model(self.folder, settings, self.device, packs=self.packs)
        self.heads = load_heads(self.folder.heads).to(self.device)
        self.tokenizer = _load_tokenizer(self.folder, settings.trust_remote_code)

    def spec(self, side: Side) -> EmbeddingSpec:
        """Return what identifies this encoder's vectors of one side."""
        return spec_of(self.settings, side)

    def encode(
        self, texts: Sequence[str], side: Side, progress: Callable[[int], None] | None = None
    ) -> Vectors:
        """Return a vector for each text."""
        prompt = self.prompt(side)
        skipped = 0 if self.folder.includes_prompt else self._count_prompt_tokens(prompt)
        vectors = np.empty((len(texts), self.width), np.float32)
        for start, tokens in self._tokenized_chunks(texts, prompt):
            done = start
            for rows, found in self._encode_batches(tokens, skipped):
                vectors[start + rows] = found
                done += len(rows)
                if progress is not None:
                    progress(done)
        check_finite(vectors, self.name)
        return vectors

    def prompt(self, side: Side) -> str:
        """Return what is put before every text of a side."""
        own = self.settings.instruction(side)
        return self.folder.prompt(side) if own is None else own

    def tokenize(self, texts: Sequence[str], prompt: str = "") -> TokenizedTexts:
        """Turn texts into tokens, special ones included, cut to the model's greatest length."""
        found = self.tokenizer(
            [prompt + text for text in texts],
            truncation=True,
            max_length=self.folder.max_tokens,
            padding=False,
            return_attention_mask=False,
            return_token_type_ids=False,
        )["input_ids"]
        return TokenizedTexts.of(found)

    def _tokenized_chunks(
        self, texts: Sequence[str], prompt: str
    ) -> Iterator[tuple[int, TokenizedTexts]]:
        starts = range(0, len(texts), CHUNK_TEXTS)

        def tokenize(start: int) -> TokenizedTexts:
            return self.tokenize(texts[start : start + CHUNK_TEXTS], prompt)

        with ThreadPoolExecutor(1) as ahead:
            coming = [ahead.submit(tokenize, start) for start in starts[:1]]
            for i, start in enumerate(starts):
                tokens = coming.pop().result()
                coming += [ahead.submit(tokenize, later) for later in starts[i + 1 : i + 2]]
                yield start, tokens

    def _encode_batches(
        self, tokens: TokenizedTexts, skipped: int
    ) -> Iterator[tuple[npt.NDArray[np.int64], Vectors]]:
        """Yield (which texts, their vectors), batch by batch, the longest texts first."""
        budget = self.settings.batch_tokens
        assert budget is not None
        cut = token_batches if self.packs else padded_batches
        for rows in cut(tokens.lengths, budget):
            yield rows, self._encode_batch(tokens.take(rows), skipped)

    @torch.inference_mode()
    def _encode_batch(self, batch: TokenizedTexts, skipped: int) -> Vectors:
        hidden_TD = self._run_packed(batch) if self.packs else self._run_padded(batch)
        lengths_N = torch.from_numpy(batch.lengths)
        pooled_ND = self.heads(pool(hidden_TD, lengths_N, self.folder.pooling, skipped))
        pooled_ND = pooled_ND[:, : self.width]
        if self.folder.normalizes:
            pooled_ND = torch.nn.functional.normalize(pooled_ND, dim=-1)
        pooled_ND[lengths_N == 0] = 0.0  # a bias alone is no meaning
        vectors: Vectors = pooled_ND.cpu().numpy()
        return vectors

    def _run_packed(self, batch: TokenizedTexts) -> torch.Tensor:
        """Return the token vectors of texts laid end to end."""
        if not len(batch.tokens):
            return torch.zeros((0, self.folder.config["hidden_size"]), device=self.device)
        positions = batch.places() + first_position(self.folder.config)
        found = self.model(
            input_ids=self._send(batch.tokens),
            position_ids=self._send(positions),
            texts=attention.pack_texts(batch.lengths, self.device),
            use_cache=False,
        )
        hidden_TD: torch.Tensor = found.last_hidden_state[0]
        return hidden_TD

    def _run_padded(self, batch: TokenizedTexts) -> torch.Tensor:
        """Return the token vectors of texts that the model needs padded, without the padding."""
        padding = self.tokenizer.pad_token_id
        ids, mask = batch.padded(0 if padding is None else padding)
        mask_NL = torch.from_numpy(mask).to(self.device)
        found = self.model(
            input_ids=torch.from_numpy(ids).to(self.device), attention_mask=mask_NL.long()
        )
        hidden_TD: torch.Tensor = found.last_hidden_state[mask_NL]
        return hidden_TD

    def _send(self, row: npt.NDArray[np.int64]) -> torch.Tensor:
        return torch.from_numpy(row).unsqueeze(0).to(self.device, non_blocking=True)

    def _count_prompt_tokens(self, prompt: str) -> int:
        """Count the tokens that a prompt puts before a text, without a special one at its end."""
        if not prompt:
            return 0
        ids = self.tokenizer(prompt)["input_ids"]
        ends_special = bool(ids) and ids[-1] in self.tokenizer.all_special_ids
        return len(ids) - ends_special


def _open_device(name: str) -> torch.device:
    device = torch.device(name)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device {name} was asked for, but torch sees no CUDA device; give cpu")
    return device


def _load_model(
    folder: ModelFolder, settings: EncoderSettings, device: torch.device, *, packs: bool
) -> torch.nn.Module:
    import transformers

    auto: Any = transformers.AutoModel
    if folder.config.get("is_encoder_decoder"):
        auto = transformers.AutoModelForTextEncoding
    with _quiet(transformers):
        try:
            model, loading = auto.from_pretrained(
                folder.transformer_path,
                dtype=getattr(torch, settings.dtype),
                attn_implementation=attention.register() if packs else "sdpa",
                trust_remote_code=settings.trust_remote_code,
                local_files_only=True,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # they are refused below, by name
            )
        except UnpicklingError as error:
            raise unsafe_pickle(folder.transformer_path) from error
        except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
            raise ValueError(f"cannot load the model in {folder.path}: {error}") from error
    _check_weights(folder, loading["missing_keys"], loading["mismatched_keys"])
    model = model.eval().requires_grad_(False).to(device)
    if device.type == "cpu" and settings.dtype == "bfloat16" and supports_prepacked():
        assert settings.batch_tokens is not None
        prepack_linears(model, settings.batch_tokens)
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


def _load_tokenizer(folder: ModelFolder, trust_remote_code: bool) -> Any:
    import transformers
    from tokenizers.normalizers import Lowercase
    from tokenizers.normalizers import Sequence as Normalizers

    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(
            folder.transformer_path, trust_remote_code=trust_remote_code, local_files_only=True
        )
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(f"cannot load the tokenizer in {folder.path}: {error}") from error
    tokenizer.model_max_length = folder.max_tokens
    if folder.lowers:
        own = tokenizer.backend_tokenizer.normalizer
        tokenizer.backend_tokenizer.normalizer = Normalizers([Lowercase(), *([own] if own else [])])
    return tokenizer


class _quiet:
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
