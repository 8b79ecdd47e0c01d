"""Initial weights, in one table; an induction circuit is planted into them (`induction.py`), and what can be counted in the text (`counts.py`).

Output projections start at zero, so that every block starts as the identity (but for the planted head), and so do tables beside the stock architecture; the
head starts small, so that without a text the first loss is ln V.
Matrices get a standard deviation of 1 / sqrt(fan in), the embedding one that blocks can outgrow. A tied embedding is a head, too: the logit of a token after
itself starts at its width times the standard deviation (a first loss of 51 nats at width 128 with the usual embedding).
"""

from __future__ import annotations

import numpy as np
import torch

from pufferfish.model.counts import plant_counts
from pufferfish.model.induction import plant_induction
from pufferfish.model.transformer import Decoder

EMBEDDING_STD = 0.5
HEAD_STD = 0.001
TIED_LOGIT = 0.5  # of a token after itself, at the start


def initialize(model: Decoder, *, seed: int, tokens_N: np.ndarray | None = None) -> None:
    """Fill all parameters, in order of their names, from one seeded generator on the CPU: the same on every device. `tokens_N` is the text that will be learned
    from; an embedding that is tied to the head, as both at once, starts without it."""
    generator = torch.Generator().manual_seed(seed)
    embedding_std = TIED_LOGIT / model.plan.d_model if model.plan.is_tied else EMBEDDING_STD
    with torch.no_grad():
        for name, parameter in sorted(model.named_parameters()):
            parameter.copy_(_values(name, parameter.shape, generator, embedding_std=embedding_std))
    plant_induction(model, embedding_std=embedding_std, generator=generator)
    if tokens_N is not None and not model.plan.is_tied:
        plant_counts(model, tokens_N, embedding_std=embedding_std, generator=generator)


def _values(name: str, shape: torch.Size, generator: torch.Generator, *, embedding_std: float) -> torch.Tensor:
    kind = name.split(".")[-2]
    match kind:
        case "embed_tokens":
            return torch.randn(shape, generator=generator) * embedding_std
        case "lm_head":
            return torch.randn(shape, generator=generator) * HEAD_STD
        case "o_proj" | "down_proj" | "value_embedding" | "bigram_embedding":
            return torch.zeros(shape)
        case "q_norm" | "k_norm":
            return torch.ones(shape)
        case "q_proj" | "k_proj" | "v_proj" | "gate_proj" | "up_proj":
            return torch.randn(shape, generator=generator) * shape[1] ** -0.5
    raise AssertionError(f"no initial value for {name}")
