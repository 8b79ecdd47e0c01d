"""Causal self-attention with grouped key/value heads (Ainslie et al., 2023, arXiv 2305.13245) and optional QK-norm (Henry et al., 2020, arXiv 2010.04245).

Shapes: B batch, T time, D width of the residual stream, N query heads, K key/value heads, H head width, S cached time.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from pufferfish.base.errors import UserError
from pufferfish.model.cache import LayerCache
from pufferfish.model.linear import Linear
from pufferfish.model.norm import RMSNorm, normalize
from pufferfish.model.price import query_blocks
from pufferfish.model.rope import rotate
from pufferfish.schema.plan import ModelPlan

FLASH_MAJOR = 8  # compute capability of Ampere


class Attention(nn.Module):
    """The projections keep the names of stock architectures; queries, keys and values are computed in one product."""

    def __init__(self, plan: ModelPlan, *, attention: str) -> None:
        super().__init__()
        self.plan, self.attention = plan, attention
        kv_dim = plan.num_kv_heads * plan.head_dim
        self.q_proj = Linear(plan.d_model, plan.num_heads * plan.head_dim)
        self.k_proj = Linear(plan.d_model, kv_dim)
        self.v_proj = Linear(plan.d_model, kv_dim)
        self.o_proj = Linear(plan.num_heads * plan.head_dim, plan.d_model)
        if plan.has_qk_norm:
            self.q_norm = RMSNorm(plan.head_dim, plan.norm_eps, is_trained=True)
            self.k_norm = RMSNorm(plan.head_dim, plan.norm_eps, is_trained=True)

    def forward(self, x_BTD: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, added_BTKH: torch.Tensor | None = None) -> torch.Tensor:
        """(B, T, D) in, (B, T, D) out; position t sees positions 0..t. `added_BTKH` joins the values."""
        q_BTNH, k_BTKH, v_BTKH = self._project(x_BTD, cos, sin, added_BTKH)
        mixed_BTNH = ATTEND[self.attention](q_BTNH, k_BTKH, v_BTKH)
        return self.o_proj(mixed_BTNH.flatten(2))

    def decode(self, x_BTD: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, cache: LayerCache, added_BTKH: torch.Tensor | None = None) -> torch.Tensor:
        """`forward` for the next T positions after the cached ones; appends their keys and values to the cache."""
        q_BTNH, k_BTKH, v_BTKH = self._project(x_BTD, cos, sin, added_BTKH)
        k_BSKH, v_BSKH = cache.append(k_BTKH, v_BTKH)
        num_new, num_seen = x_BTD.shape[1], k_BSKH.shape[1]
        is_visible = torch.ones(num_new, num_seen, dtype=torch.bool, device=x_BTD.device).tril(num_seen - num_new)
        q, k, v = (x.transpose(1, 2) for x in (q_BTNH, k_BSKH, v_BSKH))
        mixed_BNTH = F.scaled_dot_product_attention(q, k, v, attn_mask=is_visible, enable_gqa=True)
        return self.o_proj(mixed_BNTH.transpose(1, 2).flatten(2))

    def _project(
        self, x_BTD: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, added_BTKH: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        plan = self.plan
        weight = torch.cat((self.q_proj.weight, self.k_proj.weight, self.v_proj.weight))
        heads = F.linear(x_BTD, weight).unflatten(-1, (-1, plan.head_dim))
        qk, v_BTKH = heads.split((plan.num_heads + plan.num_kv_heads, plan.num_kv_heads), dim=2)
        if plan.has_qk_norm:
            gain_NH = torch.cat((self.q_norm.weight.expand(plan.num_heads, -1), self.k_norm.weight.expand(plan.num_kv_heads, -1)))
            qk = normalize(qk, plan.norm_eps) * gain_NH
        q_BTNH, k_BTKH = rotate(qk, cos, sin).split((plan.num_heads, plan.num_kv_heads), dim=2)
        return q_BTNH, k_BTKH, v_BTKH if added_BTKH is None else v_BTKH + added_BTKH


def attend_explicitly(q_BTNH: torch.Tensor, k_BTKH: torch.Tensor, v_BTKH: torch.Tensor) -> torch.Tensor:
    """Scores, softmax and mixture as plain operations, one block of queries after the other: on CPUs 2 to 5 times as fast as the fused kernel."""
    batch, seq_len, num_heads, head_dim = q_BTNH.shape
    repeats = num_heads // k_BTKH.shape[2]
    if repeats > 1:
        k_BTKH, v_BTKH = (x.repeat_interleave(repeats, dim=2) for x in (k_BTKH, v_BTKH))
    q, k, v = (x.transpose(1, 2).reshape(-1, seq_len, head_dim) for x in (q_BTNH, k_BTKH, v_BTKH))
    return _Mixture.apply(q, k, v).view(batch, num_heads, seq_len, head_dim).transpose(1, 2)


class _Mixture(torch.autograd.Function):
    """Causal attention over (B N, T, H). A block of queries meets the keys up to its own end only, so that little of the future is computed, or kept."""

    @staticmethod
    def forward(ctx, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        blocks, q = query_blocks(q.shape[1]), q * q.shape[2] ** -0.5
        first, end = blocks[0]
        future = torch.full((end - first, end - first), float("-inf"), dtype=q.dtype, device=q.device).triu(1)
        probabilities, mixed = [], []
        for first, end in blocks:
            scores = q[:, first:end] @ k[:, :end].transpose(1, 2)
            scores[:, :, first:] += future[: end - first, : end - first]
            probabilities.append(torch.softmax(scores, dim=-1))
            mixed.append(probabilities[-1] @ v[:, :end])
        ctx.save_for_backward(q, k, v, *probabilities)
        return torch.cat(mixed, dim=1)

    @staticmethod
    def backward(ctx, gradient: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        q, k, v, *probabilities = ctx.saved_tensors
        dq, dk, dv = [], torch.zeros_like(k), torch.zeros_like(v)
        for (first, end), weights in zip(query_blocks(q.shape[1]), probabilities, strict=True):
            mixed = gradient[:, first:end]
            scores = torch._softmax_backward_data(mixed @ v[:, :end].transpose(1, 2), weights, -1, weights.dtype)
            dv[:, :end].baddbmm_(weights.transpose(1, 2), mixed)
            dk[:, :end].baddbmm_(scores.transpose(1, 2), q[:, first:end])
            dq.append(scores @ k[:, :end])
        return torch.cat(dq, dim=1).mul_(q.shape[2] ** -0.5), dk, dv


def attend_sdpa(q_BTNH: torch.Tensor, k_BTKH: torch.Tensor, v_BTKH: torch.Tensor) -> torch.Tensor:
    """PyTorch's fused attention, which picks the kernel for the device."""
    repeats = q_BTNH.shape[2] // k_BTKH.shape[2]
    if repeats > 1 and not takes_groups(q_BTNH):
        k_BTKH, v_BTKH = (x.repeat_interleave(repeats, dim=2) for x in (k_BTKH, v_BTKH))
    q, k, v = (x.transpose(1, 2) for x in (q_BTNH, k_BTKH, v_BTKH))
    is_grouped = q.shape[1] != k.shape[1]
    return F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=is_grouped).transpose(1, 2)


def takes_groups(q_BTNH: torch.Tensor) -> bool:
    """Whether there is a fused kernel whose heads share keys and values. On CUDA that is flash attention, for half precision on Ampere and newer; the
    memory-efficient one does not, and where neither serves PyTorch computes all scores, which are B x N x T x T (torch 2.10 to 2.13, sdp_utils.cpp).
    """
    if q_BTNH.device.type != "cuda":
        return True
    return q_BTNH.dtype != torch.float32 and torch.cuda.get_device_properties(q_BTNH.device).major >= FLASH_MAJOR


def attend_flash(q_BTNH: torch.Tensor, k_BTKH: torch.Tensor, v_BTKH: torch.Tensor) -> torch.Tensor:
    """The flash-attn package, for NVIDIA Ampere and newer in half precision. Raises UserError where it is not installed, or for another PyTorch."""
    try:
        from flash_attn import flash_attn_func  # an optional extra
    except ImportError as error:
        raise UserError("flash-attn cannot be imported", saw=str(error), fix="`pip install flash-attn`, or set `train.attention: auto`") from None
    return flash_attn_func(q_BTNH, k_BTKH, v_BTKH, causal=True)


ATTEND = {"explicit": attend_explicitly, "sdpa": attend_sdpa, "flash_attn": attend_flash}
