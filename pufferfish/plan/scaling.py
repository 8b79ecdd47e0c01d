"""What quality a training will reach: bits per byte as a function of model, data, context and batch.

    bpb = E + A N^-alpha + B D^-beta      (Hoffmann et al., 2022, arXiv 2203.15556)

with N the matrix parameters of the blocks plus a share of the vocabulary head, D the bytes trained on. The form is the literature's; the constants are ours,
fitted to runs of this code (docs/LOG.md). Repeated data counts less (Muennighoff et al., 2023, arXiv 2305.16264).
"""

from __future__ import annotations

import math

# Fitted, see docs/LOG.md.
IRREDUCIBLE = 0.40
A, ALPHA = 6.0, 0.20
B, BETA = 120.0, 0.36
HEAD_SHARE = 0.3  # of the head's parameters that count as capacity
CONTEXT_GAIN = 0.012  # per doubling of the context, of the reducible part
BATCH_PENALTY = 0.05  # of the loss, per squared e-fold away from the best batch
SPREAD = 0.04  # of a forecast, one standard deviation of its logarithm

REUSE = 15.4  # epochs after which repetition has lost its worth by a factor e


def best_tokens_per_step(tokens: float) -> float:
    """The batch with the lowest loss for so many training tokens: 0.10 D^0.72, within a factor 1.8 from 10^6 to 10^10 tokens (docs/LOG.md)."""
    return float(0.10 * tokens**0.72)


def effective_bytes(num_bytes: float, unique_bytes: float) -> float:
    """Bytes of fresh text that are worth as much as `num_bytes` from a text of `unique_bytes`, read again and again."""
    if num_bytes <= unique_bytes:
        return num_bytes
    repeats = num_bytes / unique_bytes - 1
    return unique_bytes * (1 + REUSE * (1 - math.exp(-repeats / REUSE)))


def val_bpb(
    *, block_params: float, head_params: float, seq_len: int, tokens: float, bytes_per_token: float, unique_bytes: float, tokens_per_step: float
) -> float:
    """Forecast of validation bits per byte."""
    capacity = block_params + HEAD_SHARE * head_params
    data = effective_bytes(tokens * bytes_per_token, unique_bytes)
    reducible = A * capacity**-ALPHA + B * data**-BETA
    context = 1 - CONTEXT_GAIN * math.log2(seq_len / 256)
    distance = math.log(tokens_per_step / best_tokens_per_step(tokens))
    return float((IRREDUCIBLE + reducible * context) * (1 + BATCH_PENALTY * distance**2))


def interval(forecast: float) -> tuple[float, float]:
    """80 % interval of a forecast."""
    width = math.exp(1.2816 * SPREAD)
    return forecast / width, forecast * width
