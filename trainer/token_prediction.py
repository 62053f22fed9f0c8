"""Which token stands where: BERT's prediction head, and its loss without a table of all scores.

Shapes: C tokens to predict; D width; V vocabulary.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import torch
from safetensors import safe_open
from torch import Tensor, nn

# Scores that are held at once, of some tokens with every piece of the vocabulary: 64 MB.
SCORES: Final = 1 << 24
# What published folders call the weights of the head, by our names.
_BERT: Final = {
    "dense": "cls.predictions.transform.dense", "norm": "cls.predictions.transform.LayerNorm",
    "bias": "cls.predictions.bias",
}  # fmt: skip
_ROBERTA: Final = {"dense": "lm_head.dense", "norm": "lm_head.layer_norm", "bias": "lm_head.bias"}
_OLD_NAMES: Final = {"norm.weight": "gamma", "norm.bias": "beta"}


class TokenPrediction(nn.Module):
    """BERT's head: a map, its activation and norm, then scores by the tokens' own embeddings."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        from transformers.activations import ACT2FN

        self.dense = nn.Linear(config.hidden_size, config.hidden_size)
        self.activation = ACT2FN[config.hidden_act]
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.bias = nn.Parameter(torch.zeros(config.vocab_size))

    def forward(self, hidden_CD: Tensor, embedding_VD: Tensor, tokens_C: Tensor) -> Tensor:
        """Return the sum over tokens of the cross-entropy of predicting them."""
        hidden_CD = self.norm(self.activation(self.dense(hidden_CD)))
        dtype = torch.get_autocast_dtype(hidden_CD.device.type)
        if not torch.is_autocast_enabled(hidden_CD.device.type):
            dtype = torch.float32
        loss: Tensor = _SummedCrossEntropy.apply(  # type: ignore[no-untyped-call]
            hidden_CD.float(), embedding_VD, self.bias, tokens_C, dtype
        )
        return loss


def take_up_head(head: TokenPrediction, folder: Path, model_type: str) -> bool:
    """Take up the head that a folder was published with; say whether there was one."""
    path = folder / "model.safetensors"
    if not path.is_file():
        return False
    names = _BERT if model_type == "bert" else _ROBERTA
    wanted = {name: _published(name, names) for name in head.state_dict()}
    with safe_open(path, "pt") as file:
        there = set(file.keys())
        found = {
            name: next((each for each in spellings if each in there), None)
            for name, spellings in wanted.items()
        }
        if any(each is None for each in found.values()):
            return False
        head.load_state_dict({name: file.get_tensor(str(each)) for name, each in found.items()})
    return True


def _published(name: str, names: Mapping[str, str]) -> list[str]:
    """Return what a weight may be called in a folder."""
    module, _, weight = name.partition(".")
    if not weight:
        return [names[module]]
    return [f"{names[module]}.{each}" for each in (weight, _OLD_NAMES.get(name, weight))]


class _SummedCrossEntropy(torch.autograd.Function):
    """Cross-entropy of linear scores, some tokens at a time: gradients are made on the way.

    ``linear_cross_entropy`` of torch does the same, in nine more seconds at its first call (2.13).
    """

    @staticmethod
    def forward(
        ctx: Any, hidden_CD: Tensor, weight_VD: Tensor, bias_V: Tensor, tokens_C: Tensor,
        dtype: torch.dtype,
    ) -> Tensor:  # fmt: skip
        with torch.autocast(hidden_CD.device.type, enabled=False):
            return _sum_in_parts(ctx, hidden_CD, weight_VD, bias_V, tokens_C, dtype)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        return (*(gradient * saved for saved in ctx.saved_tensors), None, None)


def _sum_in_parts(
    ctx: Any, hidden_CD: Tensor, weight_VD: Tensor, bias_V: Tensor, tokens_C: Tensor,
    dtype: torch.dtype,
) -> Tensor:  # fmt: skip
    cast_VD = weight_VD.to(dtype)
    hidden_gradient_CD = torch.empty_like(hidden_CD)
    weight_gradient_VD = torch.zeros_like(weight_VD)
    bias_gradient_V = torch.zeros_like(bias_V)
    total = hidden_CD.new_zeros(())
    rows = max(1, SCORES // len(weight_VD))
    for first in range(0, len(hidden_CD), rows):
        part = slice(first, first + rows)
        inputs, tokens = hidden_CD[part].to(dtype), tokens_C[part, None]
        scores = (inputs @ cast_VD.T).float() + bias_V
        log_sums = torch.logsumexp(scores, dim=1, keepdim=True)
        total += (log_sums - scores.gather(1, tokens)).sum()
        wrong = scores.sub_(log_sums).exp_()
        wrong.scatter_add_(1, tokens, wrong.new_full(tokens.shape, -1.0))
        bias_gradient_V += wrong.sum(0)
        wrong = wrong.to(dtype)
        hidden_gradient_CD[part] = (wrong @ cast_VD).float()
        weight_gradient_VD += (wrong.T @ inputs).float()
    ctx.save_for_backward(hidden_gradient_CD, weight_gradient_VD, bias_gradient_V)
    return total


def random_weights(module: nn.Module, spread: float, generator: torch.Generator) -> None:
    """Draw the weights of linear maps as BERT does: normal, biases 0, norms 1."""
    with torch.no_grad():
        for each in module.modules():
            if isinstance(each, nn.Linear):
                each.weight.normal_(0.0, spread, generator=generator)
                each.bias.zero_()
