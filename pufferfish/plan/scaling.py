"""What quality a training will reach: bits per byte as a function of model, data, context and batch.

    bpb = held-out difficulty (E + (A N^-alpha + B D^-beta + G / d) context) batch spelling composition

after Hoffmann et al., 2022, arXiv 2203.15556: N are the matrix parameters of the blocks and D the bytes trained on, both in millions; d is the width in units
of 128, through which every prediction has to pass. Repeated data counts less (Muennighoff et al., 2023, arXiv 2305.16264). The form is the literature's; the
constants E to G were fitted to runs of this code of 0.5 to 13 million tokens; the terms for batch, spelling, context, depth and composition were then set by
hand, and the whole was not fitted again (docs/LOG.md).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

IRREDUCIBLE = 0.35
A, ALPHA = 0.0742, 0.307
B, BETA = 1.261, 0.230
NARROW = 0.0761
SPELLING, SPELLING_VOCABULARY = 0.035, 4096  # a vocabulary holds words that a smaller one has to spell: exponent of its size, from the residuals of the fit
CONTEXT_GAIN, CONTEXT_TOKENS = 0.0155, 2.35e6  # a doubled context gains so much for each e-fold of tokens beyond these, and loses before
CONTEXT_LIMITS = (-0.03, 0.05)
# From three layers on, and after so many optimizer steps (fewer for wider models), training suddenly learns to look up what followed an earlier occurrence,
# and tokens late in the context become much cheaper than those early in it. 6.2 million tokens for 3 layers of 192 gave 1.03 bits per byte in 3,036 steps and
# 1.12 in 1,499, and 2 layers of 128 had not learned it after 6,140. Steps needed, width and context are guesses from four runs, and the one for the context
# is contradicted: on the pipeline's own split the half context gave 1.133 and the whole one 1.171 (docs/LOG.md). The weakest part of this law.
COMPOSITION_LAYERS, COMPOSITION_GAIN = 3, 0.11
COMPOSITION_STEPS, COMPOSITION_WIDTH, COMPOSITION_CONTEXT, COMPOSITION_SPREAD = 2200, 192, 256, 0.25
LONE_LAYER, LONE_LAYER_TOKENS = 0.03, 1e6  # a single layer cannot look up what followed an earlier occurrence; loss for each e-fold of tokens beyond these
BATCH_PENALTY = 0.04  # per squared e-fold away from the best batch
HELD_OUT = 1.08  # whole pipelines of 60 s, 3 m and 5 m ended 4, 13 and 15 % above the fit, which had seen another split of the text (docs/LOG.md)
SPREAD = 0.06  # of a forecast, one standard deviation of its logarithm; the same runs

REFERENCE_BZ2_BPB = 1.63  # what bzip2 makes of the text that the constants were fitted on
DIFFICULTY_EXPONENT = 0.8  # from bzip2's bits per byte to ours, fitted on two texts (docs/LOG.md)
REUSE = 15.4  # epochs after which repetition has lost its worth by a factor e


def difficulty(bz2_bpb: float) -> float:
    """How much harder than the reference a text is, judged by what a general compressor makes of it."""
    return float((bz2_bpb / REFERENCE_BZ2_BPB) ** DIFFICULTY_EXPONENT)


def best_tokens_per_step(tokens: float) -> float:
    """A batch for so many training tokens: 0.35 D^0.57, set by hand between runs of 1 to 6 million tokens here (docs/LOG.md) and the law 0.10 D^0.72 of larger
    runs, which asks for six times as much at a billion tokens. Untried above 13 million."""
    return float(0.35 * tokens**0.57)


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
    data = effective_bytes(tokens * bytes_per_token, text.unique_bytes) / 1e6
    reducible = A * (block_params / 1e6) ** -ALPHA + B * data**-BETA + NARROW * 128 / d_model
    gain = min(CONTEXT_LIMITS[1], max(CONTEXT_LIMITS[0], CONTEXT_GAIN * math.log(tokens / CONTEXT_TOKENS)))
    context = 1 - gain * math.log2(seq_len / 256)
    batch = 1 + BATCH_PENALTY * math.log(tokens_per_step / best_tokens_per_step(tokens)) ** 2
    spelling = (vocab_size / SPELLING_VOCABULARY) ** -SPELLING
    return float(
        text.difficulty
        * (IRREDUCIBLE + reducible * context)
        * batch
        * spelling
        * composition(num_layers, d_model, seq_len, tokens=tokens, num_steps=tokens / tokens_per_step)
    )


def composition(num_layers: int, d_model: int, seq_len: int, *, tokens: float, num_steps: float) -> float:
    """Factor on the loss for what layers can, or cannot, do together: see `COMPOSITION_GAIN` and `LONE_LAYER`."""
    if num_layers == 1:
        return 1 + LONE_LAYER * max(0.0, math.log(tokens / LONE_LAYER_TOKENS))
    if num_layers < COMPOSITION_LAYERS:
        return 1.0
    needed = COMPOSITION_STEPS * (COMPOSITION_WIDTH / d_model) ** 2 * max(1.0, COMPOSITION_CONTEXT / seq_len)
    past = math.log(num_steps / needed) / COMPOSITION_SPREAD
    return 1 - COMPOSITION_GAIN / (1 + math.exp(-max(-50.0, min(50.0, past))))


def interval(forecast: float) -> tuple[float, float]:
    """80 % interval of a forecast."""
    width = math.exp(1.2816 * SPREAD)
    return forecast / width, forecast * width
