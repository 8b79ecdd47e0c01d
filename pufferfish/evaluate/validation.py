"""Bits per byte over the whole validation text.

T tokens of a window, B windows of a batch.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch

from pufferfish.model.transformer import Decoder

BATCH_TOKENS = 16_384  # enough to fill the matrix products, small enough for caches


@dataclass(frozen=True)
class Validation:
    """How well a text was predicted."""

    total_nats: float
    num_tokens: int  # predicted
    num_bytes: int

    @property
    def bpb(self) -> float:
        """Bits per byte of raw text: comparable between vocabularies."""
        return self.total_nats / (math.log(2) * self.num_bytes)

    @property
    def loss_nats(self) -> float:
        """Mean per token."""
        return self.total_nats / self.num_tokens

    @property
    def perplexity(self) -> float:
        """exp(loss), per token."""
        return math.exp(self.loss_nats)


def evaluate_validation(model: Decoder, tokens: np.ndarray, *, num_bytes: int, batch_tokens: int = BATCH_TOKENS) -> Validation:
    """Predict every token but the very first once, in windows of `seq_len` that do not overlap; the last one may be shorter.

    Sums are float64.
    """
    seq_len = model.plan.seq_len
    device = model.head_weight.device
    tokens_N = torch.from_numpy(np.asarray(tokens, dtype=np.int64))
    num_predicted = len(tokens_N) - 1
    num_whole = num_predicted // seq_len
    inputs_WT = tokens_N[: num_whole * seq_len].view(-1, seq_len)
    targets_WT = tokens_N[1 : num_whole * seq_len + 1].view(-1, seq_len)
    windows = max(1, batch_tokens // seq_len)
    batches = list(zip(inputs_WT.split(windows), targets_WT.split(windows), strict=True)) if num_whole else []
    if num_predicted % seq_len:
        batches.append((tokens_N[None, num_whole * seq_len : -1], tokens_N[None, num_whole * seq_len + 1 :]))
    total_nats = torch.zeros((), dtype=torch.float64, device=device)
    for inputs_BT, targets_BT in batches:
        total_nats += model.losses(inputs_BT.to(device), targets_BT.to(device)).double().sum()
    return Validation(total_nats=float(total_nats), num_tokens=num_predicted, num_bytes=num_bytes)
