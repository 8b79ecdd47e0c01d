"""The prices that the planner sees are those of the built modules."""

import itertools
import math
from dataclasses import fields

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from toys import model_plan

from pufferfish.model import attention as attention_module
from pufferfish.model.init import initialize
from pufferfish.model.price import Price, decoder_price
from pufferfish.model.transformer import Decoder
from pufferfish.train.precision import DTYPES, MasterWeights

BATCH = 5
SHAPES = {
    f"{'tied' if is_tied else 'untied'}, {heads[0]} and {heads[1]} heads, {'with' if has_qk_norm else 'without'} QK-norm": {
        "is_tied": is_tied, "num_heads": heads[0], "num_kv_heads": heads[1], "has_qk_norm": has_qk_norm,
    }
    for is_tied, heads, has_qk_norm in itertools.product((False, True), ((6, 2), (3, 3)), (False, True))
} | {
    f"{lookup} lookup, {num_kv_heads} key/value heads": {"lookup": lookup, "num_heads": 6, "num_kv_heads": num_kv_heads}
    for lookup, num_kv_heads in itertools.product(("bigram", "value"), (2, 6))
}  # fmt: skip
each_shape = pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())


@each_shape
def test_the_number_of_parameters_is_exact(shape):
    plan = model_plan(**shape)
    built = Decoder(plan).to("meta")
    price = decoder_price(plan, attention="explicit")
    assert price.num_params == sum(parameter.numel() for parameter in built.parameters())
    head = plan.vocab_size * plan.d_model
    in_blocks = sum(p.numel() for name, p in built.named_parameters() if p.ndim == 2 and ".layers." in name)
    assert price.matmul_params == in_blocks + head


def flops_in_place(sum_shape, left_shape, right_shape, **more):
    """Of batches of products that are added to what is there, which the counter of torch overlooks."""
    return 2 * math.prod(left_shape) * right_shape[-1]


@pytest.mark.parametrize("seq_len", [20, 300, 1100])
@each_shape
def test_flops_are_those_of_the_matrix_products(shape, seq_len):
    plan = model_plan(**shape, seq_len=seq_len)
    model = Decoder(plan, attention="explicit")
    initialize(model, seed=0)
    text = torch.randint(0, plan.vocab_size, (BATCH, plan.seq_len + 1))
    with FlopCounterMode(display=False, custom_mapping={torch.ops.aten.baddbmm_: flops_in_place}) as counter:
        model.loss(text[:, :-1], text[:, 1:]).backward()
    assert counter.get_total_flops() == pytest.approx(decoder_price(plan, attention="explicit").flops_per_token * BATCH * plan.seq_len, rel=1e-9)


@pytest.mark.parametrize(("seq_len", "share"), [(64, 1.0), (128, 1.0), (256, 0.75), (512, 0.625), (1024, 0.625), (2048, 0.5625)])
def test_explicit_attention_skips_the_future_a_block_at_a_time(seq_len, share):
    plan = model_plan(seq_len=seq_len)
    explicit, fused = (decoder_price(plan, attention=attention).flops_per_token for attention in ("explicit", "sdpa"))
    scores = 12 * plan.num_layers * plan.num_heads * plan.head_dim * plan.seq_len
    assert (explicit - fused) / scores == pytest.approx(share - 0.5)


@each_shape
def test_kernels_that_skip_the_future_are_charged_half_of_the_scores(shape):
    plan = model_plan(**shape)
    explicit, fused = (decoder_price(plan, attention=attention).flops_per_token for attention in ("explicit", "sdpa"))
    scores = 12 * plan.num_layers * plan.num_heads * plan.head_dim * plan.seq_len
    assert explicit - fused == pytest.approx(scores / 2)


def kept_bytes(model, text):
    """What the forward pass keeps for the backward pass, each block of memory once, parameters left out."""
    blocks, held = {}, []
    parameters = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}

    def note(tensor):
        held.append(tensor)  # alive, so that no address is used twice
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in parameters:
            blocks[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        loss = model.loss(text[:, :-1], text[:, 1:])
    assert loss.isfinite()
    return sum(blocks.values())


@pytest.fixture
def repeated_groups(monkeypatch):
    """Kernels differ in whether they take grouped keys and values as they are; the price is that of those that do not."""
    monkeypatch.setattr(attention_module, "takes_groups", lambda queries: False)


def test_activations_are_those_that_are_kept(repeated_groups):
    for shape, attention, dtype in itertools.product(SHAPES.values(), ("explicit", "sdpa"), ("float32", "bfloat16")):
        plan = model_plan(**shape, seq_len=160)
        model = Decoder(plan, attention=attention)
        initialize(model, seed=0)
        MasterWeights(model, DTYPES[dtype])
        text = torch.randint(0, plan.vocab_size, (BATCH, plan.seq_len + 1))
        element_bytes = 4 if dtype == "float32" else 2
        # Weights that are joined for one product are kept once, whatever the batch: they are no activations.
        width, kv_width = plan.num_heads * plan.head_dim, plan.num_kv_heads * plan.head_dim
        joined = plan.num_layers * plan.d_model * (width + 2 * kv_width + 2 * plan.d_ff) * element_bytes
        copied = element_bytes if plan.is_tied and dtype != "float32" else 0
        head = plan.vocab_size * plan.d_model * (4 + copied)  # its gradient is there after the forward pass
        kept = (kept_bytes(model, text) - joined - head) / (BATCH * plan.seq_len)
        price = decoder_price(plan, attention=attention)
        priced = price.activation_elements_per_token * element_bytes + price.float32_elements_per_token * 4
        assert priced == pytest.approx(kept, rel=0.05), (shape, attention, dtype)


@pytest.mark.parametrize("num_kv_heads", [2, 6])
@pytest.mark.parametrize("lookup", ["bigram", "value"])
@pytest.mark.parametrize("attention", ["explicit", "sdpa"])
def test_the_price_of_a_table_is_what_it_adds_to_parameters_and_activations(repeated_groups, lookup, attention, num_kv_heads):
    counted, priced = [], []
    text = torch.randint(0, 97, (BATCH, 21))
    for each in ("none", lookup):
        plan = model_plan(lookup=each, num_kv_heads=num_kv_heads)
        model, price = Decoder(plan, attention=attention), decoder_price(plan, attention=attention)
        initialize(model, seed=0)
        counted.append((sum(parameter.numel() for parameter in model.parameters()), kept_bytes(model, text) / (4 * BATCH * 20)))
        priced.append((price.num_params, price.activation_elements_per_token + price.float32_elements_per_token))
    assert [after - before for before, after in zip(*priced, strict=True)] == pytest.approx([after - before for before, after in zip(*counted, strict=True)])


def test_the_activations_of_a_block_are_what_one_more_layer_keeps():
    price, deeper = (decoder_price(model_plan(num_layers=num_layers), attention="explicit") for num_layers in (3, 4))
    assert price.block_elements_per_token == deeper.block_elements_per_token == deeper.activation_elements_per_token - price.activation_elements_per_token


def test_prices_add_up_and_multiply_in_every_part():
    price = Price(*(2.0 * (number + 1) for number in range(len(fields(Price)))))
    assert price + price == price * 2
    assert vars(price * 3) == {name: 3 * value for name, value in vars(price).items()}
