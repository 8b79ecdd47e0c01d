"""Cross-entropy of a vocabulary head, a chunk of tokens at a time: the logits of all of them are never held, and on a CPU a chunk stays in its cache.

Shapes: M tokens, D width, V vocabulary.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F

CHUNK_BYTES = 1 << 28  # logits in float32 that are held at a time
CACHED_TOKENS = 512  # of a chunk on a CPU: 15 to 20 % quicker than all tokens at once, and with a large vocabulary quicker than 256 (docs/LOG.md)
FLOAT16_TOKENS = 4096  # of a chunk in float16, whose largest number is 65,504: a sum over many tokens of a frequent target would be infinite at any loss scale
# Of a target, so that one token does not make the loss of all infinite: the smallest normal float32, as what is smaller may be taken for zero.
LEAST_PROBABILITY = torch.finfo(torch.float32).tiny


class Lesson(NamedTuple):
    """What a teacher makes of a batch, and how much of each target that becomes."""

    hidden_MD: torch.Tensor
    head_VD: torch.Tensor
    share: float


def chunk_tokens(num_tokens: int, vocab_size: int, device: str, dtype: torch.dtype) -> int:
    """Tokens whose logits are held at a time. The compiler would copy the work of each chunk into one long program: there only memory counts."""
    is_cached = device == "cpu" and not torch.compiler.is_compiling()
    most = min(CACHED_TOKENS if is_cached else num_tokens, FLOAT16_TOKENS if dtype == torch.float16 else num_tokens)
    return max(1, min(num_tokens, CHUNK_BYTES // (4 * vocab_size), most))


class _ChunkedCrossEntropy(torch.autograd.Function):
    """The mean loss, with gradients computed on the way: (softmax - onehot) is formed while a chunk's probabilities are at hand, so that the backward pass
    needs no logits.

    Probabilities are rounded to the dtype of the model, but for float16, in which rare ones would vanish. For a target that is nearly certain, which rounds
    to 1, they are taken from what is left for all others, so that small losses and their gradients keep their precision. Sums are float32 whatever the dtype (a
    bfloat16 sum is off by several per cent), and gradients are kept without the factor 1 / tokens, which would drown small ones in float16 before its loss
    scale lifts them. Where there is a teacher, its probabilities take this share of each target, which is also taken from what is left for all others; the
    value is the loss of the text's own targets all the same.
    """

    @staticmethod
    def forward(
        ctx,
        hidden_MD: torch.Tensor,
        weight_VD: torch.Tensor,
        targets_M: torch.Tensor,
        chunk: int,
        teacher_hidden_MD: torch.Tensor | None,
        teacher_weight_VD: torch.Tensor | None,
        share: float,
    ) -> torch.Tensor:
        total = torch.zeros((), dtype=torch.float32, device=hidden_MD.device)
        grad_hidden_MD = torch.empty_like(hidden_MD)
        grad_weight_VD = torch.zeros_like(weight_VD, dtype=torch.float32)
        wide = torch.float32 if hidden_MD.dtype == torch.float16 else None
        for start in range(0, len(targets_M), chunk):
            hidden_CD, targets_C1 = hidden_MD[start : start + chunk], targets_M[start : start + chunk, None]
            probability_CV = torch.softmax(hidden_CD @ weight_VD.t(), dim=-1, dtype=wide)
            target_C1 = probability_CV.gather(1, targets_C1)
            others_C1 = probability_CV.scatter_(1, targets_C1, 0.0).sum(-1, keepdim=True)
            total -= torch.where(target_C1 > 0.5, torch.log1p(-others_C1.float()), torch.log(target_C1.float().clamp_min(LEAST_PROBABILITY))).sum()
            gradient_CV = probability_CV.scatter_(1, targets_C1, -others_C1).to(hidden_MD.dtype)
            if teacher_hidden_MD is not None and teacher_weight_VD is not None:
                taught_CV = torch.softmax(teacher_hidden_MD[start : start + chunk] @ teacher_weight_VD.t(), dim=-1, dtype=wide)
                taught_others_C1 = taught_CV.scatter_(1, targets_C1, 0.0).sum(-1, keepdim=True)
                gradient_CV.sub_(taught_CV.to(hidden_MD.dtype), alpha=share)
                gradient_CV.scatter_add_(1, targets_C1, (share * taught_others_C1).to(hidden_MD.dtype))
            torch.mm(gradient_CV, weight_VD, out=grad_hidden_MD[start : start + chunk])
            grad_weight_VD += gradient_CV.t() @ hidden_CD
        ctx.save_for_backward(grad_hidden_MD, grad_weight_VD)
        ctx.weight_dtype = weight_VD.dtype
        return total / len(targets_M)

    @staticmethod
    def backward(ctx, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        grad_hidden_MD, grad_weight_VD = ctx.saved_tensors
        scale = gradient / len(grad_hidden_MD)  # a float32 scalar: products with it are rounded once
        return grad_hidden_MD * scale, (grad_weight_VD * scale).to(ctx.weight_dtype), None, None, None, None, None


def mean_cross_entropy(hidden_MD: torch.Tensor, weight_VD: torch.Tensor, targets_M: torch.Tensor, lesson: Lesson | None = None) -> torch.Tensor:
    """Mean loss in nats per token, float32 scalar, differentiable. After a lesson the gradients are those of targets that are its share of the teacher's
    probabilities, and the text's own for the rest (Hinton et al., 2015, arXiv 1503.02531)."""
    chunk = chunk_tokens(len(targets_M), len(weight_VD), hidden_MD.device.type, hidden_MD.dtype)
    return _ChunkedCrossEntropy.apply(hidden_MD, weight_VD, targets_M, chunk, *(lesson or (None, None, 0.0)))


@torch.no_grad()
def token_cross_entropy(hidden_MD: torch.Tensor, weight_VD: torch.Tensor, targets_M: torch.Tensor) -> torch.Tensor:
    """Loss of each token in nats, (M,) float32, for evaluation."""
    chunk = chunk_tokens(len(targets_M), len(weight_VD), hidden_MD.device.type, hidden_MD.dtype)
    parts = [
        F.cross_entropy((hidden_MD[start : start + chunk] @ weight_VD.t()).float(), targets_M[start : start + chunk], reduction="none")
        for start in range(0, len(targets_M), chunk)
    ]
    return torch.cat(parts)
