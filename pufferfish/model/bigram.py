"""A table of pairs: the row that a token and the one before it hash to joins the token's embedding.

What often follows two tokens is looked up, not computed (the hashed pairs of modded-nanogpt, https://github.com/KellerJordan/modded-nanogpt). Beside the
planted induction circuit, whose first head looks at the previous token too, it saves only 0.1 % of bits per byte after 1.2 million tokens (docs/LOG.md), so it
is taken only where it is pinned. The rows start at zero.

Shapes: B batch, T time, V vocabulary, D width.
"""

from __future__ import annotations

import torch
from torch import nn

from pufferfish.model.price import BIGRAM_ROWS_PER_TOKEN
from pufferfish.schema.plan import ModelPlan

CURRENT, PREVIOUS = 36313, 27191  # factors of the hash


class BigramEmbedding(nn.Embedding):
    """(5 V, D), allocated only; the last row is for a token that nothing is known to precede."""

    def __init__(self, plan: ModelPlan) -> None:
        num_rows = BIGRAM_ROWS_PER_TOKEN * plan.vocab_size
        super().__init__(num_rows, plan.d_model, _weight=torch.empty(num_rows, plan.d_model))

    def forward(self, tokens_BT: torch.Tensor, before_B: torch.Tensor | None) -> torch.Tensor:
        """(B, T, D) float32; `before_B` are the tokens before the first ones, None where there are none."""
        return super().forward(bigram_rows(tokens_BT, before_B, num_rows=self.num_embeddings))


def bigram_rows(tokens_BT: torch.Tensor, before_B: torch.Tensor | None, *, num_rows: int) -> torch.Tensor:
    """Which row each position looks up, (B, T) int64."""
    if before_B is not None:
        tokens_BT = torch.cat((before_B[:, None], tokens_BT), dim=1)
    rows_BT = (CURRENT * tokens_BT[:, 1:] ^ PREVIOUS * tokens_BT[:, :-1]) % (num_rows - 1)
    return rows_BT if before_B is not None else nn.functional.pad(rows_BT, (1, 0), value=num_rows - 1)
