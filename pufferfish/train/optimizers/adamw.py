"""AdamW (Loshchilov and Hutter, 2019, arXiv 1711.05101), each kind of weight with its own learning rate.

Optimizers here are plain objects and not `torch.optim.Optimizer`, whose construction imports torch's compiler: 0.7 s in each of two processes.
They update float32 weights in place from `weight.grad` and keep their state by the names of the weights.
"""

from __future__ import annotations

from typing import Protocol

import torch

from pufferfish.schema.plan import TrainPlan
from pufferfish.train.optimizers.groups import kind_of, peak_lr

BETA1 = 0.9
BETA2 = {"matrix": 0.95, "gain": 0.95, "embedding": 0.99, "head": 0.99}  # the head gains by it, the embedding alone does not (docs/LOG.md)
EPS = 1e-10  # below the square root of the smallest second moments of embeddings


class Optimizer(Protocol):
    """What the training step needs of one."""

    weights: dict[str, torch.Tensor]

    def step(self, lr_share: float) -> None:
        """Update every weight that has a gradient, at this share of the peak learning rates."""

    def reset(self) -> None:
        """As new."""

    def state(self) -> dict[str, torch.Tensor]:
        """Everything that the next step depends on, by name."""

    def load_state(self, tensors: dict[str, torch.Tensor]) -> None:
        """Go on from `state`."""


def build_adamw(weights: dict[str, torch.Tensor], plan: TrainPlan) -> list[Optimizer]:
    """AdamW for all weights; only matrices decay."""
    return [AdamW(weights, plan)]


class AdamW:
    """First and second moments in float32, updated by torch's fused kernel, which reads and writes everything once."""

    def __init__(self, weights: dict[str, torch.Tensor], plan: TrainPlan) -> None:
        self.weights, self._plan = weights, plan
        self.reset()

    def reset(self) -> None:
        """As new."""
        self._first = {name: torch.zeros_like(weight) for name, weight in self.weights.items()}
        self._second = {name: torch.zeros_like(weight) for name, weight in self.weights.items()}
        self._steps = {name: torch.zeros((), dtype=torch.float32, device=weight.device) for name, weight in self.weights.items()}
        self._kinds: dict[str, list[str]] = {}
        for name, weight in self.weights.items():
            self._kinds.setdefault(kind_of(name, weight), []).append(name)

    @torch.no_grad()
    def step(self, lr_share: float) -> None:
        """One fused update for each kind of weight."""
        for kind, names in self._kinds.items():
            names = [name for name in names if self.weights[name].grad is not None]
            steps = [self._steps[name] for name in names]
            torch._foreach_add_(steps, 1)
            torch._fused_adamw_(
                [self.weights[name] for name in names],
                [self.weights[name].grad for name in names],
                [self._first[name] for name in names],
                [self._second[name] for name in names],
                [],
                steps,
                lr=peak_lr(kind, self._plan) * lr_share,
                beta1=BETA1,
                beta2=BETA2[kind],
                weight_decay=self._plan.weight_decay if kind == "matrix" else 0.0,
                eps=EPS,
                amsgrad=False,
                maximize=False,
            )

    def state(self) -> dict[str, torch.Tensor]:
        """Moments and step counts."""
        parts = {"first": self._first, "second": self._second, "steps": self._steps}
        return {f"adamw.{part}.{name}": tensor for part, tensors in parts.items() for name, tensor in tensors.items()}

    @torch.no_grad()
    def load_state(self, tensors: dict[str, torch.Tensor]) -> None:
        """Go on from `state`."""
        for name, tensor in self.state().items():
            tensor.copy_(tensors[name])
