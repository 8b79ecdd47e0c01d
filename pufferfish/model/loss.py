"""Cross-entropy of a vocabulary head, without holding the logits of more tokens than needed.

Shapes: M tokens, D width, V vocabulary.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

CHUNK_BYTES = 1 << 28  # logits held at a time: small models keep the plain product, large vocabularies stay within memory


def chunk_tokens(num_tokens: int, vocab_size: int) -> int:
    """Tokens whose float32 logits are held at a time."""
    return max(1, min(num_tokens, CHUNK_BYTES // (4 * vocab_size)))


class _ChunkedCrossEntropy(torch.autograd.Function):
    """Losses of all tokens, one chunk of logits at a time, with gradients computed on the way: (softmax - onehot) is formed while the logits
    are at hand, so that the backward pass needs no logits. Sums are float32 whatever the compute dtype (a bfloat16 sum is off by several per cent), and
    gradients are kept without the factor 1 / tokens, which would drown small ones in float16 before its loss scale lifts them.
    """

    @staticmethod
    def forward(ctx, hidden_MD: torch.Tensor, weight_VD: torch.Tensor, targets_M: torch.Tensor, chunk: int) -> torch.Tensor:
        total = torch.zeros((), dtype=torch.float32, device=hidden_MD.device)
        grad_hidden_MD = torch.empty_like(hidden_MD)
        grad_weight_VD = torch.zeros_like(weight_VD, dtype=torch.float32)
        for start in range(0, len(targets_M), chunk):
            hidden, targets = hidden_MD[start : start + chunk], targets_M[start : start + chunk]
            logits = (hidden @ weight_VD.t()).float()
            log_normalizer = logits.logsumexp(-1, keepdim=True)
            total += (log_normalizer - logits.gather(1, targets[:, None])).sum()
            gradient = logits.sub_(log_normalizer).exp_()
            gradient.scatter_add_(1, targets[:, None], gradient.new_full((len(targets), 1), -1.0))
            gradient = gradient.to(hidden.dtype)
            grad_hidden_MD[start : start + chunk] = gradient @ weight_VD
            grad_weight_VD += gradient.t() @ hidden
        ctx.save_for_backward(grad_hidden_MD, grad_weight_VD)
        ctx.weight_dtype = weight_VD.dtype
        return total / len(targets_M)

    @staticmethod
    def backward(ctx, gradient: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, None, None]:
        grad_hidden_MD, grad_weight_VD = ctx.saved_tensors
        scale = gradient / len(grad_hidden_MD)  # a float32 scalar: products with it are rounded once
        return grad_hidden_MD * scale, (grad_weight_VD * scale).to(ctx.weight_dtype), None, None


def mean_cross_entropy(hidden_MD: torch.Tensor, weight_VD: torch.Tensor, targets_M: torch.Tensor) -> torch.Tensor:
    """Mean loss in nats per token, float32 scalar, differentiable."""
    chunk = chunk_tokens(len(targets_M), len(weight_VD))
    if chunk >= len(targets_M):
        return F.cross_entropy((hidden_MD @ weight_VD.t()).float(), targets_M)
    return _ChunkedCrossEntropy.apply(hidden_MD, weight_VD, targets_M, chunk)


@torch.no_grad()
def token_cross_entropy(hidden_MD: torch.Tensor, weight_VD: torch.Tensor, targets_M: torch.Tensor) -> torch.Tensor:
    """Loss of each token in nats, (M,) float32, for evaluation."""
    chunk = chunk_tokens(len(targets_M), len(weight_VD))
    parts = [
        F.cross_entropy((hidden_MD[start : start + chunk] @ weight_VD.t()).float(), targets_M[start : start + chunk], reduction="none")
        for start in range(0, len(targets_M), chunk)
    ]
    return torch.cat(parts)
