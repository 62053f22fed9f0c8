"""Temperature: what scores are divided by before a softmax, fixed or learned."""

import math
from typing import Any

import torch
from torch import Tensor, nn


class Temperature(nn.Module):
    """A temperature learned as its logarithm, as CLIP does it (arXiv 2103.00020), within bounds.

    CLIP's own lower bound is 0.01. At a bound the gradient is kept where it leads back inside and
    dropped where it leads further out, so the parameter neither drifts away nor gets stuck.
    """

    def __init__(self, start: float = 0.05, lowest: float = 0.01, highest: float = 1.0) -> None:
        super().__init__()
        if not 0 < lowest <= start <= highest:
            raise ValueError(
                f"temperature starts at {start} with bounds {lowest} and {highest}: "
                "take 0 < lowest <= start <= highest"
            )
        # One number in a vector: DeepSpeed cannot gather a parameter without a dimension.
        self.logarithm = nn.Parameter(torch.tensor([math.log(start)]))
        self.lowest, self.highest = lowest, highest

    def forward(self) -> Tensor:
        """Return the temperature, a tensor of one number in float32 or wider."""
        logarithm: Tensor = self.logarithm[0]
        if logarithm.dtype in (torch.float16, torch.bfloat16):
            logarithm = logarithm.float()
        low, high = math.log(self.lowest), math.log(self.highest)
        bounded: Tensor = _Bound.apply(logarithm, low, high)  # type: ignore[no-untyped-call]
        return bounded.exp()


class _Bound(torch.autograd.Function):
    """Clamp a number; backward drops a gradient whose descent leads further out of bounds."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, low: float, high: float) -> Tensor:
        ctx.save_for_backward(value)
        ctx.low, ctx.high = low, high
        return value.clamp(low, high)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        (value,) = ctx.saved_tensors
        outward = ((value <= ctx.low) & (gradient > 0)) | ((value >= ctx.high) & (gradient < 0))
        return gradient.masked_fill(outward, 0.0), None, None
