"""Linear layers for bfloat16 on CPU: oneDNN, weights laid out once, GELU in the product.

torch lays a weight out anew in every call, and adds bias and activation in passes of their own. The
operators are those that torch's own compiler emits for frozen weights.
"""

import torch
from torch import nn

from mining.bfloat16 import cpu_computes_bfloat16


def supports_prepacked() -> bool:
    """Say whether this machine multiplies bfloat16 natively and torch has the operators."""
    return cpu_computes_bfloat16() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


class PrepackedLinear(nn.Module):
    """A linear layer whose weight has the layout that oneDNN multiplies with."""

    def __init__(self, linear: nn.Linear, rows: int, activation: str = "none") -> None:
        super().__init__()
        weight = linear.weight.detach().contiguous()
        self.weight = torch.ops.mkldnn._reorder_linear_weight(weight, rows)
        self.bias = None if linear.bias is None else linear.bias.detach()
        self.activation = activation

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """Multiply rows; the same numbers as torch.nn.Linear and its activation, rounded once."""
        product: torch.Tensor = torch.ops.mkldnn._linear_pointwise(
            rows, self.weight, self.bias, self.activation, [], "none"
        )
        return product


def prepack_linears(model: nn.Module, rows: int) -> None:
    """Replace the bfloat16 linear layers of a model in place; ``rows`` is the usual batch."""
    for name, child in model.named_children():
        if isinstance(child, nn.Linear) and child.weight.dtype == torch.bfloat16:
            setattr(model, name, PrepackedLinear(child, rows))
        elif _is_gelu_block(child):
            assert isinstance(child.dense, nn.Linear)
            child.dense = PrepackedLinear(child.dense, rows, "gelu")
            child.intermediate_act_fn = nn.Identity()
        else:
            prepack_linears(child, rows)


def _is_gelu_block(module: nn.Module) -> bool:
    """Recognize the first half of BERT's feed-forward: dense, then the exact GELU."""
    activation = getattr(module, "intermediate_act_fn", None)
    dense = getattr(module, "dense", None)
    return (
        isinstance(dense, nn.Linear)
        and dense.weight.dtype == torch.bfloat16
        and type(activation).__name__ == "GELUActivation"
        and getattr(activation, "act", None) is nn.functional.gelu
    )
