"""Muon (Jordan et al., 2024, https://kellerjordan.github.io/posts/muon): the update of a matrix is its momentum with all singular values made equal.

Shapes: S matrices of one shape, R rows, C columns, R <= C.
"""

from __future__ import annotations

import torch

from pufferfish.schema.plan import TrainPlan
from pufferfish.train.optimizers.adamw import adamw
from pufferfish.train.optimizers.groups import kind_of

MOMENTUM = 0.95
# Coefficients (a, b, c) of five successive polynomials a X + b (X X^T) X + c (X X^T)^2 X that drive singular values to 1: the minimax-optimal
# sequence "Polar Express" (Amsel et al., 2025, arXiv 2505.16932, table for bfloat16).
POLYNOMIALS = (
    (8.156554524902461, -22.48329292557795, 15.878769915207462),
    (4.042929935166739, -2.808917465908714, 0.5000178451051316),
    (3.8916678022926607, -2.772484153217685, 0.5060648178503393),
    (3.285753657755655, -2.3681294933425376, 0.46449024233003106),
    (2.3465413258596377, -1.7097828382687081, 0.42323551169305323),
)


def build_muon(weights: dict[str, torch.Tensor], plan: TrainPlan) -> list[torch.optim.Optimizer]:
    """Muon for the matrices between hidden states, AdamW for embedding, head and gains."""
    matrices = {name: tensor for name, tensor in weights.items() if kind_of(name, tensor) == "matrix"}
    others = {name: tensor for name, tensor in weights.items() if name not in matrices}
    return [Muon(list(matrices.values()), plan), adamw(others, plan)]


def orthogonalize(x_SRC: torch.Tensor) -> torch.Tensor:
    """The nearest semi-orthogonal matrices, approximately (singular values within about 0.7 .. 1.2), in the dtype of x; R <= C is fastest."""
    x_SRC = x_SRC / (torch.linalg.vector_norm(x_SRC, dim=(-2, -1), keepdim=True, dtype=torch.float32) * 1.02 + 1e-7).to(x_SRC.dtype)
    for a, b, c in POLYNOMIALS:
        gram = x_SRC @ x_SRC.mT
        polynomial = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        x_SRC = torch.baddbmm(x_SRC, polynomial, x_SRC, beta=a)
    return x_SRC


class Muon(torch.optim.Optimizer):
    """Momentum, orthogonalised in batches of equal shape; decoupled weight decay where it agrees in sign with the update ("cautious",
    Chen et al., 2025, arXiv 2510.12402)."""

    def __init__(self, matrices: list[torch.Tensor], plan: TrainPlan) -> None:
        super().__init__([{"params": matrices, "peak_lr": plan.matrix_lr, "lr": 0.0, "weight_decay": plan.weight_decay}], {})
        self.dtype = torch.float32 if plan.dtype == "float32" else torch.bfloat16

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        """Update every matrix from its gradient."""
        group = self.param_groups[0]
        matrices = [matrix for matrix in group["params"] if matrix.grad is not None]
        for matrix in matrices:
            if "momentum" not in self.state[matrix]:
                self.state[matrix]["momentum"] = torch.zeros_like(matrix)
        gradients = [matrix.grad for matrix in matrices]
        momenta = [self.state[matrix]["momentum"] for matrix in matrices]
        torch._foreach_lerp_(momenta, gradients, 1 - MOMENTUM)
        directions = torch._foreach_lerp(gradients, momenta, MOMENTUM)  # Nesterov
        shapes: dict[tuple[int, int], list[int]] = {}
        for index, matrix in enumerate(matrices):
            shapes.setdefault((min(matrix.shape), max(matrix.shape)), []).append(index)
        for indices in shapes.values():
            is_tall = [matrices[index].shape[0] > matrices[index].shape[1] for index in indices]
            stack = torch.stack([directions[index].mT if tall else directions[index] for index, tall in zip(indices, is_tall, strict=True)])
            updates = orthogonalize(stack.to(self.dtype)).to(torch.float32)
            for index, tall, update in zip(indices, is_tall, updates, strict=True):
                self._apply(matrices[index], update.mT if tall else update, group["lr"], group["weight_decay"])

    @staticmethod
    def _apply(matrix: torch.Tensor, update: torch.Tensor, lr: float, weight_decay: float) -> None:
        rows, columns = matrix.shape
        if weight_decay:
            matrix.addcmul_(matrix, (update * matrix > 0).to(matrix.dtype), value=-lr * weight_decay)
        matrix.add_(update, alpha=-lr * max(1.0, rows / columns) ** 0.5)
