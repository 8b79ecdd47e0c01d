"""How long a step takes, from prices and measured speeds. Good to some ten per cent, which is enough to choose what to measure."""

from __future__ import annotations

import math
from functools import cache

from pufferfish.plan.prices import Price
from pufferfish.schema.hardware import Hardware
from pufferfish.schema.plan import ModelPlan, TrainPlan

# Real steps over what their parts would take alone, eager: fitted to twelve shapes on two cores (docs/LOG.md); guesses for GPUs.
PRODUCTS = {"cpu": 1.25, "cuda": 1.0}  # over matrix products at their measured speed
MOVED = {"cpu": 13.0, "cuda": 2.0}  # over the kept activations at the streamed bandwidth
LOGITS = 1.5  # over what moving an activation takes, for a logit
LAUNCHES = {"cpu": 18.0, "cuda": 1.0}  # over the launch of a single small operation: on CPUs it comes without Python and autograd
COMPILED_SHARE = {"cpu": 0.75, "cuda": 0.45}  # of the passes and launches that remain when the compiler fuses them: two pairs (docs/LOG.md); a guess for GPUs
TAUGHT = 4 / 3  # passes of a step with a teacher, which looks ahead only, over those of one without
MUON_POLYNOMIALS = 5
ADAM_BYTES = 32  # per parameter, read and written


class Machine:
    """A measured machine, with the speeds of matrix products looked up once for each shape."""

    def __init__(self, hardware: Hardware) -> None:
        self.hardware, self.measured = hardware, hardware.measured
        self._tables = {
            speed.dtype: [((math.log(gemm.m), math.log(gemm.k), math.log(gemm.n)), math.log(gemm.flops_per_s)) for gemm in speed.gemms]
            for speed in hardware.measured.dtypes
        }
        self._known: dict[tuple[str, int, int, int], float] = {}

    def runs(self, dtype: str) -> bool:
        """Whether the dtype was measured."""
        return dtype in self._tables

    def gemm_flops_per_s(self, dtype: str, m: int, k: int, n: int) -> float:
        """Speed of (m, k) @ (k, n): the mean of the three nearest measured shapes, nearness and mean in logarithms."""
        key = (dtype, m, k, n)
        if key not in self._known:
            point = (math.log(m), math.log(k), math.log(n))
            near = sorted((math.dist(shape, point), log_flops) for shape, log_flops in self._tables[dtype])[:3]
            weights = [1 / (0.1 + distance) for distance, _ in near]
            self._known[key] = math.exp(sum(weight * log_flops for weight, (_, log_flops) in zip(weights, near, strict=True)) / sum(weights))
        return self._known[key]


def step_seconds(machine: Machine, price: Price, model: ModelPlan, train: TrainPlan) -> float:
    """One optimizer step: passes over its tokens, launches, and the optimizer."""
    num_micro = train.tokens_per_step // (train.micro_batch * model.seq_len)
    launch_s = LAUNCHES[train.device] * price.num_operations * machine.measured.launch_s
    launches_s = num_micro * passes(train) * _checkpointing(train) * _left_by_compiler(train) * launch_s
    return pass_seconds(machine, price, model, train) + launches_s + optimizer_seconds(machine, price, model, train)


def pass_seconds(machine: Machine, price: Price, model: ModelPlan, train: TrainPlan) -> float:
    """What a step computes and moves for its tokens: matrix products at their measured speed, everything else at the speed of memory."""
    tokens = train.micro_batch * model.seq_len
    num_micro = train.tokens_per_step // tokens
    head = model.vocab_size * model.d_model
    blocks = (price.flops_per_token - 6 * head) * tokens / machine.gemm_flops_per_s(train.dtype, tokens, model.d_model, 2 * model.d_ff)
    products_s = PRODUCTS[train.device] * (blocks + 6 * head * tokens / machine.gemm_flops_per_s(train.dtype, tokens, model.d_model, model.vocab_size))
    element_bytes = 4 if train.dtype == "float32" else 2
    elements = price.activation_elements_per_token + LOGITS * price.logits_per_token
    moved = (elements * element_bytes + 4 * price.float32_elements_per_token) * tokens
    moved_s = _left_by_compiler(train) * MOVED[train.device] * moved / machine.measured.bandwidth_bytes_per_s
    return num_micro * passes(train) * _checkpointing(train) * (products_s + moved_s)


def passes(train: TrainPlan) -> float:
    """Of a step, as a multiple of forward and backward."""
    return TAUGHT if train.teacher_share else 1.0


def _left_by_compiler(train: TrainPlan) -> float:
    return COMPILED_SHARE[train.device] if train.is_compiled else 1.0


def _checkpointing(train: TrainPlan) -> float:
    return 4 / 3 if train.is_checkpointed else 1.0


def optimizer_seconds(machine: Machine, price: Price, model: ModelPlan, train: TrainPlan) -> float:
    """One update of all weights."""
    bandwidth = machine.measured.bandwidth_bytes_per_s
    plain_s = price.num_params * ADAM_BYTES / bandwidth
    if train.optimizer != "muon":
        return plain_s
    dtype = "bfloat16" if train.dtype == "bfloat16" else "float32"
    flops_per_s = machine.gemm_flops_per_s(dtype if machine.runs(dtype) else train.dtype, model.d_model, model.d_model, model.d_model)
    return plain_s + orthogonalization_flops(model) / flops_per_s


def orthogonalization_flops(model: ModelPlan) -> float:
    """Of the Newton-Schulz polynomials for all matrices: 4 R^2 C + 2 R^3 each for R x C, R <= C."""
    return model.num_layers * _block_flops(model.d_model, model.num_heads * model.head_dim, model.num_kv_heads * model.head_dim, model.d_ff)


@cache
def _block_flops(d_model: int, width: int, kv_width: int, d_ff: int) -> float:
    shapes = [(width, d_model)] * 2 + [(kv_width, d_model)] * 2 + [(d_ff, d_model)] * 3
    return MUON_POLYNOMIALS * sum(4 * min(s) ** 2 * max(s) + 2 * min(s) ** 3 for s in shapes)
