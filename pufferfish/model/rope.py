"""Rotary position embedding (Su et al., 2021, arXiv 2104.09864), in the half-split layout of stock architectures.

Shapes: B batch, T time, N heads, H head width.
"""

from __future__ import annotations

import torch


def rope_tables(seq_len: int, head_dim: int, theta: float) -> tuple[torch.Tensor, torch.Tensor]:
    """cos and sin of the angles, each (T, 1, H / 2) float32; angle of pair i at position t is t * theta^(-2 i / H)."""
    frequency = theta ** (-torch.arange(0, head_dim, 2, dtype=torch.float32) / head_dim)
    angle_TF = torch.arange(seq_len, dtype=torch.float32)[:, None] * frequency
    return angle_TF.cos()[:, None], angle_TF.sin()[:, None]


class _Rotate(torch.autograd.Function):
    """A rotation; its gradient is the opposite rotation, which autograd would take a dozen operations to find."""

    @staticmethod
    def forward(ctx, x_BTNH: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(cos, sin)
        return _rotate(x_BTNH, cos, sin)

    @staticmethod
    def backward(ctx, gradient_BTNH: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        cos, sin = ctx.saved_tensors
        return _rotate(gradient_BTNH, cos, -sin), None, None


def _rotate(x_BTNH: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """first cos - second sin, second cos + first sin: one pass over all, and one over each half, in place."""
    rotated_BTNH = x_BTNH * torch.cat((cos, cos), dim=-1)
    (first, second), (to_first, to_second) = x_BTNH.chunk(2, dim=-1), rotated_BTNH.chunk(2, dim=-1)
    to_first.addcmul_(second, sin, value=-1)
    to_second.addcmul_(first, sin)
    return rotated_BTNH


def rotate(x_BTNH: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotate queries or keys by their positions; cos and sin are (T, 1, H / 2) in the dtype of x."""
    return _Rotate.apply(x_BTNH, cos, sin)
