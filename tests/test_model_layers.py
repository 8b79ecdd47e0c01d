"""Each layer equals a slow reference written from its paper, in value and in gradient."""

import math
import sys
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from toys import model_plan

from pufferfish.base.errors import UserError
from pufferfish.model import attention
from pufferfish.model import loss as loss_module
from pufferfish.model.attention import ATTEND
from pufferfish.model.loss import chunk_tokens, mean_cross_entropy, token_cross_entropy
from pufferfish.model.mlp import SwiGLU
from pufferfish.model.norm import RMSNorm, normalize
from pufferfish.model.rope import rope_tables, rotate


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def random(*shape, dtype=torch.float32, scale=1.0):
    return (torch.randn(shape, dtype=torch.float64) * scale).to(dtype)


# --- norm


def slow_norm(x, eps):
    rows = [row / math.sqrt(float((row * row).mean()) + eps) for row in x.double().reshape(-1, x.shape[-1])]
    return torch.stack(rows).view(x.shape)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5), (torch.bfloat16, 2e-2)])
@pytest.mark.parametrize("scale", [1e-3, 1.0, 300.0])
def test_the_norm_divides_by_the_root_mean_square(dtype, tolerance, scale):
    x = random(3, 5, 14, dtype=dtype, scale=scale)
    found = normalize(x, 1e-5)
    assert found.dtype == dtype
    torch.testing.assert_close(found.double(), slow_norm(x, 1e-5), atol=0, rtol=tolerance)


def test_the_gradient_of_the_norm_is_right():
    x = random(3, 5, 14, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: normalize(x, 0.03), (x,))


def test_a_gain_is_trained_only_where_no_product_follows():
    assert [name for name, _ in RMSNorm(7, 1e-5, is_trained=True).named_parameters()] == ["weight"]
    fixed = RMSNorm(7, 1e-5, is_trained=False)
    assert not list(fixed.parameters())
    assert "weight" in fixed.state_dict()


# --- rope


def slow_rope(x, theta):
    """Pairs (i, i + H/2) as complex numbers, turned by t * theta^(-2 i / H)."""
    turned = x.double().clone()
    half = x.shape[-1] // 2
    for t in range(x.shape[1]):
        for i in range(half):
            angle = t * theta ** (-2 * i / x.shape[-1])
            pair = torch.complex(x[:, t, :, i].double(), x[:, t, :, i + half].double()) * complex(math.cos(angle), math.sin(angle))
            turned[:, t, :, i], turned[:, t, :, i + half] = pair.real, pair.imag
    return turned


def test_rope_turns_each_pair_by_its_angle():
    x = random(2, 9, 3, 10)
    cos, sin = rope_tables(9, 10, 700.0)
    torch.testing.assert_close(rotate(x, cos, sin).double(), slow_rope(x, 700.0), atol=2e-6, rtol=0)


def test_the_gradient_of_rope_is_right():
    cos, sin = (table.double() for table in rope_tables(5, 6, 700.0))
    x = random(2, 5, 3, 6, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: rotate(x, cos, sin), (x,))


def test_scores_after_rope_depend_on_the_distance_alone():
    q, k = random(1, 1, 1, 12).expand(1, 30, 1, 12), random(1, 1, 1, 12).expand(1, 30, 1, 12)
    cos, sin = rope_tables(30, 12, 700.0)
    scores = rotate(q, cos, sin)[0, :, 0] @ rotate(k, cos, sin)[0, :, 0].T
    for distance in (0, 4, 11):
        diagonal = scores.diagonal(distance)
        torch.testing.assert_close(diagonal, diagonal[:1].expand_as(diagonal), atol=1e-4, rtol=0)


# --- attention


def slow_attention(q, k, v):
    batch, seq_len, num_heads, head_dim = q.shape
    mixed = torch.zeros(q.shape, dtype=torch.float64)
    for b in range(batch):
        for n in range(num_heads):
            shared = n * k.shape[2] // num_heads
            for t in range(seq_len):
                scores = [float(q[b, t, n].double() @ k[b, s, shared].double()) / math.sqrt(head_dim) for s in range(t + 1)]
                weights = [math.exp(score - max(scores)) for score in scores]
                mixed[b, t, n] = sum(w / sum(weights) * v[b, s, shared].double() for s, w in enumerate(weights))
    return mixed


KERNELS = ["explicit", "sdpa"]  # flash_attn needs a device
HEADS = [(6, 2), (3, 3), (4, 1), (1, 1)]


@pytest.mark.parametrize("heads", HEADS)
@pytest.mark.parametrize("kernel", KERNELS)
def test_attention_equals_the_formula(kernel, heads):
    q, k, v = random(2, 7, heads[0], 10), random(2, 7, heads[1], 10), random(2, 7, heads[1], 10)
    torch.testing.assert_close(ATTEND[kernel](q, k, v).double(), slow_attention(q, k, v), atol=2e-6, rtol=0)


@pytest.mark.parametrize("seq_len", [1, 13, 256, 300, 1100])  # explicit attention takes 128 or 256 queries at a time
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("heads", HEADS)
def test_all_attention_kernels_agree_in_value_and_gradient(heads, dtype, seq_len):
    inputs = [random(2, seq_len, count, 8, dtype=dtype) for count in (heads[0], heads[1], heads[1])]
    weights = random(2, seq_len, heads[0], 8, dtype=dtype)
    results = {}
    for kernel in KERNELS:
        leaves = [x.clone().requires_grad_() for x in inputs]
        mixed = ATTEND[kernel](*leaves)
        (mixed * weights).sum().backward()
        results[kernel] = [mixed.detach(), *(x.grad for x in leaves)]
    tolerance = 1e-5 if dtype == torch.float32 else 5e-2
    for one, other in zip(results["explicit"], results["sdpa"], strict=True):
        torch.testing.assert_close(one, other, atol=tolerance, rtol=tolerance)


def test_flash_attn_that_cannot_be_imported_is_told_with_the_way_to_go_on(monkeypatch):
    monkeypatch.setitem(sys.modules, "flash_attn", None)
    with pytest.raises(UserError) as error:
        ATTEND["flash_attn"](*(random(1, 3, 1, 8) for _ in range(3)))
    assert "train.attention: auto" in error.value.fix


@pytest.mark.parametrize("heads", HEADS)
def test_keys_and_values_are_repeated_where_no_fused_kernel_takes_groups(monkeypatch, heads):
    q, k, v = random(2, 13, heads[0], 8), random(2, 13, heads[1], 8), random(2, 13, heads[1], 8)
    seen, right = [], F.scaled_dot_product_attention
    monkeypatch.setattr(
        attention.F, "scaled_dot_product_attention", lambda q, k, v, **more: seen.append((k.shape, more["enable_gqa"])) or right(q, k, v, **more)
    )
    grouped = attention.attend_sdpa(q, k, v)
    monkeypatch.setattr(attention, "takes_groups", lambda queries: False)
    torch.testing.assert_close(attention.attend_sdpa(q, k, v), grouped, atol=1e-6, rtol=0)
    assert seen == [((2, heads[1], 13, 8), heads[0] > heads[1]), ((2, heads[0], 13, 8), False)]


@pytest.mark.parametrize(
    ("device", "dtype", "capability", "expected"),
    [
        ("cpu", torch.float32, None, True),
        ("cuda", torch.float32, 9, False),
        ("cuda", torch.float16, 7, False),
        ("cuda", torch.float16, 8, True),
        ("cuda", torch.bfloat16, 9, True),
    ],
)
def test_on_cuda_only_flash_attention_takes_groups(monkeypatch, device, dtype, capability, expected):
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(major=capability))
    assert attention.takes_groups(SimpleNamespace(device=torch.device(device), dtype=dtype)) == expected


# --- feed-forward


def test_swiglu_equals_the_formula():
    layer = SwiGLU(model_plan())
    for parameter in layer.parameters():
        parameter.data = random(*parameter.shape, scale=0.2)
    x = random(2, 5, 40)
    gate, up = x.double() @ layer.gate_proj.weight.double().T, x.double() @ layer.up_proj.weight.double().T
    expected = (gate / (1 + torch.exp(-gate)) * up) @ layer.down_proj.weight.double().T
    torch.testing.assert_close(layer(x).double(), expected, atol=1e-5, rtol=1e-5)


# --- loss


def exact_loss(hidden, weight, targets):
    """Double precision, one token at a time."""
    total = 0.0
    for row, target in zip(hidden.double(), targets, strict=True):
        logits = (weight.double() @ row).tolist()
        top = max(logits)
        total += top + math.log(sum(math.exp(logit - top) for logit in logits)) - logits[target]
    return total / len(targets)


def loss_inputs(dtype, num_tokens=53, width=12, vocab_size=61):
    hidden, weight = random(num_tokens, width, dtype=dtype).requires_grad_(), random(vocab_size, width, dtype=dtype).requires_grad_()
    return hidden, weight, torch.randint(0, vocab_size, (num_tokens,))


@pytest.fixture(params=[1, 7, 50])
def in_chunks(request, monkeypatch):
    """Let only so many tokens' logits be held at a time; 53 are a multiple of none."""
    monkeypatch.setattr(loss_module, "CHUNK_BYTES", 4 * 61 * request.param)
    assert chunk_tokens(53, 61, "cpu", torch.float32) == request.param


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.bfloat16, 2e-3), (torch.float16, 3e-4)])
def test_the_loss_in_chunks_is_the_exact_one(in_chunks, dtype, tolerance):
    hidden, weight, targets = loss_inputs(dtype)
    loss = mean_cross_entropy(hidden, weight, targets)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(exact_loss(hidden, weight, targets), rel=tolerance)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.bfloat16, 1e-2), (torch.float16, 1.5e-3)])
@pytest.mark.parametrize("factor", [1.0, 0.31])
def test_the_gradients_in_chunks_are_the_exact_ones(in_chunks, dtype, tolerance, factor):
    hidden, weight, targets = loss_inputs(dtype)
    (mean_cross_entropy(hidden, weight, targets) * factor).backward()
    exact_hidden, exact_weight = hidden.detach().double().requires_grad_(), weight.detach().double().requires_grad_()
    (F.cross_entropy(exact_hidden @ exact_weight.T, targets) * factor).backward()
    for found, exact in ((hidden.grad, exact_hidden.grad), (weight.grad, exact_weight.grad)):
        assert found.dtype == dtype
        assert (found.double() - exact).norm() <= tolerance * exact.norm()


def test_small_float16_gradients_are_scaled_before_they_could_vanish(monkeypatch):
    monkeypatch.setattr(loss_module, "CHUNK_BYTES", 4 * 500 * 64)
    hidden, weight = random(4096, 6, dtype=torch.float16).requires_grad_(), random(500, 6, dtype=torch.float16, scale=0.01).requires_grad_()
    targets = torch.randint(0, 500, (4096,))
    scale = 2.0**15
    (mean_cross_entropy(hidden, weight, targets) * scale).backward()
    exact_hidden = hidden.detach().double().requires_grad_()
    F.cross_entropy(exact_hidden @ weight.detach().double().T, targets).backward()
    assert ((hidden.grad.double() / scale) - exact_hidden.grad).norm() <= 5e-3 * exact_hidden.grad.norm()


def test_a_scale_beyond_float16_does_not_overflow_the_gradients_in_chunks(monkeypatch):
    monkeypatch.setattr(loss_module, "CHUNK_BYTES", 4 * 61 * 7)
    hidden, weight, targets = loss_inputs(torch.float16)
    (mean_cross_entropy(hidden * 0.01, weight * 0.01, targets) * 2.0**17).backward()
    assert torch.isfinite(hidden.grad).all()


def test_many_tokens_of_one_target_do_not_overflow_float16(monkeypatch):
    monkeypatch.setattr(loss_module, "CACHED_TOKENS", 2**15)  # as on a GPU, where all tokens are one chunk
    hidden, weight = torch.full((2**15, 1), 10.0, dtype=torch.float16), torch.zeros(5, 1, dtype=torch.float16, requires_grad=True)
    mean_cross_entropy(hidden, weight, torch.zeros(2**15, dtype=torch.long)).backward()
    assert weight.grad[0].item() == pytest.approx(-8.0, rel=1e-2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("margin", [4.0, 7.0, 10.0])
def test_a_nearly_certain_target_keeps_its_small_loss_and_gradient(dtype, margin):
    """In half precision its probability rounds to 1; the 60 others have e^-margin each, against the target's one."""
    hidden, weight = torch.tensor([[margin]], dtype=dtype).requires_grad_(), torch.zeros(61, 1, dtype=dtype)
    weight[17] = 1.0
    weight.requires_grad_()
    loss = mean_cross_entropy(hidden, weight, torch.tensor([17]))
    loss.backward()
    others = 60 * math.exp(-margin) / (1 + 60 * math.exp(-margin))
    assert loss.item() == pytest.approx(-math.log1p(-others), rel=0.01)
    assert hidden.grad.item() == pytest.approx(-others, rel=0.01)
    assert weight.grad.sum().item() == pytest.approx(0.0, abs=0.01 * margin * others)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_nearly_impossible_target_has_a_finite_loss(dtype):
    hidden, weight = torch.tensor([[30.0]], dtype=dtype), torch.zeros(61, 1, dtype=dtype)
    weight[17] = 1.0
    assert mean_cross_entropy(hidden, weight, torch.tensor([5])).item() == pytest.approx(30.0, rel=1e-3)
    assert mean_cross_entropy(10 * hidden, weight, torch.tensor([5])).item() == pytest.approx(87.34, rel=1e-3), "less cannot be told apart"
    assert mean_cross_entropy(math.nan * hidden, weight, torch.tensor([5])).isnan()


def test_only_processors_are_given_chunks_that_fit_a_cache():
    cpu, cuda = (chunk_tokens(8192, 2048, device, torch.bfloat16) for device in ("cpu", "cuda"))
    assert cpu == loss_module.CACHED_TOKENS < cuda == 8192
    assert chunk_tokens(8192, 2048, "cuda", torch.float16) == loss_module.FLOAT16_TOKENS
    assert chunk_tokens(2**20, 50_000, "cuda", torch.float32) == loss_module.CHUNK_BYTES // 200_000


def test_losses_of_tokens_average_to_the_loss(in_chunks):
    hidden, weight, targets = loss_inputs(torch.float32)
    each = token_cross_entropy(hidden, weight, targets)
    assert each.shape == (53,)
    assert each.mean().item() == pytest.approx(exact_loss(hidden, weight, targets), rel=1e-6)
