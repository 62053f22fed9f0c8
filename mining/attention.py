"""Attention over texts laid end to end, without padding.

A batch is one sequence of all tokens, and each text attends to itself alone. transformers' models
take the attention by name, and hand on the keyword ``texts`` that says where the texts are. On
CUDA in half precision it is torch's variable-length flash attention; elsewhere texts of equal
length, which a sorted batch has in plenty, are computed together.

Shapes: T tokens of all texts, H heads, D width of a head, N texts of one length L.
"""

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
from torch.nn.functional import scaled_dot_product_attention

NAME: Final = "texts_end_to_end"
# Architectures whose modeling code hands keywords on to the attention, without position biases,
# and takes explicit positions. Others are encoded with padding.
ARCHITECTURES: Final = (
    "bert", "roberta", "xlm-roberta", "camembert", "electra", "qwen2", "qwen3", "llama", "mistral",
)  # fmt: skip


def takes_packed_texts(config: dict[str, Any]) -> bool:
    """Say whether a model of this configuration can be given texts end to end."""
    if config.get("model_type") not in ARCHITECTURES:
        return False
    if config.get("position_embedding_type", "absolute") != "absolute":
        return False
    layers = set(config.get("layer_types") or ["full_attention"])
    window = config.get("sliding_window") if config.get("use_sliding_window", True) else None
    return layers == {"full_attention"} and not window


@dataclass(frozen=True)
class PackedTexts:
    """Where the texts of a batch are: text i has the tokens ``ends[i - 1]`` to ``ends[i]``."""

    groups: tuple[tuple[int, int, int], ...]  # first token, texts, tokens of each
    offsets: torch.Tensor  # int32, N + 1
    longest: int


def pack_texts(lengths: npt.NDArray[np.int64], device: torch.device | str = "cpu") -> PackedTexts:
    """Lay texts of these lengths end to end; neighbors of equal length form a group."""
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    changes = np.flatnonzero(np.diff(lengths)) + 1
    firsts = np.concatenate([[0], changes])
    counts = np.diff(np.concatenate([firsts, [len(lengths)]]))
    groups = tuple(
        (int(offsets[first]), int(count), int(lengths[first]))
        for first, count in zip(firsts, counts, strict=True)
        if lengths[first]
    )
    return PackedTexts(
        groups, torch.tensor(offsets, dtype=torch.int32, device=device), int(lengths.max())
    )


def register() -> str:
    """Make the attention known to transformers and return its name there."""
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    ALL_ATTENTION_FUNCTIONS.register(NAME, attend)
    return NAME


def attend(
    module: torch.nn.Module,
    query_1HTD: torch.Tensor,
    key_1HTD: torch.Tensor,
    value_1HTD: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    texts: PackedTexts,
    scaling: float | None = None,
    **_unused: Any,
) -> tuple[torch.Tensor, None]:
    """Let every text attend to itself; returns 1 x T x H x D, as transformers expects.

    Attention probabilities are not dropped in training: flash attention over texts of any length
    cannot, and on CPU it would cost as much as all other work of a step together.
    """
    query_THD, key_THD, value_THD = (
        x_1HTD[0].transpose(0, 1) for x_1HTD in (query_1HTD, key_1HTD, value_1HTD)
    )
    config = getattr(module, "config", None)
    causal = bool(getattr(module, "is_causal", False)) and bool(getattr(config, "is_causal", True))
    grouped = query_THD.shape[1] != key_THD.shape[1]
    how = _How(scaling, causal, grouped)
    if query_THD.is_cuda and query_THD.dtype in (torch.float16, torch.bfloat16):
        found_THD = _attend_flash(query_THD, key_THD, value_THD, texts, how)
    else:
        found_THD = _attend_groups(query_THD, key_THD, value_THD, texts, how)
    return found_THD.unsqueeze(0), None


@dataclass(frozen=True)
class _How:
    """What the model asks of its attention."""

    scaling: float | None
    causal: bool
    grouped: bool


def _attend_groups(
    query_THD: torch.Tensor,
    key_THD: torch.Tensor,
    value_THD: torch.Tensor,
    texts: PackedTexts,
    how: _How,
) -> torch.Tensor:
    """Compute the texts of each length as one batch that needs no mask."""
    if not texts.groups:
        return torch.empty_like(query_THD)
    tokens = [count * length for _, count, length in texts.groups]
    # Split and joined once: gradients of slices would each fill a tensor of all tokens.
    sides = (torch.split(x_THD, tokens) for x_THD in (query_THD, key_THD, value_THD))
    found = []
    for (_, count, _length), parts in zip(texts.groups, zip(*sides, strict=True), strict=True):
        query_NHLD, key_NHLD, value_NHLD = (
            x_THD.view(count, -1, *x_THD.shape[1:]).transpose(1, 2) for x_THD in parts
        )
        found_NHLD = scaled_dot_product_attention(
            query_NHLD,
            key_NHLD,
            value_NHLD,
            scale=how.scaling,
            is_causal=how.causal,
            enable_gqa=how.grouped,
        )
        found.append(found_NHLD.transpose(1, 2).flatten(0, 1))
    return torch.cat(found)


def _attend_flash(
    query_THD: torch.Tensor,
    key_THD: torch.Tensor,
    value_THD: torch.Tensor,
    texts: PackedTexts,
    how: _How,
) -> torch.Tensor:
    """Call torch's variable-length flash attention."""
    from torch.nn.attention.varlen import varlen_attn

    found = varlen_attn(
        query_THD.contiguous(),
        key_THD.contiguous(),
        value_THD.contiguous(),
        texts.offsets,
        texts.offsets,
        texts.longest,
        texts.longest,
        scale=how.scaling,
        window_size=(-1, 0) if how.causal else (-1, -1),
        enable_gqa=how.grouped,
        num_splits=1,  # a text's vector does not depend on the batch that it is in
    )
    assert isinstance(found, torch.Tensor)
    return found
