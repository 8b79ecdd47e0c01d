"""A matrix product without bias, left empty: `model/init.py` fills it."""

from __future__ import annotations

import torch
from torch import nn


class Linear(nn.Linear):
    """Named and stored as `nn.Linear`; allocated only, since filling it twice costs time and building on the meta device imports torch's compiler (1 s)."""

    def __init__(self, num_inputs: int, num_outputs: int) -> None:
        super().__init__(num_inputs, num_outputs, bias=False)

    def reset_parameters(self) -> None:
        """Nothing."""


def empty_embedding(vocab_size: int, d_model: int) -> nn.Embedding:
    """A table (vocabulary, width), allocated only."""
    return nn.Embedding(vocab_size, d_model, _weight=torch.empty(vocab_size, d_model))
