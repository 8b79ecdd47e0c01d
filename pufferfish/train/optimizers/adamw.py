"""AdamW (Loshchilov and Hutter, 2019, arXiv 1711.05101) for every weight, each kind with its own learning rate."""

from __future__ import annotations

import torch

from pufferfish.schema.plan import TrainPlan
from pufferfish.train.optimizers.groups import by_kind, peak_lr

BETAS = (0.9, 0.95)
EPS = 1e-10  # below the square root of the smallest second moments of embeddings


def build_adamw(weights: dict[str, torch.Tensor], plan: TrainPlan) -> list[torch.optim.Optimizer]:
    """One fused AdamW; only matrices decay."""
    return [adamw(weights, plan)]


def adamw(weights: dict[str, torch.Tensor], plan: TrainPlan) -> torch.optim.Optimizer:
    """AdamW over these weights, one parameter group for each kind with its `peak_lr`."""
    groups = [
        {"params": tensors, "peak_lr": peak_lr(kind, plan), "lr": 0.0, "weight_decay": plan.weight_decay if kind == "matrix" else 0.0}
        for kind, tensors in by_kind(weights).items()
    ]
    return torch.optim.AdamW(groups, lr=0.0, betas=BETAS, eps=EPS, fused=True)
