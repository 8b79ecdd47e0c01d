"""The training loop: a generator of events that follows a clock, saves by time and gives back everything it did.

Shapes: a batch is (micro_batch, T + 1) token ids.
"""

from __future__ import annotations

import math
import statistics
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pufferfish.base.clock import now_s
from pufferfish.base.errors import UserError
from pufferfish.base.events import CheckpointSaved, EvalDone, Event, Finished, Refit, Shrunk, Started, StepDone, Warned
from pufferfish.base.units import format_duration
from pufferfish.data.batches import Prefetcher, Windows
from pufferfish.schema.plan import Plan
from pufferfish.train import checkpoint, memory
from pufferfish.train.average import Average, is_worth_it
from pufferfish.train.clock import DeadlineClock, ReplayClock, StepClock
from pufferfish.train.disturbance import Disturbance
from pufferfish.train.divergence import Watch
from pufferfish.train.environment import environment_here
from pufferfish.train.evaluations import Evaluations
from pufferfish.train.readings import Reading, Readings
from pufferfish.train.realised import Realised
from pufferfish.train.record import Record
from pufferfish.train.saving import DISK_BYTES_PER_S, Saving
from pufferfish.train.schedule import lr_share
from pufferfish.train.step import Trainer
from pufferfish.train.validation import Validation

GRACE_SHARE = 0.15  # of the time planned for the stages after training, which has a margin of a quarter: for a learning rate that a stall left high


@dataclass(frozen=True)
class Corpora:
    """Token ids for training and validation, and raw bytes for each validation token."""

    train: np.ndarray
    validation: np.ndarray
    validation_bytes_per_token: float


class Training:
    """One training run. Iterate over `run()`; afterwards the attributes say what happened.

    `share_s` is the time that training owns, `elapsed_s` what it has used, interruptions left out; `finish_s` of it is kept for what follows the loop.
    """

    def __init__(
        self,
        plan: Plan,
        corpora: Corpora,
        work: Path,
        *,
        share_s: float,
        start_s: float,
        finish_s: float,
        should_stop: Callable[[], bool] = lambda: False,
        recorded: Realised | None = None,
    ) -> None:
        self.plan, self.corpora, self.work, self.should_stop = plan, corpora, work, should_stop
        self.share_s, self.finish_s, self.recorded = share_s, finish_s, recorded
        self.start_s = start_s  # on the boot clock, moved back by what earlier processes used
        self.step, self.num_samples, self.num_resumes = 0, 0, 0
        self.saved_step: int | None = None  # what an interruption cannot take
        self.record, self.warnings = Record(), list[str]()
        self.is_interrupted, self.is_averaged = False, False
        self.peak_memory_bytes = 0
        self.loop_s = 0.0
        self._step_s = deque[float](maxlen=1024)
        self._evaluations = Evaluations(plan.train.num_evals, share_s)
        self._watch = Watch(plan.train.matrix_lr)
        self._disturbance = Disturbance(later_s=plan.budget.reserve_s, planned_s=plan.forecast.step_s)
        self._loop_start_s = now_s()
        self._resumed_u = 0.0

    @property
    def elapsed_s(self) -> float:
        """Time used of the share."""
        return now_s() - self.start_s

    def run(self) -> Iterator[Event]:
        """Train to the end of the clock, or until `should_stop`. Raises UserError if the training diverges or nothing fits into memory."""
        plan = self.plan.train
        self.trainer = Trainer(self.plan.model, plan, self.corpora.train)
        self.windows = Windows(self.corpora.train, self.plan.model.seq_len, plan.data_seed)
        self._average = Average(self.trainer.weights.masters)
        num_bytes = sum(tensor.nbytes for tensor in (self.trainer.state() | self._average.state()).values())
        self._saving = Saving(plan.checkpoint_interval_s, now_s(), guess_s=num_bytes / DISK_BYTES_PER_S)
        self.environment = environment_here(plan)
        corpora = self.corpora
        self._validation = Validation(
            corpora.validation, seq_len=self.plan.model.seq_len, num_tokens=plan.eval_tokens, bytes_per_token=corpora.validation_bytes_per_token
        )
        yield from self._begin()
        self._readings = Readings(self.trainer.device)
        self.clock = self._make_clock()
        self._saving.last_s = now_s()
        left_s = self.share_s - self.finish_s - (self.elapsed_s if self.num_resumes else 0.0)
        yield Started(self.step, self.plan.forecast.num_params, left_s, self.num_resumes > 0)
        self._loop_start_s = now_s() - self.loop_s
        while not self.clock.is_over and not self.is_interrupted:
            yield from self._steps()
        self._land()
        self.trainer.synchronize()
        self.loop_s = now_s() - self._loop_start_s
        if self.is_interrupted:
            yield from self._checkpoint()
            return
        if self.step == 0:
            saw = f"{format_duration(self.elapsed_s)} of {format_duration(self.share_s)} for training had passed before the first step"
            raise UserError("no time was left for a single step", saw=saw, fix="run `dvc repro` again (what was compiled is kept), or give more `budget.time`")
        self._watch.see_end(self.trainer.weights.masters.values(), self.step)
        self.is_averaged = is_worth_it(self.record.u)
        if self.is_averaged:
            yield self._warn(f"time was over at {self.record.u[-1]:.0%} of the schedule: the model is the average of its last weights")
        yield Finished(self.step, self.clock.u, self.num_tokens, self.elapsed_s, self.elapsed_s - (self.share_s - self.finish_s))

    @property
    def median_step_s(self) -> float:
        """Of the last steps; 0 before the first."""
        return statistics.median(self._step_s) if self._step_s else 0.0

    @property
    def num_tokens(self) -> int:
        """Tokens trained on so far."""
        return self.num_samples * self.plan.model.seq_len

    def final_weights(self) -> dict[str, torch.Tensor]:
        """After `run`, by the names of the stock architecture: float32, on the CPU. The last ones, or an average where the schedule was cut off."""
        averages = {name: mean.to("cpu", torch.float32) for name, mean in self._average.means.items()} if self.is_averaged else {}
        return self.trainer.exported_weights() | averages

    def _make_clock(self) -> DeadlineClock | StepClock | ReplayClock:
        if self.recorded is not None:
            return ReplayClock(self.recorded.u, step=self.step)
        if self.plan.train.clock == "steps":
            return StepClock(self.plan.train.num_steps, step=self.step)
        most_steps = self.plan.train.num_steps - self.step if self.plan.budget.unused_s else math.inf
        return DeadlineClock(
            self.start_s + self.share_s - self.finish_s,
            step_s=self._disturbance.usual_s if math.isfinite(self._disturbance.usual_s) else self.plan.forecast.step_s,
            u=self._resumed_u,
            most_steps=most_steps,
            grace_s=GRACE_SHARE * self.plan.budget.reserve_s,
            is_in_flight=lambda: self._readings.is_in_flight,
        )

    def _steps(self) -> Iterator[Event]:
        """Steps with one size of micro-batch, until the clock is over, somebody wants to stop, or memory runs out."""
        micro_batch, per_step = self._next_micro_batch(), self.trainer.sequences_per_step
        self.trainer.micro_batch = micro_batch
        with Prefetcher(self.windows, micro_batch, self.num_samples) as batches:
            yield from self._start_step()
            while not self.clock.is_over and self._next_micro_batch() == micro_batch:
                u = self.clock.u
                share = lr_share(u, self.plan.train)
                started_s = now_s()
                try:
                    loss, grad_norm = self.trainer.step((next(batches) for _ in range(per_step // micro_batch)), lr_share=share)
                except RuntimeError as error:
                    yield self._shrink(error)
                    return
                reading = self._readings.exchange(self.step, loss, grad_norm)
                self._note_step(u)
                self.clock.tick()
                if reading:
                    self._take(reading)
                    self._step_s.append(now_s() - started_s)
                    pace = self.plan.train.tokens_per_step / max(1e-9, self._step_s[-1])
                    self._note_memory()
                    where = (self.step, self.clock.u, reading.loss, share, reading.grad_norm, self.num_tokens, pace)
                    yield StepDone(*where, self.elapsed_s, self.clock.remaining_s, self.peak_memory_bytes)
                yield from self._between_steps()
                if self.should_stop():
                    self.is_interrupted = True
                    return
                yield from self._start_step()

    def _next_micro_batch(self) -> int:
        """In a replay what the recorded step had, because sums of floats depend on it; never more than fits here."""
        fits = self.trainer.micro_batch
        return min(fits, self.recorded.micro_batch[self.step]) if self.recorded and not self.clock.is_over else fits

    def _start_step(self) -> Iterator[Event]:
        if isinstance(self.clock, DeadlineClock):
            self._keep_time(self.clock)
            self.clock.start_step()
            if self.clock.grace_taken_s:
                reason = f"{format_duration(self.clock.pause_s)} passed between two steps: {_told_grace(self.clock)}"
                yield Refit(self.step, reason, self.clock.expected_steps)

    def _see_pace(self, clock: DeadlineClock) -> str:
        reason = self._disturbance.see_step(clock.last_step_s, is_stall=clock.is_stall, left_s=clock.until_deadline_s)
        self._keep_time(clock)
        if clock.grace_taken_s:
            return f"a step took {format_duration(clock.last_step_s)}: {_told_grace(clock)}"
        return reason

    def _keep_time(self, clock: DeadlineClock) -> None:
        clock.reserve_s = self._evaluations.reserve_s + self._disturbance.extra_s

    def _note_step(self, u: float) -> None:
        self._average.see(u)
        self.record.u.append(u)
        self.record.micro_batch.append(self.trainer.micro_batch)
        self.step += 1
        self.num_samples += self.trainer.sequences_per_step
        self.loop_s = now_s() - self._loop_start_s

    def _note_memory(self) -> None:
        if self.step % 16 == 1:  # asking the system costs as much as a small operation
            self.peak_memory_bytes = max(self.peak_memory_bytes, memory.peak_bytes(self.trainer.device))

    def _land(self) -> None:
        """Wait for the step in flight, so that what follows is not charged with it."""
        if reading := self._readings.flush():
            self._take(reading)

    def _take(self, reading: Reading) -> None:
        self._watch.see(reading.loss, self.step)
        if math.isfinite(reading.loss):
            self.record.loss.append(reading.loss)

    def _between_steps(self) -> Iterator[Event]:
        if isinstance(self.clock, DeadlineClock) and self.clock.is_measured and (reason := self._see_pace(self.clock)):
            yield Refit(self.step, reason, self.clock.expected_steps)
        if isinstance(self.clock, DeadlineClock) and self.clock.is_over:
            return
        if self._evaluations.is_due(self.clock.u):
            self._evaluations.num_past += 1
            if self._evaluations.are_too_dear and isinstance(self.clock, DeadlineClock):
                yield Refit(self.step, f"evaluation skipped: it takes {self._evaluations.price_s:.1f} s", self.clock.expected_steps)
            else:
                yield self._evaluate()
        remaining_s = self.clock.remaining_s if isinstance(self.clock, DeadlineClock) else math.inf
        if not self._saving.is_due(now_s(), remaining_s=remaining_s):
            return
        if not self._saving.fits(remaining_s):
            self._saving.last_s = now_s()
            takes = "takes" if self._saving.times_s else "may take"
            yield Refit(self.step, f"checkpoint skipped: it {takes} {self._saving.price_s:.1f} s", self.clock.expected_steps)
        else:
            yield from self._checkpoint()

    def _evaluate(self) -> EvalDone | Warned:
        self._land()
        started_s = now_s()
        try:
            val_bpb = self._validation.bits_per_byte(self.trainer)
        except RuntimeError as error:
            return self._skip_evaluation(error)
        self._watch.see_validation(val_bpb, self.step)
        cost_s = now_s() - started_s
        self._evaluations.times_s.append(cost_s)
        row = {"elapsed_s": round(self.elapsed_s, 2), "val_bpb": round(val_bpb, 5), "train_loss": round(self.record.mean_loss(20), 4)}
        self.record.curve.append({**row, "step": self.step, "tokens": self.num_tokens})
        return EvalDone(self.step, self.clock.u, val_bpb, self.elapsed_s, cost_s)

    def _skip_evaluation(self, error: RuntimeError) -> Warned:
        """An evaluation is worth less than the training: after an out-of-memory error it is left out; any other error goes on."""
        if not memory.is_out_of_memory(error):
            raise error
        self.trainer.model.train()  # the evaluation was left half-way
        memory.free(error, self.trainer.device)
        self._validation.shrink()
        return self._warn(f"an evaluation was left out for want of memory; the next one reads {self._validation.batch_size} windows at a time")

    def _checkpoint(self) -> Iterator[Event]:
        self._land()
        started_s = now_s()
        progress = {
            "step": self.step,
            "num_samples": self.num_samples,
            "elapsed_s": self.elapsed_s,
            "share_s": self.share_s,
            "loop_s": self.loop_s,
            "u": self.clock.u,
            "micro_batch": self.trainer.micro_batch,
            "evaluations": self._evaluations.as_progress(),
            "usual_step_s": self._disturbance.usual_s if math.isfinite(self._disturbance.usual_s) else None,
            "saves_s": self._saving.times_s,
            "num_resumes": self.num_resumes,
            "peak_memory_bytes": self.peak_memory_bytes,
            "warnings": self.warnings,
            "record": self.record.as_progress(),
        }
        try:
            num_bytes = checkpoint.save(self.work, self.trainer.state() | self._average.state() | self.record.tensors(), progress)
        except OSError as error:
            yield self._warn(f"the checkpoint could not be saved ({error.strerror or error}); training goes on, the last good one is kept")
        else:
            self._saving.times_s.append(now_s() - started_s)
            self.saved_step = self.step
            yield CheckpointSaved(self.step, self._saving.times_s[-1], num_bytes)
        self._saving.last_s = now_s()

    def _warn(self, message: str) -> Warned:
        self.warnings.append(message)
        return Warned(self.step, message)

    def _begin(self) -> Iterator[Event]:
        """A dry step, so that the first step is like all others to the clock; then the state of an interrupted training, where there is one."""
        found, complaints = checkpoint.newest(self.work)
        progress = checkpoint.load_progress(found) if found else None
        if progress:
            self.trainer.micro_batch, self.warnings = progress["micro_batch"], progress["warnings"]
        for complaint in complaints:
            yield self._warn(complaint)
        if complaints and not found:
            yield self._warn("no whole checkpoint is left: training starts anew")
        yield from self._dry_step()
        if found and progress:
            self._go_on(checkpoint.load_tensors(found), progress)

    def _go_on(self, tensors: dict[str, torch.Tensor], progress: dict[str, Any]) -> None:
        self.trainer.load_state(tensors)
        self._average.load_state(tensors)
        self.step, self.num_samples = progress["step"], progress["num_samples"]
        self.loop_s, self.num_resumes = progress["loop_s"], progress["num_resumes"] + 1
        self.peak_memory_bytes = progress["peak_memory_bytes"]
        self.record, self.saved_step = Record.restored(tensors, progress["record"]), self.step
        assert len(self.record.u) == self.step
        self._resumed_u = progress["u"]
        self.start_s, self.share_s = now_s() - progress["elapsed_s"], progress["share_s"]  # what was spent before the first start is spent once
        self._evaluations = Evaluations(self.plan.train.num_evals, self.share_s, **progress["evaluations"])
        self._disturbance = Disturbance(later_s=self.plan.budget.reserve_s, usual_s=progress["usual_step_s"] or math.inf)
        self._saving.times_s = progress["saves_s"]

    def _dry_step(self) -> Iterator[Event]:
        while True:
            micro_batch = self.trainer.micro_batch
            batches = [self.windows.batch(0, micro_batch) for _ in range(self.trainer.sequences_per_step // micro_batch)]
            try:
                self.trainer.dry_step(batches)
                return
            except RuntimeError as error:
                yield self._shrink(error)

    def _shrink(self, error: RuntimeError) -> Shrunk:
        """Halve the micro-batch after an out-of-memory error; any other error goes on."""
        if not memory.is_out_of_memory(error):
            raise error
        micro_batch = self.trainer.micro_batch
        smaller = memory.smaller(micro_batch, self.trainer.sequences_per_step, device=self.trainer.device, step=self.step)
        self.trainer.drop_gradients()
        memory.free(error, self.trainer.device)
        self.trainer.micro_batch = smaller
        reason = f"out of memory with {micro_batch} sequences at a time; going on with {smaller}, {self.plan.train.tokens_per_step} tokens a step as before"
        self.warnings.append(reason)
        return Shrunk(self.step, smaller, reason)


def _told_grace(clock: DeadlineClock) -> str:
    return f"{format_duration(clock.grace_taken_s)} of the time for evaluation and export bring the learning rate down"
