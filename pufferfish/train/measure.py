"""Real steps for the planner, in the conditions of the run: threads, dtype, compiled or not."""

from __future__ import annotations

import statistics

import numpy as np
import torch

from pufferfish.base.clock import now_s
from pufferfish.plan.prices import StepTime
from pufferfish.schema.plan import ModelPlan, TrainPlan
from pufferfish.train import memory
from pufferfish.train.compiling import COMPILING, no_compilation
from pufferfish.train.step import Trainer

MIN_STEPS, MAX_STEPS = 3, 24


def measure_steps(model: ModelPlan, plan: TrainPlan, *, limit_s: float) -> StepTime:
    """Median of real optimizer steps on random tokens, for about `limit_s` after the first one. Memory that runs out is an answer, not an error.

    Raises UserError where torch.compile fails: that is a matter of this machine, and not of the model.
    """
    start_s = now_s()
    try:
        return _measured(model, plan, start_s=start_s, limit_s=limit_s)
    except COMPILING as error:
        fits = not memory.is_out_of_memory(error)
        if fits and not plan.is_compiled:
            raise
        memory.free(error, torch.device(plan.device))
        if fits:
            raise no_compilation(error) from None
        return StepTime(0.0, 0, now_s() - start_s, fits=False)
    finally:
        if plan.device == "cuda":
            torch.cuda.empty_cache()


def random_batches(model: ModelPlan, plan: TrainPlan) -> list[np.ndarray]:
    """Tokens of one step, (sequences, tokens and the one after) for each micro-batch, always the same."""
    random = np.random.default_rng(0)
    num_micro = plan.tokens_per_step // (plan.micro_batch * model.seq_len)
    return [random.integers(0, model.vocab_size, (plan.micro_batch, model.seq_len + 1)) for _ in range(num_micro)]


def _measured(model: ModelPlan, plan: TrainPlan, *, start_s: float, limit_s: float) -> StepTime:
    batches = random_batches(model, plan)
    trainer = Trainer(model, plan)
    if plan.device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    trainer.dry_step(batches)
    first_s = now_s() - start_s
    times: list[float] = []
    while len(times) < MIN_STEPS or (len(times) < MAX_STEPS and sum(times) < limit_s):
        step_start_s = now_s()
        loss, _ = trainer.step(batches, lr_share=1e-3)
        float(loss)
        times.append(now_s() - step_start_s)
    return StepTime(statistics.median(times), memory.peak_bytes(trainer.device), first_s)
