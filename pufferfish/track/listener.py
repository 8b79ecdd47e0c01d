"""Training's events as points of curves."""

from __future__ import annotations

from pufferfish.base.events import CheckpointSaved, EvalDone, Event, Finished, Refit, Shrunk, Started, StepDone, Warned
from pufferfish.track.tracker import Tracker

STEP_INTERVAL_S = 1.0
INTERVAL_GROWTH = 1e-3  # a long run has some thousand points, not a million
MAX_NOTES = 500


class TrainingListener:
    """Called with every event; costs microseconds. Steps are thinned out, everything else is always logged."""

    def __init__(self, tracker: Tracker) -> None:
        self._tracker = tracker
        self._next_s = 0.0
        self._last: StepDone | None = None
        self._notes: list[str] = []
        self._first_step = 0

    def __call__(self, event: Event) -> None:
        """Log one event."""
        match event:
            case Started():
                self._first_step = event.step
                self._tracker.metrics({"train/num_params": event.num_params}, event.step)
            case StepDone():
                self._last = event
                if event.elapsed_s >= self._next_s:
                    self._next_s = event.elapsed_s + STEP_INTERVAL_S + INTERVAL_GROWTH * event.elapsed_s
                    self._log_step(event)
            case EvalDone():
                self._tracker.metrics({"val/bpb": event.val_bpb, "val/cost_s": event.cost_s, "val/elapsed_s": event.elapsed_s}, event.step)
            case CheckpointSaved():
                self._tracker.metrics({"checkpoint/cost_s": event.cost_s, "checkpoint/bytes": event.num_bytes}, event.step)
            case Refit():
                self._note(event.step, f"{event.reason}; {event.expected_steps} steps expected")
            case Shrunk():
                self._note(event.step, f"micro-batch {event.micro_batch}: {event.reason}")
            case Warned():
                self._note(event.step, event.message)
            case Finished():
                if self._last is not None:
                    self._log_step(self._last)
                late = {} if event.late_s is None else {"train/late_s": event.late_s}
                self._tracker.metrics({"train/elapsed_s": event.elapsed_s, "train/num_steps": event.step, **late}, event.step)

    def _log_step(self, event: StepDone) -> None:
        values = {
            "train/loss": event.loss,
            "train/u": event.u,
            "train/learning_rate": event.learning_rate,
            "train/grad_norm": event.grad_norm,
            "train/num_tokens": event.num_tokens,
            "train/tokens_per_s": event.tokens_per_s,
            "train/memory_bytes": event.memory_bytes,
        }
        self._tracker.metrics(values, event.step)

    def _note(self, step: int, text: str) -> None:
        """One text file for the notes of this process; a resumed training writes another one."""
        if len(self._notes) < MAX_NOTES:
            self._notes.append(f"step {step}: {text}")
            self._tracker.text(f"notes/from-step-{self._first_step}.txt", "\n".join(self._notes) + "\n")
