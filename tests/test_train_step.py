"""The optimizers equal slow references written from their papers; the step computes in one dtype and updates in float32."""

import ast
import math
import platform
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from toys import model_plan, train_plan

from pufferfish.base import registry
from pufferfish.base.errors import UserError
from pufferfish.base.memory import give_back_freed, process_memory_bytes
from pufferfish.model.price import decoder_price
from pufferfish.model.transformer import Decoder
from pufferfish.plan.memory import PROCESS_BYTES
from pufferfish.plan.speed import optimizer_seconds
from pufferfish.train import average, divergence, loop, measure, memory, precision
from pufferfish.train import step as step_module
from pufferfish.train.compiling import no_compilation
from pufferfish.train.measure import measure_steps
from pufferfish.train.optimizers import adamw, muon
from pufferfish.train.optimizers.adamw import BETA1, BETA2, EPS, AdamW
from pufferfish.train.optimizers.groups import kind_of, peak_lr
from pufferfish.train.optimizers.muon import MOMENTUM, Muon, orthogonalize
from pufferfish.train.precision import LossScale, MasterWeights
from pufferfish.train.step import Trainer

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
each_optimizer = pytest.mark.parametrize("optimizer", registry.names("optimizer"))


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def batches(step=0, *, rows=3, count=2, vocab_size=97, seq_len=20):
    random = np.random.default_rng(step)
    return [random.integers(0, vocab_size, (rows, seq_len + 1)) for _ in range(count)]


def weights_of(trainer):
    return {name: master.detach().clone() for name, master in trainer.weights.masters.items()}


def same(one, other):
    """Bit for bit: 0.0 and -0.0 differ."""
    return one.keys() == other.keys() and all(torch.equal(bits(one[name]), bits(other[name])) for name in one)


def bits(tensor):
    return tensor.detach().reshape(-1).view(torch.uint8)


# --- AdamW


def slow_adamw(weight, gradients, *, lr, decay, beta2):
    """Algorithm 2 of the paper, one number at a time; `decay` is decoupled."""
    numbers = weight.double().flatten().tolist()
    for i, w in enumerate(numbers):
        first = second = 0.0
        for t, gradient in enumerate(gradients, start=1):
            g = float(gradient.flatten()[i])
            first = BETA1 * first + (1 - BETA1) * g
            second = beta2 * second + (1 - beta2) * g * g
            unbiased_first, unbiased_second = first / (1 - BETA1**t), second / (1 - beta2**t)
            w -= lr * decay * w + lr * unbiased_first / (math.sqrt(unbiased_second) + EPS)
        numbers[i] = w
    return torch.tensor(numbers, dtype=torch.float64).view(weight.shape)


NAMES = {"model.embed_tokens.weight": (7, 5), "lm_head.weight": (6, 5), "layers.0.q_norm.weight": (4,), "layers.0.up_proj.weight": (3, 5)}


def test_freed_memory_is_given_back_before_training():
    blocks = [bytearray(60_000) for _ in range(2000)]  # too small to be mapped on their own
    last = bytearray(60_000)  # keeps the heap from shrinking by itself
    held = process_memory_bytes()
    blocks.clear()
    give_back_freed()
    assert last is not None
    if sys.platform == "linux" and platform.libc_ver()[0] == "glibc":
        assert process_memory_bytes() < held - 80_000_000


def test_adamw_equals_its_paper_with_a_rate_for_each_kind():
    plan = train_plan(optimizer="adamw", weight_decay=0.3)
    weights = {name: torch.randn(shape) for name, shape in NAMES.items()}
    before = {name: weight.clone() for name, weight in weights.items()}
    gradients = [{name: torch.randn(shape) for name, shape in NAMES.items()} for _ in range(4)]
    optimizer = AdamW(weights, plan)
    for each in gradients:
        for name, weight in weights.items():
            weight.grad = each[name]
        optimizer.step(0.5)
    rates = {"embed_tokens": 0.05, "lm_head": 0.01, "q_norm": 0.004, "up_proj": 0.02}
    for name, weight in weights.items():
        rate = next(rate for part, rate in rates.items() if part in name)
        decay = 0.3 if "up_proj" in name else 0.0
        expected = slow_adamw(before[name], [each[name] for each in gradients], lr=0.5 * rate, decay=decay, beta2=BETA2[kind_of(name, weight)])
        torch.testing.assert_close(weight.double(), expected, atol=1e-6, rtol=1e-5)


def test_each_weight_of_a_model_has_its_kind():
    kinds = {}
    for name, parameter in Decoder(model_plan()).named_parameters():
        kinds.setdefault(kind_of(name, parameter), set()).add(name.split(".")[-2])
    assert kinds == {
        "embedding": {"embed_tokens"},
        "head": {"lm_head"},
        "gain": {"q_norm", "k_norm"},
        "matrix": {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"},
    }
    plan = train_plan()
    assert [peak_lr(kind, plan) for kind in ("matrix", "embedding", "head", "gain")] == [plan.matrix_lr, plan.embedding_lr, plan.head_lr, plan.gain_lr]


# --- Muon


@pytest.mark.parametrize("shape", [(6, 6), (5, 9), (32, 80)])
def test_orthogonalizing_gives_the_nearest_semi_orthogonal_matrix(shape):
    x = torch.randn(3, *shape)
    u, _, vt = torch.linalg.svd(x.double(), full_matrices=False)
    nearest, found = u @ vt, orthogonalize(x).double()
    singular = torch.linalg.svdvals(found)
    assert singular.min() > 0.7
    assert singular.max() < 1.2
    cosine = (nearest * found).sum((-2, -1)) / nearest.norm(dim=(-2, -1)) / found.norm(dim=(-2, -1))
    assert cosine.min() > 0.99


def test_orthogonalizing_keeps_singular_vectors_and_ignores_the_scale():
    u, _, vt = torch.linalg.svd(torch.randn(6, 9), full_matrices=False)
    x = (u * torch.tensor([3.0, 1.0, 0.5, 0.2, 0.05, 0.02])) @ vt
    found = orthogonalize(x[None])[0]
    inside = u.T @ found @ vt.T
    assert (inside - inside.diagonal().diag()).abs().max() < 1e-3
    assert inside.diagonal().min() > 0.7
    torch.testing.assert_close(orthogonalize(1e-3 * x[None])[0], found, atol=2e-3, rtol=0)


def test_nothing_to_orthogonalize_stays_nothing():
    assert torch.equal(orthogonalize(torch.zeros(2, 3, 4)), torch.zeros(2, 3, 4))


def slow_muon(weight, gradients, *, lr, decay):
    """Momentum with Nesterov's look ahead, one matrix alone; the polynomials are taken from the code, as the paper's table is."""
    weight, momentum = weight.double().clone(), torch.zeros_like(weight, dtype=torch.float64)
    rows, columns = weight.shape
    for gradient in gradients:
        momentum = MOMENTUM * momentum + (1 - MOMENTUM) * gradient.double()
        direction = MOMENTUM * momentum + (1 - MOMENTUM) * gradient.double()
        wide = direction if rows <= columns else direction.T
        update = orthogonalize(wide.float()[None])[0].double()
        update = update if rows <= columns else update.T
        decays = torch.tensor([[float(update[i, j] * weight[i, j] > 0) for j in range(columns)] for i in range(rows)])
        weight = weight - lr * decay * decays * weight - lr * max(1.0, rows / columns) ** 0.5 * update
    return weight


def test_muon_equals_its_reference_for_wide_square_and_tall_matrices():
    shapes = {"a.weight": (4, 9), "b.weight": (9, 4), "c.weight": (6, 6), "d.weight": (4, 9)}
    weights = {name: torch.randn(shape) for name, shape in shapes.items()}
    before = {name: weight.clone() for name, weight in weights.items()}
    gradients = [{name: torch.randn(shape) for name, shape in shapes.items()} for _ in range(3)]
    optimizer = Muon(weights, train_plan(weight_decay=0.3))
    for each in gradients:
        for name, weight in weights.items():
            weight.grad = each[name]
        optimizer.step(0.5)
    for name, weight in weights.items():
        expected = slow_muon(before[name], [each[name] for each in gradients], lr=0.5 * 0.02, decay=0.3)
        torch.testing.assert_close(weight.double(), expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(("dtype", "expected"), [("float32", "float32"), ("bfloat16", "bfloat16"), ("float16", "float32")])
def test_orthogonalizing_is_done_and_priced_in_bfloat16_only_where_training_is(dtype, expected):
    seen, model, plan = [], model_plan(), train_plan(dtype=dtype)
    machine = SimpleNamespace(
        measured=SimpleNamespace(bandwidth_bytes_per_s=1e10), runs=lambda dtype: True, gemm_flops_per_s=lambda dtype, *shape: seen.append(dtype) or 1e9
    )
    optimizer_seconds(machine, decoder_price(model, attention="explicit"), model, plan)
    assert seen == [expected]
    assert Muon({}, plan).dtype == DTYPES[expected]


def test_updates_lie_in_memory_as_their_weights_do(monkeypatch):
    weights = {name: torch.randn(shape) for name, shape in {"a.weight": (4, 9), "b.weight": (9, 4), "c.weight": (6, 6)}.items()}
    for weight in weights.values():
        weight.grad = torch.randn(weight.shape)
    seen, right = [], torch._foreach_add_
    monkeypatch.setattr(torch, "_foreach_add_", lambda matrices, updates, **more: seen.extend(updates) or right(matrices, updates, **more))
    Muon(weights, train_plan()).step(1.0)
    assert [update.stride() for update in seen] == [weight.stride() for weight in weights.values()]


@each_optimizer
def test_an_optimizer_goes_on_from_its_state_bit_for_bit(optimizer):
    def made(seed):
        torch.manual_seed(seed)
        trainer = Trainer(model_plan(), train_plan(optimizer=optimizer))
        for step in range(3):
            trainer.step(batches(step), lr_share=1.0)
        return trainer

    one, other = made(0), Trainer(model_plan(), train_plan(optimizer=optimizer, seed=77))
    other.load_state({name: tensor.clone() for name, tensor in one.state().items()})
    for trainer in (one, other):
        trainer.step(batches(9), lr_share=0.7)
    assert same(one.state(), other.state())


@each_optimizer
def test_a_reset_optimizer_is_a_new_one(optimizer):
    used = Trainer(model_plan(), train_plan(optimizer=optimizer))
    used.step(batches(), lr_share=1.0)
    for each in used.optimizers:
        each.reset()
    fresh = Trainer(model_plan(), train_plan(optimizer=optimizer))
    assert all(same(one.state(), other.state()) for one, other in zip(used.optimizers, fresh.optimizers, strict=True))


# --- precision


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_masters_are_float32_and_the_model_computes_with_a_copy(dtype):
    model = Decoder(model_plan())
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter)
    weights = MasterWeights(model, DTYPES[dtype])
    assert weights.masters.keys() == dict(model.named_parameters()).keys()
    assert {master.dtype for master in weights.masters.values()} == {torch.float32}
    for name, parameter in model.named_parameters():
        expected = torch.float32 if "embed_tokens" in name else DTYPES[dtype]
        assert parameter.dtype == expected
        assert torch.equal(parameter, weights.masters[name].to(expected))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@each_optimizer
def test_updates_too_small_for_bfloat16_add_up_in_the_masters(optimizer, dtype):
    trainer = Trainer(model_plan(), train_plan(optimizer=optimizer, dtype=dtype))
    before = weights_of(trainer)
    trainer.step(batches(), lr_share=1e-4)
    moved = {name for name, master in trainer.weights.masters.items() if not torch.equal(master, before[name])}
    assert {"lm_head.weight", "model.embed_tokens.weight", "model.layers.2.self_attn.o_proj.weight"} <= moved
    assert all(torch.equal(parameter, trainer.weights.masters[name].to(parameter.dtype)) for name, parameter in trainer.model.named_parameters())
    assert {tensor.dtype for tensor in trainer.exported_weights().values()} == {torch.float32}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@each_optimizer
def test_a_dry_step_leaves_every_bit_as_it_was(optimizer, dtype):
    trainer = Trainer(model_plan(), train_plan(optimizer=optimizer, dtype=dtype))
    state = {name: tensor.clone() for name, tensor in trainer.state().items()}
    model = {name: tensor.clone() for name, tensor in trainer.model.state_dict().items()}
    trainer.dry_step(batches())
    assert same(trainer.state(), state)
    assert same(dict(trainer.model.state_dict()), model)
    assert all(tensor.grad is None for tensor in (*trainer.model.parameters(), *trainer.weights.masters.values()))


@each_optimizer
def test_a_dry_step_changes_no_later_step(optimizer):
    dried, plain = (Trainer(model_plan(), train_plan(optimizer=optimizer, dtype="bfloat16")) for _ in range(2))
    dried.dry_step(batches(5))
    for trainer in (dried, plain):
        for step in range(2):
            trainer.step(batches(step), lr_share=1.0)
    assert same(dried.state(), plain.state())


def test_micro_batches_add_up_to_the_whole_step():
    whole, parts, single = (Trainer(model_plan(), train_plan(micro_batch=size)) for size in (6, 3, 1))
    rows = np.concatenate(batches())
    losses = [whole.step([rows], lr_share=1.0), parts.step([rows[:3], rows[3:]], lr_share=1.0), single.step([row[None] for row in rows], lr_share=1.0)]
    for loss, norm in losses[1:]:
        assert float(loss) == pytest.approx(float(losses[0][0]), rel=1e-6)
        assert float(norm) == pytest.approx(float(losses[0][1]), rel=1e-5)
    for name, weight in whole.weights.masters.items():
        torch.testing.assert_close(parts.weights.masters[name], weight, atol=2e-4, rtol=0)
        torch.testing.assert_close(single.weights.masters[name], weight, atol=2e-4, rtol=0)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_gradients_are_clipped_to_the_global_norm_and_reported_before(dtype, monkeypatch):
    trainer = Trainer(model_plan(), train_plan(clip_norm=1e-3, dtype=dtype, optimizer="adamw"))
    seen = []
    monkeypatch.setattr(trainer.optimizers[0], "step", lambda share: seen.append([master.grad.clone() for master in trainer.weights.masters.values()]))
    _, norm = trainer.step(batches(), lr_share=1.0)
    assert 0.01 < float(norm) < 100
    assert math.sqrt(sum(float(gradient.double().square().sum()) for gradient in seen[0])) == pytest.approx(1e-3, rel=1e-3)


# --- float16


def test_the_loss_scale_halves_after_an_overflow_and_doubles_after_200_good_steps():
    scale = LossScale()
    start = scale.value
    scale.update(False)
    assert (scale.value, scale.good_steps) == (start / 2, 0)
    for _ in range(199):
        scale.update(True)
    assert scale.value == start / 2
    scale.update(True)
    assert (scale.value, scale.good_steps) == (start, 0)
    for _ in range(100):
        scale.update(False)
    assert scale.value == 1.0


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@each_optimizer
def test_a_gradient_that_is_not_finite_changes_nothing(optimizer, dtype, monkeypatch):
    trainer = Trainer(model_plan(), train_plan(dtype=dtype, optimizer=optimizer))
    trainer.step(batches(), lr_share=1.0)
    before, loss = {name: tensor.clone() for name, tensor in trainer.state().items()}, trainer._loss
    with monkeypatch.context() as patch:
        patch.setattr(trainer, "_loss", lambda *tokens: loss(*tokens) * float("inf"))
        _, norm = trainer.step(batches(1), lr_share=1.0)
    assert not math.isfinite(float(norm))
    assert same(before, trainer.state())
    trainer.step(batches(2), lr_share=1.0)
    assert all(torch.isfinite(tensor).all() for tensor in trainer.state().values())
    assert not same(before, trainer.state())


@each_optimizer
def test_an_overflow_in_float16_skips_the_update_and_halves_the_scale(optimizer):
    trainer = Trainer(model_plan(), train_plan(dtype="float16", optimizer=optimizer))
    trainer.step(batches(), lr_share=1.0)
    before = trainer.state()
    before = {name: tensor.clone() for name, tensor in before.items() if name != "loss_scale"}
    trainer.weights.loss_scale.value = 2.0**60
    trainer.step(batches(1), lr_share=1.0)
    assert trainer.weights.loss_scale.value == 2.0**59
    after = trainer.state()
    assert same(before, {name: tensor for name, tensor in after.items() if name != "loss_scale"})


def test_float16_trains_as_float32_does():
    exact, half = (Trainer(model_plan(), train_plan(dtype=dtype, optimizer="adamw")) for dtype in ("float32", "float16"))
    for step in range(4):
        expected, found = exact.step(batches(step), lr_share=1.0), half.step(batches(step), lr_share=1.0)
        assert float(found[0]) == pytest.approx(float(expected[0]), rel=5e-3)
        assert float(found[1]) == pytest.approx(float(expected[1]), rel=5e-2)


def test_the_loss_scale_is_part_of_the_state():
    one, other = (Trainer(model_plan(), train_plan(dtype="float16")) for _ in range(2))
    one.weights.loss_scale.value, one.weights.loss_scale.good_steps = 1024.0, 37
    other.load_state(one.state())
    assert (other.weights.loss_scale.value, other.weights.loss_scale.good_steps) == (1024.0, 37)


def test_only_float16_has_a_loss_scale():
    assert [Trainer(model_plan(), train_plan(dtype=dtype)).weights.loss_scale is None for dtype in DTYPES] == [True, True, False]


# --- measuring


def test_measured_steps_take_time_and_memory():
    result = measure_steps(model_plan(), train_plan(), limit_s=0.01)
    assert result.fits
    assert 0 < result.step_s < result.first_step_s + 1
    assert result.peak_memory_bytes > 10**7


def test_memory_that_runs_out_is_an_answer_and_other_errors_are_errors(monkeypatch):
    def fail(error):
        def step(self, batches, *, lr_share):
            raise error

        monkeypatch.setattr(Trainer, "step", step)

    fail(torch.OutOfMemoryError("no room"))
    assert not measure_steps(model_plan(), train_plan(), limit_s=0.01).fits
    fail(RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 99 bytes"))
    assert not measure_steps(model_plan(), train_plan(), limit_s=0.01).fits
    fail(RuntimeError("shapes do not fit"))
    with pytest.raises(RuntimeError, match="shapes"):
        measure_steps(model_plan(), train_plan(), limit_s=0.01)


@pytest.mark.parametrize(
    "words",
    [
        "CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported",
        "CUDA driver error: out of memory",
        "Triton Error [CUDA]: out of memory",
        "CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`",
        "backend='inductor' raised:\nOutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB.",
    ],
)
def test_memory_that_runs_out_is_known_by_its_words(words):
    assert memory.is_out_of_memory(RuntimeError(words))


@pytest.mark.parametrize("words", ["CUDA driver error: invalid argument", "Triton Error [CUDA]: device kernel image is invalid", "the memory format is wrong"])
def test_other_errors_are_not_taken_for_want_of_memory(words):
    assert not memory.is_out_of_memory(RuntimeError(words))


@pytest.mark.parametrize(
    ("error", "saw"),
    [
        (RuntimeError("C++ compile error\n\nCommand:\ng++ -c\n\nOutput:\n fatal error: Python.h"), "RuntimeError: C++ compile error; fatal error: Python.h"),
        (FileNotFoundError(2, "No such file", "gcc"), "FileNotFoundError: [Errno 2] No such file: 'gcc'"),
        (ImportError("libcuda"), "ImportError: libcuda"),
    ],
)
def test_a_compilation_that_fails_is_the_users_to_mend_and_a_failing_step_is_not(monkeypatch, error, saw):
    def fail(self, batches, *, lr_share):
        raise error

    monkeypatch.setattr(torch, "compile", lambda function, **settings: function)
    monkeypatch.setattr(Trainer, "step", fail)
    with pytest.raises(UserError, match="does not work here") as found:
        measure_steps(model_plan(), train_plan(is_compiled=True), limit_s=0.01)
    assert found.value.saw == saw
    assert "train.compile: false" in found.value.fix
    assert "pufferfish doctor --remeasure" in found.value.fix
    with pytest.raises(type(error)):
        measure_steps(model_plan(), train_plan(), limit_s=0.01)


def test_a_compilation_without_memory_does_not_fit(monkeypatch):
    def fail(self, batches, *, lr_share):
        raise RuntimeError("InductorError: OutOfMemoryError: CUDA out of memory. Tried to allocate 1 GiB")

    monkeypatch.setattr(torch, "compile", lambda function, **settings: function)
    monkeypatch.setattr(Trainer, "step", fail)
    assert not measure_steps(model_plan(), train_plan(is_compiled=True), limit_s=0.01).fits


def test_what_a_compiler_says_is_told_in_a_line_of_bounded_length():
    error = no_compilation(RuntimeError("first " + "word " * 1000 + "\nlast"))
    assert error.saw.startswith("RuntimeError: first word")
    assert len(error.saw) < 320
    assert len(str(error).splitlines()) == 3


def test_the_memory_of_a_device_is_its_peak_before_the_cache_is_emptied_and_counts_the_process(monkeypatch):
    done = []

    class OnDevice(Trainer):
        def __init__(self, model, plan):
            super().__init__(model, plan.model_copy(update={"device": "cpu"}))
            self.device = torch.device("cuda")
            done.append("built")

        def step(self, batches, *, lr_share):
            done.append("step")
            return torch.zeros(()), torch.zeros(())

        def synchronize(self):
            pass

    for name, value in (("reset_peak_memory_stats", None), ("max_memory_reserved", 7), ("empty_cache", None)):
        monkeypatch.setattr(torch.cuda, name, lambda name=name, value=value: done.append(name) or value)
    monkeypatch.setattr(measure, "Trainer", OnDevice)
    found = measure_steps(model_plan(), train_plan(device="cuda"), limit_s=0.0)
    assert found.peak_memory_bytes == 7 + PROCESS_BYTES["cuda"], "as in a plan"
    steps = 1 + measure.MIN_STEPS
    assert done == ["built", "reset_peak_memory_stats", *["step"] * steps, "max_memory_reserved", "empty_cache"]


@pytest.mark.parametrize(("cap", "share"), [(4_000_000_000, 0.34), (20_000_000_000, 1.0), (500_000_000, 0.0)])
def test_a_device_is_held_to_the_memory_that_may_be_used(monkeypatch, cap, share):
    held = []
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: SimpleNamespace(total_memory=10_000_000_000))
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", held.append)
    memory.hold_to(cap)
    assert held == [pytest.approx(share)]


# --- the hot loop


HOT = {  # every function that runs at every step
    loop: {"_steps", "_start_step", "_note_step", "_note_memory", "_next_micro_batch", "_take", "_between_steps"},
    average: {"see"},
    divergence: {"see"},
    step_module: {"step", "_clip", "to_device"},
    precision: {"collect_gradients", "distribute"},
    muon: {"orthogonalize", "step", "_apply", "_flat"},
    adamw: {"step"},
}
WAITING = {"sleep", "empty_cache", "item", "tolist", "synchronize", "collect", "float", "bool", "cpu", "numpy", "print"}


@pytest.mark.parametrize("module", HOT, ids=lambda module: module.__name__.rpartition(".")[2])
def test_the_hot_loop_neither_sleeps_nor_waits_for_the_device_nor_empties_caches(module):
    functions = [node for node in ast.walk(ast.parse(Path(module.__file__).read_text("utf-8"))) if isinstance(node, ast.FunctionDef)]
    assert HOT[module] <= {function.name for function in functions}
    for function in functions:
        if function.name in HOT[module]:
            calls = [node.func for node in ast.walk(function) if isinstance(node, ast.Call)]
            assert not WAITING & {call.attr if isinstance(call, ast.Attribute) else getattr(call, "id", "") for call in calls}
