"""Initial weights, in one table.

Output projections start at zero, so that every block starts as the identity; the head starts small, so that the first loss is ln V.
Matrices get a standard deviation of 1 / sqrt(fan in), the embedding one that blocks can outgrow.
"""

from __future__ import annotations

import torch
from torch import nn

EMBEDDING_STD = 0.5
HEAD_STD = 0.001


def initialize(model: nn.Module, *, seed: int) -> None:
    """Fill all parameters, in order of their names, from one seeded generator on the CPU: the same on every device."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in sorted(model.named_parameters()):
        with torch.no_grad():
            parameter.copy_(_values(name, parameter.shape, generator))


def _values(name: str, shape: torch.Size, generator: torch.Generator) -> torch.Tensor:
    kind = name.split(".")[-2]
    match kind:
        case "embed_tokens":
            return torch.randn(shape, generator=generator) * EMBEDDING_STD
        case "lm_head":
            return torch.randn(shape, generator=generator) * HEAD_STD
        case "o_proj" | "down_proj":
            return torch.zeros(shape)
        case "q_norm" | "k_norm":
            return torch.ones(shape)
        case "q_proj" | "k_proj" | "v_proj" | "gate_proj" | "up_proj":
            return torch.randn(shape, generator=generator) * shape[1] ** -0.5
    raise AssertionError(f"no initial value for {name}")
