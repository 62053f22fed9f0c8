"""The model in training: a published transformer, or a new one, with its pooling and heads.

Texts of a batch are laid end to end in micro-batches of a token budget, so no padding is computed.
Shapes: T tokens of all texts of a micro-batch; N texts; D width of an embedding.
"""

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from catalog.bounds import check_if_set
from catalog.draws import draw
from mining.model_files import find_folder
from mining.model_folder import ModelFolder, read_model_folder
from mining.pooling import Dense, load_heads, pool
from mining.token_batches import TokenizedTexts
from mining.token_model import TokenModel, load_tokenizer, tokenize

IDENTITY = "torch.nn.modules.linear.Identity"
# Weights of published models that no embedding depends on.
UNUSED_WEIGHTS = ("pooler.",)


@dataclass(frozen=True)
class ModelSettings:
    """Which model is trained. What is None stays as the folder says.

    ``pooling`` is for a base that names none, ``max_tokens`` for one that reads more.
    ``head_width`` adds a linear map to this width after the pooling, as Conan-embedding does from
    1,024 to 1,792; a base that has one, such as an earlier stage's model, keeps it.
    """

    base: str
    pooling: str | None = None
    max_tokens: int | None = None
    head_width: int | None = None
    query_instruction: str | None = None
    passage_instruction: str | None = None
    trust_remote_code: bool = False

    def __post_init__(self) -> None:
        check_if_set(self, "max_tokens", "head_width")


class EmbeddingModel(nn.Module):
    """Tokens in, embeddings out; they are not normalised, the losses do that."""

    def __init__(
        self, settings: ModelSettings, seed: int, precision: str, batch_tokens: int
    ) -> None:
        super().__init__()
        self.settings, self.precision, self.batch_tokens = settings, precision, batch_tokens
        self.task_prompts: Mapping[str, str] = {}  # of tasks that have their own; only stored here
        self.folder = _read_base(settings)
        self.tokens = TokenModel(self.folder, "float32", trusts_code=settings.trust_remote_code)
        self.heads = load_heads(self.folder.heads)
        self.width = self.folder.width
        if settings.head_width is not None and not self._has_head(settings.head_width):
            self._add_head(_new_head(self.folder, settings.head_width, seed))
            self.width = settings.head_width
        self.tokenizer = load_tokenizer(self.folder, trusts_code=settings.trust_remote_code)
        self.requires_grad_(True)
        align_weights(self)
        for name, weight in self.tokens.transformer.named_parameters():
            # BERT's pooler: nothing reads it, so decay and checkpoints leave it as it is.
            if name.startswith(UNUSED_WEIGHTS):
                weight.requires_grad_(False)
        self.train()

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.tokens.device

    def prompt(self, side: str) -> str:
        """Return what is put before every text of a side that has no instruction of its own."""
        query, passage = self.settings.query_instruction, self.settings.passage_instruction
        own = query if side == "query" else passage
        return self.folder.prompt(side) if own is None else own

    def tokenize(self, texts: Sequence[str]) -> TokenizedTexts:
        """Turn texts, instructions included, into tokens."""
        if not texts:
            return TokenizedTexts.of([])
        return tokenize(self.tokenizer, texts, self.folder.max_tokens)

    def micro_batches(self, tokens: TokenizedTexts) -> list[np.ndarray]:
        """Cut texts into micro-batches of the token budget, the longest texts first."""
        return self.tokens.cut(tokens.lengths, self.batch_tokens)

    def forward(self, tokens: TokenizedTexts) -> Tensor:
        """Return the embeddings of texts in their order, N x D, in float32."""
        batches = self.micro_batches(tokens)
        if not batches:
            # A graph of all weights: this process has a gradient to send, too, and it is 0.
            weights = [weight.sum() for weight in self.parameters() if weight.requires_grad]
            return torch.zeros((0, self.width), device=self.device) + torch.stack(weights).sum()
        with self.autocast():
            found = [self._run(tokens.take(rows)) for rows in batches]
        order = torch.from_numpy(np.argsort(np.concatenate(batches))).to(self.device)
        return torch.cat(found)[order]

    def autocast(self) -> contextlib.AbstractContextManager[Any]:
        """Compute in the model's precision within this context."""
        if self.precision == "float32":
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, getattr(torch, self.precision))

    def _has_head(self, width: int) -> bool:
        """Say whether the base ends in a linear map to this width."""
        maps = [head for head in self.heads.children() if isinstance(head, Dense)]
        return bool(maps) and maps[-1].linear.out_features == width

    def _add_head(self, head: nn.Module) -> None:
        """Add a head where published models have theirs: before a last normalisation."""
        heads = list(self.heads.children())
        is_last = bool(heads) and not isinstance(heads[-1], (Dense, nn.LayerNorm))
        self.heads.insert(len(heads) - is_last, head)

    def _run(self, batch: TokenizedTexts) -> Tensor:
        hidden_TD = self.tokens(batch)
        with torch.autocast(self.device.type, enabled=False):
            lengths_N = torch.from_numpy(batch.lengths)
            pooled_ND: Tensor = self.heads(pool(hidden_TD, lengths_N, self.folder.pooling))
        return pooled_ND


def align_weights(model: nn.Module) -> None:
    """Copy weights out of the mapped file that they were loaded from.

    There they lie as its header happened to align them, and sums of a matrix product are rounded
    by that: a resumed run would differ in the last bits.
    """
    for weight in model.parameters():
        weight.data = weight.data.clone(memory_format=torch.contiguous_format)


def seed_step(seed: int, step: int, process: int) -> None:
    """Set torch's randomness (dropout) from what names the step: a resumed run draws the same."""
    number = draw(seed, "dropout", np.array([step]), np.array([process]))
    torch.manual_seed(int(number[0] >> np.uint64(1)))


def _read_base(settings: ModelSettings) -> ModelFolder:
    path = find_folder(settings.base)
    names_pooling = (path / "modules.json").exists() or (path / "1_Pooling").exists()
    folder = read_model_folder(settings.base, None, None if names_pooling else settings.pooling)
    return replace(folder, max_tokens=min(settings.max_tokens or 1 << 30, folder.max_tokens))


def _new_head(folder: ModelFolder, width: int, seed: int) -> nn.Module:
    settings = {"in_features": folder.width, "out_features": width, "activation_function": IDENTITY}
    head = Dense(settings, folder.path)
    drawn = int(draw(seed, "head", np.array([width]))[0] >> np.uint64(1))
    generator = torch.Generator().manual_seed(drawn)
    bound = folder.width**-0.5
    with torch.no_grad():
        head.linear.weight.uniform_(-bound, bound, generator=generator)
        head.linear.bias.zero_()
    return head
