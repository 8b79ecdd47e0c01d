"""What a layer costs, so that the planner needs no layer."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Price:
    """Cost of one layer or of a whole model. Prices of layers add up.

    FLOPs are those of matrix products in forward and backward together (6 per parameter and token, 2 + 4), as everyone counts them.
    Activations are what is held where memory peaks, at the start of the backward pass: what the eager forward pass keeps, and the gradients of the head.
    """

    num_params: int = 0  # trained
    matmul_params: int = 0  # that every token is multiplied with
    flops_per_token: float = 0.0
    activation_elements_per_token: float = 0.0  # in the compute dtype
    float32_elements_per_token: float = 0.0  # that stay in float32 whatever the compute dtype
    num_operations: int = 0  # eager kernel launches, forward and backward

    def __add__(self, other: Price) -> Price:
        return Price(*(mine + theirs for mine, theirs in zip(vars(self).values(), vars(other).values(), strict=True)))

    def __mul__(self, count: int) -> Price:
        return Price(*(mine * count for mine in vars(self).values()))
