"""How far a training is, what it has used, and what it knows of its machine: what of it outlives an interruption beside weights and optimizers."""

from __future__ import annotations

import math
from typing import Any

import torch

from pufferfish.base.clock import now_s
from pufferfish.schema.plan import Plan
from pufferfish.train.clock import Clock
from pufferfish.train.disturbance import Disturbance
from pufferfish.train.evaluations import Evaluations
from pufferfish.train.record import Record

NUM_LAST_LOSSES = 20  # whose mean is the training loss


class Progress:
    """Part of every checkpoint. `share_s` is the time that training owns, `elapsed_s` what it has used, interruptions left out."""

    def __init__(self, plan: Plan, *, share_s: float, start_s: float) -> None:
        self.plan, self.share_s = plan, share_s
        self.start_s = start_s  # on the boot clock, moved back by what earlier processes used
        self.step, self.num_samples, self.num_resumes = 0, 0, 0
        self.record, self.warnings = Record(), list[str]()
        self.loop_s, self.peak_memory_bytes = 0.0, 0
        self._first_u, self._given_s = 0.0, 0.0  # where the clock begins, and what of its grace was given before
        self._saves_s = list[float]()  # what each took
        self._evaluations = Evaluations(plan.train.num_evals, share_s)
        self._disturbance = Disturbance(later_s=plan.budget.reserve_s, share_s=share_s, planned_s=plan.forecast.step_s)

    @property
    def elapsed_s(self) -> float:
        """Time used of the share."""
        return now_s() - self.start_s

    @property
    def num_tokens(self) -> int:
        """Tokens trained on so far."""
        return self.num_samples * self.plan.model.seq_len

    @property
    def mean_loss(self) -> float:
        """Of the last steps, nats per token; 0 before the first."""
        return self.record.mean_loss(NUM_LAST_LOSSES)

    def as_progress(self, clock: Clock, *, micro_batch: int) -> dict[str, Any]:
        """For a checkpoint; the rest is in `record.tensors`."""
        return {
            "step": self.step,
            "num_samples": self.num_samples,
            "num_resumes": self.num_resumes,
            "elapsed_s": self.elapsed_s,
            "share_s": self.share_s,
            "loop_s": self.loop_s,
            "u": clock.u,
            "given_s": clock.given_s,
            "micro_batch": micro_batch,
            "evaluations": self._evaluations.as_progress(),
            "usual_step_s": self._disturbance.usual_s if math.isfinite(self._disturbance.usual_s) else None,
            "saves_s": self._saves_s,
            "peak_memory_bytes": self.peak_memory_bytes,
            "warnings": self.warnings,
            "record": self.record.as_progress(),
        }

    def go_on(self, tensors: dict[str, torch.Tensor], progress: dict[str, Any]) -> None:
        """From what a checkpoint kept; micro-batch and warnings are the caller's, who may have shrunk the one and added to the others since."""
        self.step, self.num_samples, self.num_resumes = progress["step"], progress["num_samples"], progress["num_resumes"] + 1
        self.start_s, self.share_s = now_s() - progress["elapsed_s"], progress["share_s"]  # what was spent before the first start is spent once
        self.loop_s, self.peak_memory_bytes = progress["loop_s"], progress["peak_memory_bytes"]
        self._first_u, self._given_s = progress["u"], progress["given_s"]
        self._saves_s += progress["saves_s"]
        self._evaluations = Evaluations(self.plan.train.num_evals, self.share_s, **progress["evaluations"])
        usual_s = progress["usual_step_s"] or math.inf
        self._disturbance = Disturbance(later_s=self.plan.budget.reserve_s, share_s=self.share_s, usual_s=usual_s)
        self.record = Record.restored(tensors, progress["record"])
        assert len(self.record.u) == self.step
