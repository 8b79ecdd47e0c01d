"""Which weights are of which kind: matrices between hidden states, the embedding and other tables, the head, and gains."""

from __future__ import annotations

import torch

from pufferfish.schema.plan import TrainPlan


def kind_of(name: str, tensor: torch.Tensor) -> str:
    """embedding, head, gain or matrix."""
    if "embed" in name:
        return "embedding"
    if "lm_head" in name:
        return "head"
    return "gain" if tensor.ndim == 1 else "matrix"


def peak_lr(kind: str, plan: TrainPlan) -> float:
    """Peak learning rate of a kind."""
    return {"embedding": plan.embedding_lr, "head": plan.head_lr, "gain": plan.gain_lr, "matrix": plan.matrix_lr}[kind]
