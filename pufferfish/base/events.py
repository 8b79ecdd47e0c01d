"""What happens during training. The loop yields these; the screen, the log, tracking and tests listen."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Started:
    """Training begins, or goes on after an interruption."""

    step: int
    num_params: int
    train_s: float  # until its end, as far as it is known: a deadline, or so many steps at the planned pace
    is_resumed: bool


@dataclass(frozen=True)
class StepDone:
    """One optimizer step. `loss` is the mean over the step's tokens in nats, and lags behind where the device is asynchronous."""

    step: int
    u: float  # progress of the schedule, 0..1
    loss: float
    learning_rate: float  # multiplier of the peak learning rates, 0..1
    grad_norm: float
    num_tokens: int  # trained on so far
    tokens_per_s: float
    elapsed_s: float
    remaining_s: float
    memory_bytes: int


@dataclass(frozen=True)
class EvalDone:
    """A periodic evaluation on windows spread over the validation text."""

    step: int
    u: float
    val_bpb: float
    elapsed_s: float
    cost_s: float


@dataclass(frozen=True)
class CheckpointSaved:
    """The state for resuming is on disk."""

    step: int
    cost_s: float
    num_bytes: int


@dataclass(frozen=True)
class Refit:
    """The schedule was corrected, or something was skipped or shrunk to keep the deadline; `reason` says which."""

    step: int
    reason: str
    expected_steps: int


@dataclass(frozen=True)
class Shrunk:
    """Memory ran out: the micro-batch was reduced, the tokens per step stay."""

    step: int
    micro_batch: int
    reason: str


@dataclass(frozen=True)
class Warned:
    """Something that the user should know and that does not stop the work."""

    step: int
    message: str


@dataclass(frozen=True)
class Finished:
    """The schedule reached its end."""

    step: int
    u: float
    num_tokens: int
    elapsed_s: float
    late_s: float | None  # after the deadline, which a stall may have moved; negative is early. None: the steps were counted


Event = Started | StepDone | EvalDone | CheckpointSaved | Refit | Shrunk | Warned | Finished
