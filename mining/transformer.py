"""Transformer encoders: texts become the vectors of a published model.

Shapes: T tokens of all texts of a batch; N texts; D width.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final

import numpy as np
import numpy.typing as npt
import torch

from mining.embeddings import EmbeddingSpec
from mining.encoder import Encoder, EncoderSettings, Side, Vectors, check_finite, spec_of
from mining.linear import prepack_linears, supports_prepacked
from mining.model_folder import read_model_folder
from mining.pooling import load_heads, pool
from mining.token_batches import TokenizedTexts
from mining.token_model import TokenModel, load_tokenizer, tokenize

# Texts tokenized and sorted by length at once: the next ones are tokenized while these are encoded.
CHUNK_TEXTS: Final = 8_192


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
        self.model = TokenModel(self.folder, settings.dtype, trusts_code=settings.trust_remote_code)
        self.model.eval().requires_grad_(False).to(self.device)
        if self.device.type == "cpu" and settings.dtype == "bfloat16" and supports_prepacked():
            assert settings.batch_tokens is not None
            prepack_linears(self.model.transformer, settings.batch_tokens)
        self.heads = load_heads(self.folder.heads).to(self.device)
        self.tokenizer = load_tokenizer(self.folder, trusts_code=settings.trust_remote_code)

    def spec(self, side: Side) -> EmbeddingSpec:
        """Return what identifies this encoder's vectors of one side."""
        return spec_of(self.settings, side)

    def encode(
        self,
        texts: Sequence[str],
        side: Side,
        progress: Callable[[int], None] | None = None,
        instruction: str | None = None,
    ) -> Vectors:
        """Return a vector for each text."""
        prompt = self.prompt(side) if instruction is None else instruction
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
        prompted = [prompt + text for text in texts]
        return tokenize(self.tokenizer, prompted, self.folder.max_tokens)

    def _tokenized_chunks(
        self, texts: Sequence[str], prompt: str
    ) -> Iterator[tuple[int, TokenizedTexts]]:
        starts = range(0, len(texts), CHUNK_TEXTS)

        def tokenize_chunk(start: int) -> TokenizedTexts:
            return self.tokenize(texts[start : start + CHUNK_TEXTS], prompt)

        with ThreadPoolExecutor(1) as ahead:
            coming = [ahead.submit(tokenize_chunk, start) for start in starts[:1]]
            for i, start in enumerate(starts):
                tokens = coming.pop().result()
                coming += [ahead.submit(tokenize_chunk, later) for later in starts[i + 1 : i + 2]]
                yield start, tokens

    def _encode_batches(
        self, tokens: TokenizedTexts, skipped: int
    ) -> Iterator[tuple[npt.NDArray[np.int64], Vectors]]:
        """Yield (which texts, their vectors), batch by batch, the longest texts first."""
        budget = self.settings.batch_tokens
        assert budget is not None
        for rows in self.model.cut(tokens.lengths, budget):
            yield rows, self._encode_batch(tokens.take(rows), skipped)

    @torch.inference_mode()
    def _encode_batch(self, batch: TokenizedTexts, skipped: int) -> Vectors:
        hidden_TD = self.model(batch)
        lengths_N = torch.from_numpy(batch.lengths)
        pooled_ND = self.heads(pool(hidden_TD, lengths_N, self.folder.pooling, skipped))
        pooled_ND = pooled_ND[:, : self.width]
        if self.folder.normalizes:
            pooled_ND = torch.nn.functional.normalize(pooled_ND, dim=-1)
        pooled_ND[lengths_N == 0] = 0.0  # a bias alone is no meaning
        vectors: Vectors = pooled_ND.cpu().numpy()
        return vectors

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
