"""What quality a training will reach: bits per byte as a function of model, data, context, vocabulary and batch.

    bpb = difficulty (E + (A N^-alpha + B D^-beta + C V / tokens) context) batch depth

after Hoffmann et al., 2022, arXiv 2203.15556: N are the matrix parameters of the blocks plus those of the head with a weight of their own, D the bytes trained
on, both in millions. The last term are the rows of the vocabulary that were seen too seldom. The exponents are the literature's, the other constants are fitted
to runs of this code (docs/LOG.md). Repeated data counts less (Muennighoff et al., 2023, arXiv 2305.16264).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

# Fitted to 21 runs of 0.5 to 4 million tokens, 0.2 to 3 million parameters, vocabularies of 1,024 to 8,192: 2.2 % root mean square (docs/LOG.md).
IRREDUCIBLE = 0.50
A, ALPHA = 0.3175, 0.35
B, BETA = 1.025, 0.35
HEAD_WEIGHT = 1.57
SELDOM = 5.5
CONTEXT_GAIN, CONTEXT_TOKENS = 0.0155, 2.35e6  # a doubled context gains so much for each e-fold of tokens beyond these, and loses before
CONTEXT_LIMITS = (-0.03, 0.05)
LONE_LAYER, LONE_LAYER_TOKENS = 0.03, 1e6  # a single layer cannot look up what followed an earlier occurrence; loss for each e-fold of tokens beyond these
BATCH_PENALTY = 0.05  # per squared e-fold away from the best batch
SPREAD = 0.04  # of a forecast, one standard deviation of its logarithm

REFERENCE_BZ2_BPB = 1.63  # what bzip2 makes of the text that the constants were fitted on
DIFFICULTY_EXPONENT = 0.8  # from bzip2's bits per byte to ours, fitted on two texts (docs/LOG.md)
REUSE = 15.4  # epochs after which repetition has lost its worth by a factor e


def difficulty(bz2_bpb: float) -> float:
    """How much harder than the reference a text is, judged by what a general compressor makes of it."""
    return float((bz2_bpb / REFERENCE_BZ2_BPB) ** DIFFICULTY_EXPONENT)


def best_tokens_per_step(tokens: float) -> float:
    """The batch with the lowest loss for so many training tokens: 0.10 D^0.72, within a factor 1.8 from 10^6 to 10^10 tokens (docs/LOG.md)."""
    return float(0.10 * tokens**0.72)


def effective_bytes(num_bytes: float, unique_bytes: float) -> float:
    """Bytes of fresh text that are worth as much as `num_bytes` from a text of `unique_bytes`, read again and again."""
    if num_bytes <= unique_bytes:
        return num_bytes
    repeats = num_bytes / unique_bytes - 1
    return unique_bytes * (1 + REUSE * (1 - math.exp(-repeats / REUSE)))


@dataclass(frozen=True)
class Text:
    """What the law needs to know of a text."""

    unique_bytes: float  # to learn from
    difficulty: float


def val_bpb(
    *,
    num_layers: int,
    block_params: float,
    vocab_size: int,
    d_model: int,
    seq_len: int,
    tokens: float,
    bytes_per_token: float,
    text: Text,
    tokens_per_step: float,
) -> float:
    """Forecast of validation bits per byte."""
    capacity = (block_params + HEAD_WEIGHT * vocab_size * d_model) / 1e6
    data = effective_bytes(tokens * bytes_per_token, text.unique_bytes) / 1e6
    reducible = A * capacity**-ALPHA + B * data**-BETA + SELDOM * vocab_size / tokens
    gain = min(CONTEXT_LIMITS[1], max(CONTEXT_LIMITS[0], CONTEXT_GAIN * math.log(tokens / CONTEXT_TOKENS)))
    context = 1 - gain * math.log2(seq_len / 256)
    batch = 1 + BATCH_PENALTY * math.log(tokens_per_step / best_tokens_per_step(tokens)) ** 2
    depth = 1 + (LONE_LAYER * max(0.0, math.log(tokens / LONE_LAYER_TOKENS)) if num_layers == 1 else 0.0)
    return float(text.difficulty * (IRREDUCIBLE + reducible * context) * batch * depth)


def interval(forecast: float) -> tuple[float, float]:
    """80 % interval of a forecast."""
    width = math.exp(1.2816 * SPREAD)
    return forecast / width, forecast * width
