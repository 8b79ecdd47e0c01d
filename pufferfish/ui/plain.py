"""The live view where there is no terminal: one line per event, for logs."""

from __future__ import annotations

from types import TracebackType
from typing import Self, TextIO

from pufferfish.base.events import CheckpointSaved, EvalDone, Event, Finished, Refit, Shrunk, Started, StepDone, Warned
from pufferfish.base.units import format_bytes, format_count, format_duration

STEP_INTERVAL_S = 5.0


class PlainView:
    """Called with every event; writes lines. Steps are thinned out by time, evaluations and warnings always show."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._next_s = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self._stream.flush()

    def __call__(self, event: Event) -> None:
        """Write the event's line, if it is time for one."""
        if isinstance(event, StepDone):
            if event.elapsed_s < self._next_s:
                return
            self._next_s = event.elapsed_s + STEP_INTERVAL_S
        line = event_line(event)
        if line:
            self._stream.write(f"train: {line}\n")
            self._stream.flush()


def event_line(event: Event) -> str:
    """One event for people; empty for what nobody needs to read."""
    match event:
        case Started():
            verb = f"goes on from step {event.step}" if event.is_resumed else "starts"
            return f"{verb}: {format_count(event.num_params)} parameters, {format_duration(event.train_s)}"
        case StepDone():
            speed = f"{format_count(event.tokens_per_s)} tokens/s"
            rest = f"rate {event.learning_rate:.2f}  {format_bytes(event.memory_bytes)}  {format_duration(event.remaining_s)} left"
            return f"{event.u:4.0%}  step {event.step}  loss {event.loss:.3f}  {speed}  {rest}"
        case EvalDone():
            return f"{event.u:4.0%}  step {event.step}  validation {event.val_bpb:.3f} bits per byte  ({format_duration(event.cost_s)})"
        case CheckpointSaved():
            return f"      step {event.step}  saved {format_bytes(event.num_bytes)} in {format_duration(event.cost_s)}"
        case Finished():
            lateness = "" if event.late_s is None else f", {format_duration(abs(event.late_s))} {'late' if event.late_s > 0 else 'early'}"
            return f"done: {event.step} steps, {format_count(event.num_tokens)} tokens in {format_duration(event.elapsed_s)}{lateness}"
        case Refit() | Shrunk() | Warned():
            return f"      step {event.step}  {notice(event)}"


def notice(event: Refit | Shrunk | Warned) -> str:
    """What the user should know although the work goes on."""
    match event:
        case Refit():
            return f"{event.reason}; {event.expected_steps} steps expected"
        case Shrunk():
            return f"memory ran out, micro-batch is now {event.micro_batch}: {event.reason}"
        case Warned():
            return event.message
