"""How hard a text is, before any model has learned from it: bits per byte of a small code that counts and copies.

Like a language model it learns from one side of the split and is measured on the other: an interpolated 5-gram, mixed with copying what followed the last
occurrence of the tokens before, as far back as a context reaches. What a general compressor makes of a sample says far less (docs/LOG.md).
N training tokens, M validation tokens.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pufferfish.data.ngram import KneserNey

ORDER = 5
WINDOW, SHORTER_WINDOW = 256, 64  # tokens that are looked back for something to copy
LONGEST_MATCH = 3  # tokens that must be the same for the next to be copied: one, two or three
ROUNDS = 12  # of expectation and maximisation: the shares of copying change by less than 1 % in the last
PART = 3  # the smaller of two training texts is so much smaller
STRETCH = 1024  # tokens that stay together in it
STEEPEST = -0.5  # of small texts, where it is mostly chance
REFERENCE_BYTES = 1e6  # of training text


@dataclass(frozen=True)
class Hardness:
    """What counting and copying make of a text."""

    bpb: float  # bits per byte of the validation text after `REFERENCE_BYTES` of training text
    slope: float  # d ln bpb / d ln (training bytes), below zero where more text helps
    lookback: float  # ln of how many times as many bits it takes where it looks back less far: `SHORTER_WINDOW`


def hardness(train_N: np.ndarray, validation_M: np.ndarray, *, vocab_size: int, train_bytes: int, validation_bytes: int) -> Hardness:
    """Measured after all of the training text and after a part of it, and carried to the reference size by the power law through both.

    A text that is too short for that is as hard as single tokens of the vocabulary.
    """
    if len(train_N) < PART * ORDER:
        return Hardness(math.log2(vocab_size) * len(validation_M) / validation_bytes, slope=0.0, lookback=0.0)
    stretch = min(STRETCH, len(train_N) // PART)
    part_N = train_N[: len(train_N) // (PART * stretch) * PART * stretch].reshape(-1, PART, stretch)[:, 0].ravel()
    (part_bits,), (short_bits, long_bits) = (
        bits(each_N, validation_M, vocab_size, windows=windows) for each_N, windows in ((part_N, [WINDOW]), (train_N, [SHORTER_WINDOW, WINDOW]))
    )
    part_bpb, bpb = part_bits / validation_bytes, long_bits / validation_bytes
    slope = min(0.0, max(STEEPEST, math.log(bpb / part_bpb) / math.log(len(train_N) / len(part_N))))
    return Hardness(bpb * (REFERENCE_BYTES / train_bytes) ** slope, slope, lookback=max(0.0, math.log(short_bits / long_bits)))


def bits(train_N: np.ndarray, validation_M: np.ndarray, vocab_size: int, *, windows: Sequence[int]) -> list[float]:
    """What the code takes for the validation text, looking back so far."""
    counted_M, tokens_M = np.exp(-KneserNey(train_N, vocab_size=vocab_size, order=ORDER).nats(validation_M)), validation_M.astype(np.int64)
    return [max(1.0, float(-np.log2(copying(counted_M, tokens_M, window)).sum())) for window in windows]


def copying(probabilities_M: np.ndarray, tokens_M: np.ndarray, window: int = WINDOW) -> np.ndarray:
    """Probabilities (M,) of the tokens, where a share, the best for this text, goes to what followed the last occurrence of the one, two and three before."""
    contexts_M, base = np.zeros(len(tokens_M), np.int64), int(tokens_M.max()) + 2
    for length in range(1, min(LONGEST_MATCH, len(tokens_M) - 1) + 1):
        before_M = np.concatenate([np.full(length, -1), tokens_M[:-length]])
        contexts_M = contexts_M * base + before_M + 1
        last_M = last_occurrences(contexts_M, window)
        has_last_M = last_M >= 0
        if has_last_M.any():
            is_right_M = has_last_M & (tokens_M[last_M] == tokens_M)
            share = _best_share(probabilities_M[has_last_M], is_right_M[has_last_M])
            probabilities_M = np.where(has_last_M, (1 - share) * probabilities_M + share * is_right_M, probabilities_M)
    return probabilities_M


def last_occurrences(keys_M: np.ndarray, window: int) -> np.ndarray:
    """Where (M,) each key was last, -1 where it was not among the `window` before."""
    order = np.argsort(keys_M, kind="stable")
    last_M = np.full(len(keys_M), -1)
    is_same = keys_M[order[1:]] == keys_M[order[:-1]]
    last_M[order[1:][is_same]] = order[:-1][is_same]
    return np.where(np.arange(len(keys_M)) - last_M <= window, last_M, -1)


def _best_share(probabilities: np.ndarray, is_right: np.ndarray) -> float:
    """The weight of copying that makes the text most likely (expectation-maximisation for a mixture of two)."""
    share = 0.3
    for _ in range(ROUNDS):
        share = float(np.where(is_right, share / (share + (1 - share) * probabilities), 0.0).mean())
    return share
