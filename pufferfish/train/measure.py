"""Real steps for the planner, in the conditions of the run: threads, dtype, compiled or not."""

from __future__ import annotations

import statistics

import numpy as np
import torch

from pufferfish.base.clock import now_s
from pufferfish.plan.prices import StepTime
from pufferfish.schema.plan import ModelPlan, TrainPlan
from pufferfish.train import memory
from pufferfish.train.step import Trainer

MIN_STEPS, MAX_STEPS = 3, 24


def measure_steps(model: ModelPlan, plan: TrainPlan, *, limit_s: float) -> StepTime:
    """Median of real optimizer steps on random tokens, for about `limit_s` after the first one. Memory that runs out is an answer, not an error."""
    random = np.random.default_rng(0)
    rows = plan.micro_batch, model.seq_len + 1
    num_micro = plan.tokens_per_step // (plan.micro_batch * model.seq_len)
    batches = [random.integers(0, model.vocab_size, rows) for _ in range(num_micro)]
    start_s = now_s()
    try:
        trainer = Trainer(model, plan)
        trainer.dry_step(batches)
        first_s = now_s() - start_s
        times: list[float] = []
        while len(times) < MIN_STEPS or (len(times) < MAX_STEPS and sum(times) < limit_s):
            step_start_s = now_s()
            loss, _ = trainer.step(batches, lr_share=1e-3)
            float(loss)
            times.append(now_s() - step_start_s)
    except RuntimeError as error:
        if not memory.is_out_of_memory(error):
            raise
        return StepTime(0.0, 0, now_s() - start_s, fits=False)
    finally:
        if plan.device == "cuda":
            torch.cuda.empty_cache()
    return StepTime(statistics.median(times), memory.used_bytes(trainer.device), first_s)
