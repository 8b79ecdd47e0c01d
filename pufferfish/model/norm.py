"""Root-mean-square normalisation (Zhang and Sennrich, 2019, arXiv 1910.07467).

Shapes: D normalised width; ... anything before it.
"""

from __future__ import annotations

import torch
from torch import nn


class _Normalize(torch.autograd.Function):
    """x / rms(x) in five operations instead of autograd's dozen; with y = x r, the gradient is r (g - y mean(g y))."""

    @staticmethod
    def forward(ctx, x_D: torch.Tensor, eps: float) -> torch.Tensor:
        norm = torch.linalg.vector_norm(x_D, dim=-1, keepdim=True, dtype=torch.promote_types(x_D.dtype, torch.float32))
        scale = (norm * norm / x_D.shape[-1] + eps).rsqrt_().to(x_D.dtype)
        y_D = x_D * scale
        ctx.save_for_backward(y_D, scale)
        return y_D

    @staticmethod
    def backward(ctx, gradient_D: torch.Tensor) -> tuple[torch.Tensor, None]:
        y_D, scale = ctx.saved_tensors
        return torch.addcmul(gradient_D, y_D, (gradient_D * y_D).mean(-1, keepdim=True), value=-1).mul_(scale), None


def normalize(x_D: torch.Tensor, eps: float) -> torch.Tensor:
    """x / sqrt(mean(x^2) + eps) over the last dimension, computed in the dtype of x with a mean in float32 at least."""
    return _Normalize.apply(x_D, eps)


class RMSNorm(nn.Module):
    """`normalize` with a gain. A gain that stands before a matrix product can be folded into it, so only those of queries and keys
    are trained; the others stay 1 and are kept as buffers because stock architectures expect them."""

    def __init__(self, d_model: int, eps: float, *, is_trained: bool) -> None:
        super().__init__()
        self.eps = eps
        if is_trained:
            self.weight = nn.Parameter(torch.ones(d_model))
        else:
            self.register_buffer("weight", torch.ones(d_model))

    def forward(self, x_D: torch.Tensor) -> torch.Tensor:
        """The same shape and dtype as x."""
        y_D = normalize(x_D, self.eps)
        return y_D * self.weight if isinstance(self.weight, nn.Parameter) else y_D
