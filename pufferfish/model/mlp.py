"""SwiGLU feed-forward layer (Shazeer, 2020, arXiv 2002.05202).

Shapes: B batch, T time, D width of the residual stream, F width of the layer.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from pufferfish.model.linear import Linear
from pufferfish.schema.plan import ModelPlan


class SwiGLU(nn.Module):
    """down(silu(gate(x)) * up(x)); gate and up are computed in one product."""

    def __init__(self, plan: ModelPlan) -> None:
        super().__init__()
        self.gate_proj = Linear(plan.d_model, plan.d_ff)
        self.up_proj = Linear(plan.d_model, plan.d_ff)
        self.down_proj = Linear(plan.d_ff, plan.d_model)

    def forward(self, x_BTD: torch.Tensor) -> torch.Tensor:
        """(B, T, D) in, (B, T, D) out."""
        gate_BTF, up_BTF = F.linear(x_BTD, torch.cat((self.gate_proj.weight, self.up_proj.weight))).chunk(2, dim=-1)
        return self.down_proj(F.silu(gate_BTF) * up_BTF)
