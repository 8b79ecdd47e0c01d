"""An accelerator trains as the CPU does: the same losses, the same bits once more, and no more memory than it may take.

Everything here runs on the CPU, too, so that a machine without an accelerator sees these tests at work: `pytest -m gpu` has what needs one.
"""

import math

import numpy as np
import pytest
import torch
from toys import model_plan, train_plan

from pufferfish.model.attention import ATTEND
from pufferfish.model.transformer import Decoder
from pufferfish.train import memory
from pufferfish.train.measure import measure_steps
from pufferfish.train.step import Trainer

ON_GPU = pytest.param("cuda", marks=[pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no NVIDIA device is usable here")])
compiles = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # PyTorch's own, of what its compiler imports
on_each_device = pytest.mark.parametrize("device", ["cpu", ON_GPU])
MODEL = {"d_model": 128, "num_heads": 2, "num_kv_heads": 1, "head_dim": 64, "d_ff": 256, "seq_len": 64, "vocab_size": 515}  # a head that fused kernels take
CLOSE = {"float32": 1e-4, "bfloat16": 2e-2, "float16": 5e-3}  # of losses, relative: the order of sums, and rounding


def trainer_on(device, **changes):
    plan = {"device": device, "memory_bytes": 8 * 10**9, "attention": "sdpa", "tokens_per_step": 6 * MODEL["seq_len"], **changes}
    return Trainer(model_plan(**MODEL), train_plan(**plan))


def batches(step=0):
    """Two micro-batches of three sequences, (B, T + 1)."""
    random = np.random.default_rng(step)
    return [random.integers(0, MODEL["vocab_size"], (3, MODEL["seq_len"] + 1)) for _ in range(2)]


def losses_of(trainer, num_steps=4):
    return [float(trainer.step(batches(step), lr_share=1.0)[0]) for step in range(num_steps)]


@on_each_device
@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
@pytest.mark.parametrize("dtype", CLOSE)
def test_each_dtype_and_optimizer_trains_as_float32_on_the_cpu(device, dtype, optimizer):
    expected = losses_of(trainer_on("cpu", optimizer=optimizer))
    assert losses_of(trainer_on(device, dtype=dtype, optimizer=optimizer)) == pytest.approx(expected, rel=CLOSE[dtype])


@on_each_device
@pytest.mark.parametrize("attention", ["explicit", "sdpa"])
def test_kinds_of_attention_agree(device, attention):
    torch.manual_seed(3)
    plan, tokens = model_plan(**MODEL), torch.from_numpy(batches()[0][:, :-1])
    exact, other = Decoder(plan, attention="explicit"), Decoder(plan, attention=attention)
    for weight in exact.parameters():
        torch.nn.init.normal_(weight, std=0.1)
    other.load_state_dict(exact.state_dict())
    torch.testing.assert_close(other.to(device)(tokens.to(device)).cpu(), exact(tokens), atol=1e-3, rtol=1e-3)


@pytest.mark.gpu
def test_flash_attn_agrees_with_the_fused_attention_of_pytorch():
    flash_attn = pytest.importorskip("flash_attn")
    assert flash_attn
    torch.manual_seed(4)
    inputs = [torch.randn(2, 48, heads, 64, device="cuda", dtype=torch.bfloat16, requires_grad=True) for heads in (4, 2, 2)]
    found, wanted = (torch.autograd.grad(ATTEND[kernel](*inputs).square().sum(), inputs) for kernel in ("flash_attn", "sdpa"))
    torch.testing.assert_close(found, wanted, atol=5e-2, rtol=5e-2)


@on_each_device
def test_a_teacher_changes_the_gradients_as_it_does_on_the_cpu(device):
    taught, expected = (trainer_on(name, teacher_share=0.5, input_noise=0.0) for name in (device, "cpu"))
    for trainer in (taught, expected):
        trainer.teach(trainer_on(trainer.plan.device, seed=77).weights.masters)
    assert losses_of(taught) == pytest.approx(losses_of(expected), rel=CLOSE["float32"])
    windows = batches(9)[0]
    found, wanted = (trainer.mean_loss(windows[:, :-1], windows[:, 1:]) for trainer in (taught, expected))
    assert found == pytest.approx(wanted, rel=CLOSE["float32"])


@on_each_device
@pytest.mark.parametrize("dtype", CLOSE)
def test_a_training_goes_on_from_its_state(device, dtype):
    one, other = trainer_on(device, dtype=dtype), trainer_on(device, dtype=dtype, seed=77)
    losses_of(one, 2)
    other.load_state({name: tensor.clone() for name, tensor in one.state().items()})
    assert losses_of(other, 2) == pytest.approx(losses_of(one, 2), rel=1e-4)


@on_each_device
def test_checkpointed_activations_change_no_loss(device):
    plain, checkpointed = (trainer_on(device, is_checkpointed=is_checkpointed) for is_checkpointed in (False, True))
    assert losses_of(checkpointed) == pytest.approx(losses_of(plain), rel=CLOSE["float32"])


@on_each_device
def test_exported_weights_are_float32_on_the_cpu(device):
    weights = trainer_on(device, dtype="bfloat16").exported_weights()
    assert {(tensor.device.type, tensor.dtype) for tensor in weights.values()} == {("cpu", torch.float32)}


@on_each_device
def test_measured_steps_say_what_they_take(device):
    found = measure_steps(model_plan(**MODEL), train_plan(device=device, attention="sdpa", memory_bytes=8 * 10**9, tokens_per_step=384), limit_s=0.05)
    assert found.fits
    assert 0 < found.step_s <= found.first_step_s
    assert memory.CONTEXT_BYTES / 20 < found.peak_memory_bytes < 8 * 10**9


@pytest.mark.slow
@compiles
@on_each_device
def test_a_compiled_step_is_the_eager_one(device):
    expected = losses_of(trainer_on(device))
    assert losses_of(trainer_on(device, is_compiled=True)) == pytest.approx(expected, rel=1e-3)


@pytest.mark.slow
@compiles
@on_each_device
def test_a_compiled_step_with_a_teacher_is_the_eager_one(device):
    expected = losses_of(trainer_on(device, teacher_share=0.5))
    assert losses_of(trainer_on(device, teacher_share=0.5, is_compiled=True)) == pytest.approx(expected, rel=1e-3)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no NVIDIA device is usable here")
def test_a_device_that_is_held_to_some_memory_gives_no_more():
    whole = torch.cuda.get_device_properties(0).total_memory
    held_bytes = memory.CONTEXT_BYTES + 10**9
    memory.hold_to(held_bytes)
    try:
        with pytest.raises(torch.OutOfMemoryError) as found:
            torch.empty(math.ceil(1.5e9), dtype=torch.uint8, device="cuda")
        assert memory.is_out_of_memory(found.value)
    finally:
        memory.hold_to(whole)
