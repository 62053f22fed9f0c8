"""Encoders: texts become vectors. Load one by path or name; ``lexical`` is built in.

    encoder = Encoder.load(EncoderSettings("../models/bge-large-zh-v1.5", query_instruction="…"))
    vectors = encoder.encode(["怎么学钢琴"], "query")      # float32, texts x width

Vectors have length 1, so that inner product and cosine are the same, unless the model's folder says
that it is made for the inner product of vectors of any length.
"""

import os
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, Literal, get_args

import numpy as np
import numpy.typing as npt

from catalog.bounds import check_if_set
from catalog.expressions import unknown_name
from mining.embeddings import EmbeddingSpec

Side = Literal["query", "passage"]
Device = str  # cpu, cuda, cuda:1, or fastest
Vectors = npt.NDArray[np.float32]

SIDES: Final = get_args(Side)
FASTEST: Final = "fastest"
DTYPES: Final = (FASTEST, "float32", "bfloat16", "float16")
LEXICAL: Final = "lexical"
# A name stands in policies, file names and SQL.
MODEL_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,99}")
# Tokens in a batch. CPU: 4,096 to 16,384 are within 7 %, 8,192 is best. CUDA: enough
# work in each kernel to hide its launch.
BATCH_TOKENS: Final = {"cpu": 8_192, "cuda": 65_536}


class VectorError(ValueError):
    """Some texts got vectors that are not finite; ``positions`` says which of those given."""

    def __init__(self, message: str, positions: list[int]) -> None:
        super().__init__(message, positions)  # both travel from a worker
        self.positions = positions

    def __str__(self) -> str:
        return str(self.args[0])


@dataclass(frozen=True)
class EncoderSettings:
    """Which model, and how it runs. What is None stays as the model was published.

    ``threads`` are those of all processes together. ``fastest`` is a GPU where there is one,
    bfloat16 where the machine computes with it, and a batch that was measured best for the
    device.
    """

    model: str = LEXICAL  # folder, name of a Hugging Face model, or lexical
    name: str | None = None  # what the catalog calls it; None: like its folder
    device: Device = FASTEST
    dtype: str = FASTEST
    threads: int = field(default_factory=lambda: os.cpu_count() or 1)
    pooling: str | None = None
    max_tokens: int | None = None
    query_instruction: str | None = None
    passage_instruction: str | None = None
    batch_tokens: int | None = None
    trust_remote_code: bool = False

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise ValueError(unknown_name("dtype", self.dtype, DTYPES))
        if self.name is not None and not MODEL_NAME.fullmatch(self.name):
            raise ValueError(
                f"model name {self.name!r}: a name is made of A-Z, a-z, 0-9, . _ + and -"
            )
        check_if_set(self, "threads", "batch_tokens", "max_tokens")

    @property
    def is_lexical(self) -> bool:
        """The built-in encoder is meant."""
        return self.model.split("-")[0] == LEXICAL and not os.path.isdir(self.model)

    def instruction(self, side: Side) -> str | None:
        """Return the user's own instruction for a side."""
        return self.query_instruction if side == "query" else self.passage_instruction


class Encoder(ABC):
    """A model that gives texts vectors, with what identifies them."""

    name: str
    revision: str
    width: int

    @staticmethod
    def load(settings: EncoderSettings) -> "Encoder":
        """Load a model; torch is imported only where there is one to run."""
        if settings.is_lexical:
            from mining.lexical import LexicalEncoder

            return LexicalEncoder(settings)
        from mining.transformer import TransformerEncoder

        return TransformerEncoder(resolve(settings))

    @abstractmethod
    def spec(self, side: Side) -> EmbeddingSpec:
        """Return what identifies this encoder's vectors of one side."""

    @abstractmethod
    def encode(
        self,
        texts: Sequence[str],
        side: Side,
        progress: Callable[[int], None] | None = None,
        instruction: str | None = None,
    ) -> Vectors:
        """Return a vector for each text; raise VectorError for what is not finite.

        ``instruction`` is put before these texts in place of the side's own.

        ``progress`` is told, now and then, how many texts are done.
        A text that holds nothing for the model (no token, no word) gets zeros: it is like no other.
        """


def resolve(settings: EncoderSettings) -> EncoderSettings:
    """Decide what ``fastest`` is on this machine."""
    import torch

    device = settings.device
    if device == FASTEST:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    kind = device.split(":")[0]
    if kind not in BATCH_TOKENS:
        raise ValueError(unknown_name("device", device, ["cpu", "cuda", "cuda:N", FASTEST]))
    dtype = settings.dtype
    if dtype == FASTEST:
        dtype = _fastest_dtype(kind)
    batch_tokens = settings.batch_tokens or BATCH_TOKENS[kind]
    return replace(settings, device=device, dtype=dtype, batch_tokens=batch_tokens)


def spec_of(settings: EncoderSettings, side: Side) -> EmbeddingSpec:
    """Return what identifies the vectors of a side, from the folder alone: no weight is loaded."""
    if side not in SIDES:
        raise ValueError(unknown_name("side", side, SIDES))
    if settings.is_lexical:
        from mining.lexical import lexical_spec

        return lexical_spec(settings, side)
    from mining.model_folder import read_model_folder

    folder = read_model_folder(settings.model, settings.name, settings.pooling, settings.max_tokens)
    instruction = settings.instruction(side)
    return EmbeddingSpec(
        model=folder.name,
        revision=folder.revision,
        side=side,
        instruction=folder.prompt(side) if instruction is None else instruction,
        max_tokens=folder.max_tokens,
        width=folder.width,
        dtype=resolve(settings).dtype,
        pooling="+".join(folder.pooling),
    )


def check_finite(vectors: Vectors, model: str) -> None:
    """Raise VectorError where a vector holds a number that is not finite."""
    bad = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
    if len(bad):
        shown = ", ".join(map(str, bad[:5]))
        raise VectorError(
            f"model {model} gives vectors that are not finite (NaN or infinity) for {len(bad)} "
            f"of {len(vectors)} texts (first: {shown}); its weights are broken, or it overflows in "
            "this dtype: try --dtype float32",
            bad.tolist(),
        )


def _fastest_dtype(kind: str) -> str:
    """Choose bfloat16 where there are instructions for it: twice as fast, cosine >= 0.9999."""
    import torch

    from mining.bfloat16 import cpu_computes_bfloat16

    if kind == "cuda":
        # A planner without a GPU plans for workers that have a current one.
        old = torch.cuda.is_available() and torch.cuda.get_device_capability()[0] < 8
        return "float16" if old else "bfloat16"
    return "bfloat16" if cpu_computes_bfloat16() else "float32"
