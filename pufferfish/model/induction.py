"""Two attention heads that start as an induction circuit, so that training need not discover it.

The best guess that a context can give is what followed an earlier occurrence of the current token. Looking that up takes two layers: a head of the first copies
the previous token into each position, a head of a later one finds the position whose previous token is the current one (Olsson et al., 2022, arXiv
2209.11895). From random weights small models discover this late and all at once, or not before their time is up. Started like this they look back from the
first step: 10 to 13 % fewer bits per byte after one to two million tokens (docs/LOG.md), for nothing. Only initial values differ; the architecture stays stock.

Blocks have no biases, so a head that looks at positions alone needs something in its input that is the same everywhere: one component of every embedding starts
as a large constant, and the residual stream carries it to all layers.

Shapes: V vocabulary, D width, R carried directions, H head width.
"""

from __future__ import annotations

import math

import torch

from pufferfish.model.attention import Attention
from pufferfish.model.transformer import Decoder
from pufferfish.schema.plan import ModelPlan

CONSTANT = 2.0  # the constant component over the root mean square of all others together; 0.25, 0.5, 1, 3 were tried and are worse (docs/LOG.md)
NUM_FREQUENCIES = 4  # the fastest rotary pairs tell neighbours apart; 3 and 8 did the same
POSITION_GAIN = 1.5  # of queries and keys in these pairs, which makes the head look at one position instead of three; 1 and 2 are slightly worse
MATCH = 6.0  # score of a token with itself where no QK-norm sets it


@torch.no_grad()
def plant_induction(model: Decoder, *, embedding_std: float, generator: torch.Generator) -> None:
    """Overwrite parts of freshly initialised weights: the constant component, the previous-token head of the first layer, the matching heads of later ones."""
    plan = model.plan
    model.model.embed_tokens.weight[:, 0] = CONSTANT * embedding_std * math.sqrt(plan.d_model)
    attentions = [layer.self_attn for layer in model.model.layers]
    num_carried = min(plan.head_dim, plan.d_model - 1)
    read_DR, write_DR = (torch.linalg.qr(torch.randn(plan.d_model - 1, num_carried, generator=generator))[0] for _ in range(2))
    _look_at_previous(attentions[0], plan)
    _carry(attentions[0], plan, read_DR, write_DR * embedding_std * math.hypot(1, CONSTANT))
    for attention in attentions[1:]:
        _match(attention, plan, read_DR, write_DR)


def _look_at_previous(attention: Attention, plan: ModelPlan) -> None:
    """Each query head of the first key head looks back by one more position, whatever the tokens are: with keys at angle 0 and queries at -lag x frequency,
    the rotated angles agree where the positions differ by the lag."""
    height, half = plan.head_dim, plan.head_dim // 2
    pairs = range(min(NUM_FREQUENCIES, half))
    component = CONSTANT * math.sqrt(plan.d_model) / math.hypot(1, CONSTANT)  # of the normalised input
    size = POSITION_GAIN * math.sqrt(height / len(pairs)) / component  # scores as high as QK-norm and gains make them
    key, queries = attention.k_proj.weight[:height], attention.q_proj.weight.view(plan.num_heads, height, plan.d_model)
    key.zero_()
    for lag, query in enumerate(queries[: plan.num_heads // plan.num_kv_heads], start=1):
        query.zero_()
        for pair in pairs:
            angle = lag * plan.rope_theta ** (-pair / half)
            key[pair, 0] = size
            query[pair, 0], query[pair + half, 0] = size * math.cos(angle), -size * math.sin(angle)
    if plan.has_qk_norm:
        for gain in (attention.q_norm.weight, attention.k_norm.weight):
            gain.view(2, half)[:, : len(pairs)] = POSITION_GAIN


def _carry(attention: Attention, plan: ModelPlan, read_DR: torch.Tensor, write_DR: torch.Tensor) -> None:
    """The first head adds what it sees of the previous token to directions of its own, as large as an embedding."""
    num_carried = read_DR.shape[1]
    attention.v_proj.weight[: plan.head_dim].zero_()
    attention.v_proj.weight[:num_carried, 1:] = read_DR.t()
    attention.o_proj.weight[1:, :num_carried] = write_DR


def _match(attention: Attention, plan: ModelPlan, read_DR: torch.Tensor, write_DR: torch.Tensor) -> None:
    """The first head compares the current token with what was carried into each position, in the slow rotary pairs, which turn little over the context."""
    height, half = plan.head_dim, plan.head_dim // 2
    slow = [*range(half // 2, half), *range(half + half // 2, height)][: read_DR.shape[1]]
    size = 1.0 if plan.has_qk_norm else math.sqrt(MATCH * math.sqrt(height) / len(slow)) * math.hypot(1, CONSTANT)
    for projection, directions_DR in ((attention.q_proj, read_DR), (attention.k_proj, write_DR)):
        projection.weight[:height].zero_()
        projection.weight[slow, 1:] = size * directions_DR[:, : len(slow)].t()
