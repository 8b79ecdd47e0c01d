"""The induction circuit that is planted into initial weights: it looks back by one, and finds what followed an earlier occurrence."""

import pytest
import torch
from toys import model_plan

from pufferfish.model.init import initialize
from pufferfish.model.rope import rope_tables
from pufferfish.model.transformer import Decoder

SHAPES = {
    "plain": {"num_heads": 2, "num_kv_heads": 2, "head_dim": 64},
    "grouped heads": {"num_heads": 4, "num_kv_heads": 2, "head_dim": 32},
    "one head": {"num_heads": 1, "num_kv_heads": 1, "head_dim": 64, "d_model": 64},
    "tied": {"num_heads": 2, "num_kv_heads": 2, "head_dim": 64, "is_tied": True},
    "without QK-norm": {"num_heads": 2, "num_kv_heads": 2, "head_dim": 64, "has_qk_norm": False},
}
each_shape = pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())


def initialized(shape, *, seed=0):
    model = Decoder(model_plan(**{"d_model": 128, "vocab_size": 611, "seq_len": 40, "rope_theta": 1e4, **shape}))
    initialize(model, seed=seed)
    return model


@torch.no_grad()
def attention_weights(model, tokens_BT, *, layer):
    """(B, N, T, T) of one layer, from plain formulas."""
    plan = model.plan
    cos, sin = rope_tables(tokens_BT.shape[1], plan.head_dim, plan.rope_theta)
    x_BTD = model.model.embed(tokens_BT)
    for before in model.model.layers[:layer]:
        x_BTD = before(x_BTD, cos, sin)
    block = model.model.layers[layer]
    queries, keys, _ = block.self_attn._project(block.input_layernorm(x_BTD), cos, sin)
    keys = keys.repeat_interleave(plan.num_heads // plan.num_kv_heads, dim=2)
    scores = torch.einsum("btnh,bsnh->bnts", queries, keys) * plan.head_dim**-0.5
    future = torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1)
    return scores.masked_fill(future, float("-inf")).softmax(-1)


@each_shape
def test_the_first_heads_look_back_by_one_and_more_whatever_the_tokens_are(shape):
    model = initialized(shape)
    tokens = torch.randint(0, 611, (3, 40), generator=torch.Generator().manual_seed(4))
    weights = attention_weights(model, tokens, layer=0)
    for lag in range(1, model.plan.num_heads // model.plan.num_kv_heads + 1):
        assert weights[:, lag - 1].diagonal(-lag, -2, -1)[..., 8:].min() > 0.8


@each_shape
@pytest.mark.parametrize("layer", [1, 2])
def test_a_later_head_finds_what_followed_the_earlier_occurrence(shape, layer):
    model = initialized(shape)
    tokens = torch.randperm(611, generator=torch.Generator().manual_seed(4))[:120].view(6, 20).repeat(1, 2)  # each token twice, 20 positions apart
    weights = attention_weights(model, tokens, layer=layer)[:, 0]
    found = weights.diagonal(-19, -2, -1)[:, 1:]
    assert found.mean() > 6 / 30, "of about 30 positions, the one after the earlier occurrence gets at least six times its share"


def test_a_model_of_a_single_layer_looks_back():
    weights = attention_weights(initialized({"num_layers": 1, **SHAPES["plain"]}), torch.arange(40)[None], layer=0)
    assert weights[:, 0].diagonal(-1, -2, -1)[..., 8:].min() > 0.8


@each_shape
def test_other_heads_start_at_random(shape):
    one, other = (initialized(shape, seed=seed).state_dict() for seed in (0, 1))
    name = "model.layers.1.mlp.up_proj.weight"
    assert not torch.equal(one[name], other[name])
    values = "model.layers.2.self_attn.v_proj.weight"
    assert not torch.equal(one[values], other[values])
