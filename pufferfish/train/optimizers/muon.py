"""Muon (Jordan et al., 2024, https://kellerjordan.github.io/posts/muon): the update of a matrix is its momentum with all singular values made equal.

Shapes: S matrices of one shape, R rows, C columns, R <= C.
"""

from __future__ import annotations

import torch

from pufferfish.schema.plan import TrainPlan
from pufferfish.train.optimizers.adamw import AdamW, Optimizer
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


def build_muon(weights: dict[str, torch.Tensor], plan: TrainPlan) -> list[Optimizer]:
    """Muon for the matrices between hidden states, AdamW for embedding, head and gains."""
    matrices = {name: tensor for name, tensor in weights.items() if kind_of(name, tensor) == "matrix"}
    others = {name: tensor for name, tensor in weights.items() if name not in matrices}
    return [Muon(matrices, plan), AdamW(others, plan)]


def orthogonalize(x_SRC: torch.Tensor) -> torch.Tensor:
    """The nearest semi-orthogonal matrices, approximately (singular values within about 0.7 .. 1.2), in the dtype of x; R <= C is fastest."""
    x_SRC = x_SRC / (torch.linalg.vector_norm(x_SRC, dim=(-2, -1), keepdim=True, dtype=torch.float32) * 1.02 + 1e-7).to(x_SRC.dtype)
    for a, b, c in POLYNOMIALS:
        gram = x_SRC @ x_SRC.mT
        polynomial = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        x_SRC = torch.baddbmm(x_SRC, polynomial, x_SRC, beta=a)
    return x_SRC


class Muon:
    """Momentum, orthogonalised in batches of equal shape; decoupled weight decay where it agrees in sign with the update ("cautious",
    Chen et al., 2025, arXiv 2510.12402)."""

    def __init__(self, weights: dict[str, torch.Tensor], plan: TrainPlan) -> None:
        self.weights, self._plan = weights, plan
        # Devices that train in float16 are slow in bfloat16 or lack it, and small momenta vanish in float16.
        self.dtype = torch.bfloat16 if plan.dtype == "bfloat16" else torch.float32
        self._shapes: dict[tuple[int, int], list[str]] = {}
        for name, matrix in weights.items():
            self._shapes.setdefault((min(matrix.shape), max(matrix.shape)), []).append(name)
        self.reset()

    def reset(self) -> None:
        """As new."""
        self._momentum = {name: torch.zeros_like(matrix) for name, matrix in self.weights.items()}

    @torch.no_grad()
    def step(self, lr_share: float) -> None:
        """Update every matrix from its gradient."""
        names = list(self.weights)
        gradients = [self.weights[name].grad for name in names]
        momenta = [self._momentum[name] for name in names]
        torch._foreach_lerp_(momenta, gradients, 1 - MOMENTUM)
        directions = dict(zip(names, torch._foreach_lerp(gradients, momenta, MOMENTUM), strict=True))  # Nesterov
        updates = {}
        for same in self._shapes.values():
            stack = torch.stack([_flat(directions[name]) for name in same])
            updates |= zip(same, orthogonalize(stack.to(self.dtype)).to(torch.float32), strict=True)
        # Updates lie in memory as their weights do: devices take a list of all matrices at once only so, and processors are quicker, too.
        stands = {name: _flat(self.weights[name]) is not self.weights[name] for name in names}
        self._apply([directions[name].copy_(updates[name].mT) if stands[name] else updates[name] for name in names], lr_share)

    def _apply(self, updates: list[torch.Tensor], lr_share: float) -> None:
        """In few operations for all matrices together: most of them are small."""
        matrices, lr = list(self.weights.values()), self._plan.matrix_lr * lr_share
        if self._plan.weight_decay:
            agrees = torch._foreach_mul(updates, matrices)
            torch._foreach_sign_(agrees)
            torch._foreach_clamp_min_(agrees, 0.0)
            torch._foreach_addcmul_(matrices, matrices, agrees, value=-lr * self._plan.weight_decay)
        torch._foreach_mul_(updates, [max(1.0, matrix.shape[0] / matrix.shape[1]) ** 0.5 for matrix in matrices])
        torch._foreach_add_(matrices, updates, alpha=-lr)

    def state(self) -> dict[str, torch.Tensor]:
        """The momenta."""
        return {f"muon.momentum.{name}": tensor for name, tensor in self._momentum.items()}

    @torch.no_grad()
    def load_state(self, tensors: dict[str, torch.Tensor]) -> None:
        """Go on from `state`."""
        for name, tensor in self.state().items():
            tensor.copy_(tensors[name])


def _flat(matrix: torch.Tensor) -> torch.Tensor:
    """The matrix with at most as many rows as columns; itself, where it is so already."""
    return matrix if matrix.shape[0] <= matrix.shape[1] else matrix.mT
