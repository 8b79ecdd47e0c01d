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
from pufferfish.train.compiling import COMPILING, no_compilation
from pufferfish.train.divergence import Watch
from pufferfish.train.environment import environment_here
from pufferfish.train.pace import Pace
from pufferfish.train.progress import Progress
from pufferfish.train.readings import Reading, Readings
from pufferfish.train.realised import Realised
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


class Training(Progress):
    """One training run. Iterate over `run()`; afterwards the attributes say what happened. `finish_s` of its share is kept for what follows the loop."""

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
        super().__init__(plan, share_s=share_s, start_s=start_s)
        self.corpora, self.work, self.should_stop = corpora, work, should_stop
        self.finish_s, self.recorded = finish_s, recorded
        self.saved_step: int | None = None  # what an interruption cannot take
        self.is_interrupted, self.is_averaged = False, False
        self._step_s = deque[float](maxlen=1024)
        self._watch = Watch(plan)
        self._loop_start_s = now_s()

    def run(self) -> Iterator[Event]:
        """Train to the end of the clock, or until `should_stop`. Raises UserError if the training diverges or nothing fits into memory."""
        plan = self.plan.train
        self.trainer = Trainer(self.plan.model, plan, self.corpora.train)
        self.windows = Windows(self.corpora.train, self.plan.model.seq_len, plan.data_seed)
        self._average = Average(self.trainer.weights.masters, is_teacher=plan.teacher_share > 0)
        num_bytes = sum(tensor.nbytes for tensor in (self.trainer.state() | self._average.state()).values())
        self._saving = Saving(plan.checkpoint_interval_s, now_s(), guess_s=num_bytes / DISK_BYTES_PER_S, times_s=self._saves_s)
        self.environment = environment_here(plan)
        corpora = self.corpora
        self._validation = Validation(
            corpora.validation, seq_len=self.plan.model.seq_len, num_tokens=plan.eval_tokens, bytes_per_token=corpora.validation_bytes_per_token
        )
        yield from self._begin()
        self._readings = Readings(self.trainer.device)
        self.clock = self._make_clock()
        self._pace = Pace(self.clock, self._evaluations, self._disturbance, self._saving)
        self._saving.last_s = now_s()
        yield Started(self.step, self.plan.forecast.num_params, self.clock.remaining_s, self.num_resumes > 0)
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
        self._watch.see_end(self.trainer.weights.masters.values(), self.mean_loss, self.step)
        is_cut_off = is_worth_it(self.record.u)
        self.is_averaged = is_cut_off or plan.teacher_share > 0
        if is_cut_off:
            yield self._warn(f"time was over at {self.record.u[-1]:.0%} of the schedule: the model is the average of its last weights")
        yield Finished(self.step, self.clock.u, self.num_tokens, self.elapsed_s, self.clock.late_s)

    @property
    def median_step_s(self) -> float:
        """Of the last steps; 0 before the first."""
        return statistics.median(self._step_s) if self._step_s else 0.0

    @property
    def is_lost(self) -> bool:
        """Whether the last step was: its loss or gradient is not a number."""
        return self._watch.is_lost

    def final_weights(self) -> dict[str, torch.Tensor]:
        """After `run`, by the names of the stock architecture: float32, on the CPU. The last, or an average, if it taught or the schedule was cut off."""
        averages = {name: mean.to("cpu", torch.float32) for name, mean in self._average.means.items()} if self.is_averaged else {}
        return self.trainer.exported_weights() | averages

    def _make_clock(self) -> DeadlineClock | StepClock | ReplayClock:
        if self.recorded is not None:
            return ReplayClock(self.recorded.u, step=self.step, step_s=self.share_s / max(1, len(self.recorded.u)))
        if self.plan.train.clock == "steps":
            return StepClock(self.plan.train.num_steps, step=self.step, step_s=self.plan.forecast.step_s)
        most_steps = self.plan.train.num_steps - self.step if self.plan.budget.unused_s else math.inf
        return DeadlineClock(
            self.start_s + self.share_s - self.finish_s,
            step_s=self._disturbance.usual_s if math.isfinite(self._disturbance.usual_s) else self.plan.forecast.step_s,
            u=self._first_u,
            most_steps=most_steps,
            grace_s=GRACE_SHARE * self.plan.budget.reserve_s,
            given_s=self._given_s,
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
        if reason := self._pace.start_step():
            yield self._refit(reason)

    def _note_step(self, u: float) -> None:
        if self._average.see(u):
            self.trainer.teach(self._average.means)
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
        self._watch.see(reading.loss, reading.grad_norm, self.step)
        if math.isfinite(reading.loss):
            self.record.loss.append(reading.loss)

    def _between_steps(self) -> Iterator[Event]:
        if reason := self._pace.see_step():
            yield self._refit(reason)
        if isinstance(self.clock, DeadlineClock) and self.clock.is_over:
            return
        if self._evaluations.is_due(self.clock.u):
            reason = self._pace.pass_evaluation()
            yield self._refit(reason) if reason else self._evaluate()
        if self._saving.is_due(now_s(), remaining_s=self._pace.remaining_s):
            if reason := self._pace.pass_checkpoint():
                self._saving.last_s = now_s()
                yield self._refit(reason)
            else:
                yield from self._checkpoint()

    def _evaluate(self) -> EvalDone | Warned:
        self._land()
        started_s = now_s()
        try:
            val_bpb = self._validation.bits_per_byte(self.trainer)
        except RuntimeError as error:
            return self._warn(self._validation.shrink(self.trainer, error))
        self._watch.see_validation(val_bpb, self.mean_loss, self.step)
        cost_s = now_s() - started_s
        self._evaluations.times_s.append(cost_s)
        row = {"elapsed_s": round(self.elapsed_s, 2), "val_bpb": round(val_bpb, 5), "train_loss": round(self.mean_loss, 4)}
        self.record.curve.append({**row, "step": self.step, "tokens": self.num_tokens})
        return EvalDone(self.step, self.clock.u, val_bpb, self.elapsed_s, cost_s)

    def _checkpoint(self) -> Iterator[Event]:
        """The state on disk, unless the last step was lost; a disk that stays full is told once."""
        self._land()
        if self._watch.is_lost:
            return
        started_s = now_s()
        tensors = self.trainer.state() | self._average.state() | self.record.tensors()
        try:
            num_bytes = checkpoint.save(self.work, tensors, self.as_progress(self.clock, micro_batch=self.trainer.micro_batch))
        except OSError as error:
            if not self._saving.failed_s:
                yield self._warn(f"the checkpoint could not be saved ({error.strerror or error}); training goes on, the last good one is kept")
            self._saving.failed_s = now_s() - started_s
        else:
            self._saving.made(now_s() - started_s)
            self.saved_step = self.step
            yield CheckpointSaved(self.step, self._saving.times_s[-1], num_bytes)
        self._saving.last_s = now_s()

    def _refit(self, reason: str) -> Refit:
        return Refit(self.step, reason, self.clock.expected_steps)

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
            tensors = checkpoint.load_tensors(found)
            self.trainer.load_state(tensors)
            self._average.load_state(tensors)
            self.trainer.teach(self._average.means)
            self.go_on(tensors, progress)
            self.saved_step = self.step

    def _dry_step(self) -> Iterator[Event]:
        while True:
            micro_batch = self.trainer.micro_batch
            batches = [self.windows.batch(0, micro_batch) for _ in range(self.trainer.sequences_per_step // micro_batch)]
            try:
                self.trainer.dry_step(batches)
                return
            except COMPILING as error:
                if self.plan.train.is_compiled and not memory.is_out_of_memory(error):
                    raise no_compilation(error) from None
                yield self._shrink(error)

    def _shrink(self, error: Exception) -> Shrunk:
        """Any error but one of memory goes on."""
        self.warnings.append(memory.shrink(self.trainer, error, step=self.step))
        return Shrunk(self.step, self.trainer.micro_batch, self.warnings[-1])
