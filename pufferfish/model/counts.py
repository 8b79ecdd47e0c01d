"""An embedding and a head that start from which token follows which, counted in the text, so that training need not discover it.

Training first learns how often each token is and what follows it, token by token; counting does that for a text in a moment. What is counted, the
logarithm of how much more often than usual one token follows another, is factorised (Levy and Goldberg, 2014, "Neural word embedding as implicit matrix
factorization"): half of the directions of an embedding get its strongest factors, on top of what is random there, and the head what maps embeddings to it. Only
initial values differ; the architecture stays stock. 1.6 % fewer bits per byte after half a million tokens, 0.7 % after two millions (docs/LOG.md).

Shapes: N tokens, V vocabulary, K the most frequent of it, D width, R factors, S factors and some more; or S stretches of L tokens.
"""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F

from pufferfish.model.transformer import Decoder

MOST_TOKENS, STRETCHES = 8_000_000, 1000  # of the text that are counted; of more, so many stretches from everywhere in it
MOST_ENTRIES = 4096  # of the vocabulary that are counted; of more, the most frequent
ROWS = 1024  # counted at a time
SMOOTHING = 5.0  # occurrences of each token that are made up, followed by what is usual
FACTORS, MOST_FACTORS = 0.5, 256  # of the width, and in all: in wider models they would take seconds
SPARE, ROUNDS = 16, 2  # more factors, for exactness (Halko et al., 2011, arXiv 0909.4061), and how often that is refined
COUNTED, SAID = 0.8, 0.3  # share of an embedding's energy, and of what the head says at first; 0.2 to 0.95 and 0 to 1 were tried (docs/LOG.md)
RIDGE = 1e-3


@torch.no_grad()
def plant_counts(model: Decoder, tokens_N: np.ndarray, *, embedding_std: float, generator: torch.Generator) -> None:
    """Overwrite embedding and head of a freshly initialised model on the CPU, but for the first component of embeddings, which is the same for all."""
    width = model.plan.d_model
    entries_K, counts_KK = count_pairs(tokens_N, model.plan.vocab_size)
    usual_K = (counts_KK.sum(0) + 1) / (counts_KK.sum() + len(entries_K))
    rows_K1 = counts_KK.sum(1, keepdim=True)
    surprise_KK = counts_KK.div_(usual_K).add_(SMOOTHING).div_(rows_K1 + SMOOTHING).log_()

    factors_KR = _factors(surprise_KK, usual_K, min(int(FACTORS * width), MOST_FACTORS, len(entries_K)), generator)
    directions_DR = torch.linalg.qr(torch.randn(width - 1, factors_KR.shape[1], generator=generator))[0]
    size = embedding_std * math.sqrt((width - 1) * COUNTED)
    embedding_KD = model.model.embed_tokens.weight[entries_K]
    embedding_KD[:, 1:] = math.sqrt(1 - COUNTED) * embedding_KD[:, 1:] + size * factors_KR @ directions_DR.t()
    model.model.embed_tokens.weight[entries_K] = embedding_KD

    hidden_KD = F.rms_norm(embedding_KD, (width,))
    weighted_DK = (hidden_KD * usual_K[:, None]).t()
    log_usual_K = usual_K.log() - usual_K.log().mean()
    wanted_DK = weighted_DK @ surprise_KK + weighted_DK.sum(1, keepdim=True) * log_usual_K
    said_KD = SAID * torch.linalg.solve(weighted_DK @ hidden_KD + RIDGE * torch.eye(width), wanted_DK).t()
    head_VD = model.lm_head.weight
    head_VD[:, 0] = SAID * log_usual_K.min() / hidden_KD[:, 0].mean()  # those that were not counted are as rare as the rarest
    head_VD[entries_K] = said_KD


def count_pairs(tokens_N: np.ndarray, vocab_size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The most frequent entries of the vocabulary, (K,), and how often each of them, by row, is followed by each, (K, K) float32."""
    stretches_SL = _stretches(tokens_N)
    entries_K = np.arange(vocab_size)
    if vocab_size > MOST_ENTRIES:
        entries_K = np.sort(np.argsort(-np.bincount(stretches_SL.ravel(), minlength=vocab_size), kind="stable")[:MOST_ENTRIES])
    number = len(entries_K)
    places_V = np.full(vocab_size, -1, dtype=np.int32)
    places_V[entries_K] = np.arange(number)
    first, second = places_V[stretches_SL[:, :-1].ravel()], places_V[stretches_SL[:, 1:].ravel()]
    keys = first * number + second
    keys = keys[(first >= 0) & (second >= 0)]
    del first, second
    counts_KK = torch.empty(number, number)
    for start in range(0, number, ROWS):
        rows = min(ROWS, number - start)
        own = keys[(keys >= start * number) & (keys < (start + rows) * number)] - start * number
        counts_KK[start : start + rows] = torch.from_numpy(np.bincount(own, minlength=rows * number).reshape(rows, number))
    return torch.from_numpy(entries_K), counts_KK


def _stretches(tokens_N: np.ndarray) -> np.ndarray:
    """All tokens in one row, or of a longer text stretches that lie evenly in it: a text may be sorted."""
    if len(tokens_N) <= MOST_TOKENS:
        return np.asarray(tokens_N)[None]
    length = MOST_TOKENS // STRETCHES
    return np.stack([tokens_N[start : start + length] for start in np.linspace(0, len(tokens_N) - length, STRETCHES, dtype=np.int64)])


def _factors(surprise_KK: torch.Tensor, usual_K: torch.Tensor, rank: int, generator: torch.Generator) -> torch.Tensor:
    """Left factors of the strongest part, (K, R), rows of a root mean square length of 1. Errors count by how often both tokens are met."""
    root_K1 = usual_K.sqrt()[:, None]

    def forward(right_KS: torch.Tensor) -> torch.Tensor:
        return root_K1 * (surprise_KK @ (root_K1 * right_KS))

    def backward(left_KS: torch.Tensor) -> torch.Tensor:
        return root_K1 * (surprise_KK.t() @ (root_K1 * left_KS))

    left_KS = forward(torch.randn(len(usual_K), min(rank + SPARE, len(usual_K)), generator=generator))
    for _ in range(ROUNDS):
        left_KS = forward(torch.linalg.qr(backward(torch.linalg.qr(left_KS)[0]))[0])
    basis_KS = torch.linalg.qr(left_KS)[0]
    rotation_SS, strength_S, _ = torch.linalg.svd(backward(basis_KS).t(), full_matrices=False)
    factors_KR = (basis_KS @ rotation_SS[:, :rank]) * strength_S[:rank].sqrt() / root_K1
    return factors_KR / factors_KR.square().sum(1).mean().sqrt().clamp_min(1e-12)
