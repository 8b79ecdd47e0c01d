"""Choosing the next token from logits: greedy, temperature, top-k, top-p.

V vocabulary, in float64 on the CPU, so that a seed gives the same text on every device.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from pufferfish.base.errors import UserError

SMALLEST_TEMPERATURE = 1e-200  # below, float32 logits divided by it may exceed float64


@dataclass(frozen=True)
class Sampling:
    """How tokens are drawn. Raises UserError for values without a meaning."""

    temperature: float = 1.0  # 0 is greedy, and so is less than `SMALLEST_TEMPERATURE`
    top_k: int = 0  # keep the k best; 0 keeps all
    top_p: float = 1.0  # keep the smallest set of the best with at least this probability; 1 keeps all

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < float("inf"):
            raise UserError("the temperature is not right", saw=f"temperature {self.temperature}", fix="give 0 (greedy) or more; 0.8 is usual")
        if self.top_k < 0:
            raise UserError("top-k is not right", saw=f"top-k {self.top_k}", fix="give 0 (all tokens) or the number of tokens to choose from")
        if not 0 < self.top_p <= 1:
            raise UserError("top-p is not right", saw=f"top-p {self.top_p}", fix="give a probability above 0 and at most 1; 1 keeps all tokens")

    @property
    def is_greedy(self) -> bool:
        """Always the likeliest token."""
        return self.temperature < SMALLEST_TEMPERATURE


def next_probabilities(logits_V: torch.Tensor, sampling: Sampling) -> torch.Tensor:
    """Probabilities (V,) float64 of the next token: temperature first, then top-k, then top-p on what is left.

    Among equal logits the smaller id comes first, so that the kept sets are the same everywhere.
    """
    logits_V = logits_V.detach().to("cpu", torch.float64)
    if sampling.is_greedy:
        return torch.nn.functional.one_hot(logits_V.argmax(), logits_V.numel()).to(torch.float64)
    sorted_V, order_V = torch.sort(logits_V / sampling.temperature, descending=True, stable=True)
    if sampling.top_k:
        sorted_V[sampling.top_k :] = -torch.inf
    sorted_V = torch.softmax(sorted_V, dim=0)
    if sampling.top_p < 1:
        before_V = torch.cumsum(sorted_V, dim=0) - sorted_V
        sorted_V[before_V >= sampling.top_p] = 0.0
        sorted_V /= sorted_V.sum()
    return torch.zeros_like(sorted_V).scatter_(0, order_V, sorted_V)


def sample_token(logits_V: torch.Tensor, sampling: Sampling, generator: torch.Generator) -> int:
    """Draw one token id. `generator` lives on the CPU; greedy choice does not use it."""
    if sampling.is_greedy:
        return int(logits_V.argmax())
    return int(torch.multinomial(next_probabilities(logits_V, sampling), 1, generator=generator))
