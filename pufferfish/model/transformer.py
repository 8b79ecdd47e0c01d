"""The decoder: a stock Qwen3 (with QK-norm) or Llama (without), by their names and numbers, and beside them a table to look up, where the plan has one.

Shapes: B batch, T time, D width, V vocabulary, K key/value heads, H head width, M tokens (B T).
"""

from __future__ import annotations

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from pufferfish.model.attention import Attention
from pufferfish.model.bigram import BigramEmbedding
from pufferfish.model.cache import KeyValueCache, LayerCache
from pufferfish.model.linear import Linear, empty_embedding
from pufferfish.model.loss import Lesson, mean_cross_entropy, token_cross_entropy
from pufferfish.model.mlp import SwiGLU
from pufferfish.model.norm import RMSNorm
from pufferfish.model.rope import rope_tables
from pufferfish.model.value_embedding import ValueEmbedding
from pufferfish.schema.plan import ModelPlan


class Block(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x))."""

    def __init__(self, plan: ModelPlan, *, attention: str) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(plan.d_model, plan.norm_eps, is_trained=False)
        self.self_attn = Attention(plan, attention=attention)
        self.post_attention_layernorm = RMSNorm(plan.d_model, plan.norm_eps, is_trained=False)
        self.mlp = SwiGLU(plan)

    def forward(self, x_BTD: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, added_BTKH: torch.Tensor | None = None) -> torch.Tensor:
        """(B, T, D) in, (B, T, D) out; `added_BTKH` joins the values."""
        x_BTD = x_BTD + self.self_attn(self.input_layernorm(x_BTD), cos, sin, added_BTKH)
        return x_BTD + self.mlp(self.post_attention_layernorm(x_BTD))

    def decode(self, x_BTD: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, cache: LayerCache, added_BTKH: torch.Tensor | None = None) -> torch.Tensor:
        """`forward` for the positions after the cached ones."""
        x_BTD = x_BTD + self.self_attn.decode(self.input_layernorm(x_BTD), cos, sin, cache, added_BTKH)
        return x_BTD + self.mlp(self.post_attention_layernorm(x_BTD))


class Stack(nn.Module):
    """Embedding, blocks and final norm; a module of its own because stock architectures name it `model`."""

    def __init__(self, plan: ModelPlan, *, attention: str, is_checkpointed: bool) -> None:
        super().__init__()
        self.lookup, self.is_checkpointed = plan.lookup, is_checkpointed
        self.embed_tokens = empty_embedding(plan.vocab_size, plan.d_model)
        if plan.lookup == "bigram":
            self.bigram_embedding = BigramEmbedding(plan)
        if plan.lookup == "value":
            self.value_embedding = ValueEmbedding(plan)
        self.layers = nn.ModuleList(Block(plan, attention=attention) for _ in range(plan.num_layers))
        self.norm = RMSNorm(plan.d_model, plan.norm_eps, is_trained=False)
        cos, sin = rope_tables(plan.seq_len, plan.head_dim, plan.rope_theta)
        self.register_buffer("cos", cos, persistent=False)
        self.register_buffer("sin", sin, persistent=False)

    def forward(self, tokens_BT: torch.Tensor) -> torch.Tensor:
        """Token ids in, normalised hidden states (B, T, D) out, in the dtype of the blocks."""
        x_BTD = self.embed(tokens_BT)
        cos, sin = (table[: tokens_BT.shape[1]].to(x_BTD.dtype) for table in (self.cos, self.sin))
        for layer, added_BTKH in zip(self.layers, self.added_values(tokens_BT), strict=True):
            is_recomputed = self.is_checkpointed and self.training
            x_BTD = checkpoint(layer, x_BTD, cos, sin, added_BTKH, use_reentrant=False) if is_recomputed else layer(x_BTD, cos, sin, added_BTKH)
        return self.norm(x_BTD)

    @property
    def dtype(self) -> torch.dtype:
        """Of the blocks."""
        return self.layers[0].mlp.up_proj.weight.dtype

    def embed(self, tokens_BT: torch.Tensor, before_B: torch.Tensor | None = None) -> torch.Tensor:
        """Embeddings are looked up in their own dtype, so that gradients of frequent tokens add up in float32, and go on in that of the blocks.

        `before_B` are the tokens before the first ones, None at the beginning.
        """
        x_BTD = self.embed_tokens(tokens_BT)
        if self.lookup == "bigram":
            x_BTD = x_BTD + self.bigram_embedding(tokens_BT, before_B)
        return x_BTD.to(self.dtype)

    def added_values(self, tokens_BT: torch.Tensor) -> list[torch.Tensor | None]:
        """What joins the values of each layer, (B, T, K, H): the rows of the tokens in the last, nothing before."""
        last = self.value_embedding(tokens_BT).to(self.dtype) if self.lookup == "value" else None
        return [None] * (len(self.layers) - 1) + [last]


class Decoder(nn.Module):
    """A language model. `forward` and `losses` see whole sequences; `decode` goes on from a cache."""

    def __init__(self, plan: ModelPlan, *, attention: str = "sdpa", is_checkpointed: bool = False) -> None:
        super().__init__()
        self.plan = plan
        self.model = Stack(plan, attention=attention, is_checkpointed=is_checkpointed)
        if not plan.is_tied:
            self.lm_head = Linear(plan.d_model, plan.vocab_size)

    @property
    def head_weight(self) -> torch.Tensor:
        """(V, D) in the dtype of the blocks; the embedding where it is tied."""
        if self.plan.is_tied:
            return self.model.embed_tokens.weight.to(self.model.dtype)
        return self.lm_head.weight

    def forward(self, tokens_BT: torch.Tensor) -> torch.Tensor:
        """Logits (B, T, V) float32 for the token after each position."""
        return (self.model(tokens_BT) @ self.head_weight.t()).float()

    def loss(self, tokens_BT: torch.Tensor, targets_BT: torch.Tensor, lesson: Lesson | None = None) -> torch.Tensor:
        """Mean loss in nats per token, a differentiable float32 scalar; what a lesson changes stands at `mean_cross_entropy`."""
        return mean_cross_entropy(self.model(tokens_BT).flatten(0, 1), self.head_weight, targets_BT.flatten(), lesson)

    @torch.no_grad()
    def losses(self, tokens_BT: torch.Tensor, targets_BT: torch.Tensor) -> torch.Tensor:
        """Loss of each token in nats, (B, T) float32."""
        return token_cross_entropy(self.model(tokens_BT).flatten(0, 1), self.head_weight, targets_BT.flatten()).view_as(targets_BT)

    @torch.no_grad()
    def decode(self, tokens_BT: torch.Tensor, cache: KeyValueCache) -> torch.Tensor:
        """Logits (B, V) float32 for the token after the last of these, which follow the cached ones. Raises ValueError past the trained context."""
        end = cache.length + tokens_BT.shape[1]
        if end > self.plan.seq_len:
            raise ValueError(f"the model sees {self.plan.seq_len} positions, not {end}")
        x_BTD = self.model.embed(tokens_BT, cache.last_token_B)
        cos, sin = (table[cache.length : end].to(x_BTD.dtype) for table in (self.model.cos, self.model.sin))
        for layer, layer_cache, added_BTKH in zip(self.model.layers, cache.layers, self.model.added_values(tokens_BT), strict=True):
            x_BTD = layer.decode(x_BTD, cos, sin, layer_cache, added_BTKH)
        cache.last_token_B = tokens_BT[:, -1]
        return (self.model.norm(x_BTD[:, -1]) @ self.head_weight.t()).float()
