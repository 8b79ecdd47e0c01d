"""Toy plans whose sizes are all unequal, so that mix-ups fail."""

import numpy as np

from pufferfish.schema.plan import BudgetPlan, DataPlan, Forecast, ModelPlan, Phases, Plan, TrainPlan, Why
from pufferfish.schema.reports import Outcome


def model_plan(**changes):
    """97 tokens, 3 layers, 6 heads of 8 that share 2 key/value heads, width 40, context 20."""
    shape = {"vocab_size": 97, "num_layers": 3, "d_model": 40, "num_heads": 6, "num_kv_heads": 2, "head_dim": 8, "d_ff": 56, "seq_len": 20}
    rest = {"rope_theta": 700.0, "norm_eps": 1e-5, "is_tied": False, "has_qk_norm": True, "lookup": "none"}
    return ModelPlan(**{**shape, **rest, **changes})


def train_plan(**changes):
    """12 steps of 6 sequences in micro-batches of 3."""
    run = {
        "device": "cpu",
        "num_threads": 1,
        "memory_bytes": 10**9,
        "dtype": "float32",
        "attention": "explicit",
        "is_compiled": False,
        "is_checkpointed": False,
    }
    rates = {"matrix_lr": 0.02, "embedding_lr": 0.05, "head_lr": 0.01, "gain_lr": 0.004, "weight_decay": 0.1, "clip_norm": 0.7}
    size = {"micro_batch": 3, "tokens_per_step": 120, "clock": "steps", "num_steps": 12, "num_evals": 2, "eval_tokens": 80, "checkpoint_interval_s": 600.0}
    shape = {"warmup_share": 0.1, "cooldown_share": 0.5, "final_lr_share": 0.02, "input_noise": 0.0, "teacher_share": 0.0}
    return TrainPlan(**{**run, **rates, **size, **shape, "optimizer": "muon", "seed": 5, "data_seed": 11, **changes})


def whole_plan(model=None, train=None, *, corpus="c0", step_s=0.01):
    """A plan around both."""
    model, train = model or model_plan(), train or train_plan()
    phases = Phases(hardware_probe_s=2, plan_s=3, prepare_subset_s=4, train_s=30, evaluate_s=6, export_s=7, between_s=1)
    data = DataPlan(
        source="text", path="corpus", corpus=corpus, validation_path="", validation_content="", validation_share=0.05, max_validation_bytes=999,
        vocab_size=model.vocab_size, tokenizer_bytes=888, train_bytes=777, seed=0,
    )  # fmt: skip
    forecast = Forecast(
        val_bpb=2.0,
        val_bpb_low=1.9,
        val_bpb_high=2.2,
        law=1,
        correction=1.0,
        is_free=True,
        step_s=step_s,
        tokens=240,
        epochs=0.5,
        peak_memory_bytes=10**8,
        num_params=10**5,
        flops_per_token=6e5,
    )
    budget = BudgetPlan(total_s=53, reserve_s=13.5, reserve_factor=1.3, unused_s=0, phases=phases)
    return Plan(hardware="h0", budget=budget, data=data, model=model, train=train, forecast=forecast, why=Why(reasons=[], candidates=[]))


def outcome(plan, **changes):
    """A training that went as planned."""
    numbers = {"num_steps": plan.train.num_steps, "num_tokens": plan.forecast.tokens, "final_loss": 2.0, "final_lr_share": 0.02, "train_s": 30, "planned_s": 30}
    pace = {"median_step_s": 0.01, "tokens_per_s": 12_000, "peak_memory_bytes": 10**8, "num_resumes": 0, "warnings": []}
    return Outcome(**{"plan": plan.identity, "subset": "s0", "weights_sha256": "w0", "run_key": "run", **numbers, **pace, **changes})


def tokens(count, *, vocab_size=97, seed=0):
    """A learnable stream: each token is the last one plus a small random step."""
    return (np.cumsum(np.random.default_rng(seed).integers(0, 3, count)) % vocab_size).astype(np.uint16)
