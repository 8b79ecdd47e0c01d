"""SwiGLU feed-forward layer (Shazeer, 2020, arXiv 2002.05202).

Shapes: B batch, T time, D width of the residual stream, F width of the layer.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from pufferfish.model.linear import Linear
from pufferfish.schema.plan import ModelPlan


class _GatedSiLU(torch.autograd.Function):
    """silu(gate) * up of a joint product; the gradients of both are written where they belong in its gradient, which autograd would have to join."""

    @staticmethod
    def forward(ctx, joint_BTF: torch.Tensor) -> torch.Tensor:
        gate_BTF, up_BTF = joint_BTF.chunk(2, dim=-1)
        activated_BTF = F.silu(gate_BTF)
        ctx.save_for_backward(joint_BTF, activated_BTF)
        return activated_BTF * up_BTF

    @staticmethod
    def backward(ctx, gradient_BTF: torch.Tensor) -> torch.Tensor:
        joint_BTF, activated_BTF = ctx.saved_tensors
        gate_BTF, up_BTF = joint_BTF.chunk(2, dim=-1)
        joint_gradient_BTF = torch.empty_like(joint_BTF)
        to_gate_BTF, to_up_BTF = joint_gradient_BTF.chunk(2, dim=-1)
        torch.mul(gradient_BTF, activated_BTF, out=to_up_BTF)
        torch.ops.aten.silu_backward.grad_input(gradient_BTF * up_BTF, gate_BTF, grad_input=to_gate_BTF)
        return joint_gradient_BTF


class SwiGLU(nn.Module):
    """down(silu(gate(x)) * up(x)); gate and up are computed in one product."""

    def __init__(self, plan: ModelPlan) -> None:
        super().__init__()
        self.gate_proj = Linear(plan.d_model, plan.d_ff)
        self.up_proj = Linear(plan.d_model, plan.d_ff)
        self.down_proj = Linear(plan.d_ff, plan.d_model)

    def forward(self, x_BTD: torch.Tensor) -> torch.Tensor:
        """(B, T, D) in, (B, T, D) out."""
        joint_BTF = F.linear(x_BTD, torch.cat((self.gate_proj.weight, self.up_proj.weight)))
        if torch.compiler.is_compiling():  # which joins the gradients itself, and cannot follow what is written into halves
            gate_BTF, up_BTF = joint_BTF.chunk(2, dim=-1)
            return self.down_proj(F.silu(gate_BTF) * up_BTF)
        return self.down_proj(_GatedSiLU.apply(joint_BTF))
