"""A table of values: each token's row joins what the last layer's attention hands on about that token.

What is to be known of single tokens needs no computing, so it is looked up, and the blocks are left to what does (the value embeddings of modded-nanogpt,
https://github.com/KellerJordan/modded-nanogpt, there in several layers). It saves 2.7 % of bits per byte after 1.2 million tokens (docs/LOG.md). The rows
start at zero.

Shapes: B batch, T time, V vocabulary, K key/value heads, H head width.
"""

from __future__ import annotations

import torch
from torch import nn

from pufferfish.schema.plan import ModelPlan


class ValueEmbedding(nn.Embedding):
    """(V, K H), allocated only."""

    def __init__(self, plan: ModelPlan) -> None:
        self.head_dim = plan.head_dim
        width = plan.num_kv_heads * plan.head_dim
        super().__init__(plan.vocab_size, width, _weight=torch.empty(plan.vocab_size, width))

    def forward(self, tokens_BT: torch.Tensor) -> torch.Tensor:
        """Token ids in, (B, T, K, H) float32 out."""
        return super().forward(tokens_BT).unflatten(-1, (-1, self.head_dim))
