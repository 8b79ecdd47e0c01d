"""What the planner is handed: prices of models, measured steps, short trainings, and what a vocabulary would cost on this text."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from statistics import geometric_mean
from typing import Protocol

from pufferfish.schema.plan import DataPlan, ModelPlan, TrainPlan


class Price(Protocol):
    """Closed-form cost of a model; see `model/price.py`."""

    @property
    def num_params(self) -> int: ...
    @property
    def matmul_params(self) -> int: ...
    @property
    def flops_per_token(self) -> float: ...
    @property
    def activation_elements_per_token(self) -> float: ...
    @property
    def block_elements_per_token(self) -> float: ...
    @property
    def float32_elements_per_token(self) -> float: ...
    @property
    def logits_per_token(self) -> int: ...
    @property
    def num_operations(self) -> int: ...


@dataclass(frozen=True)
class StepTime:
    """Real steps of one configuration, measured in the conditions of the run."""

    step_s: float  # the geometric mean where they were measured several times
    peak_memory_bytes: int
    first_step_s: float  # building, compiling and the first step
    fits: bool = True  # False: memory ran out
    is_kept: bool = False  # measured for an earlier plan
    takes_s: tuple[float, ...] = ()  # each, where there are several

    @property
    def each_s(self) -> tuple[float, ...]:
        """Every measurement."""
        return self.takes_s or (self.step_s,)

    @property
    def num_takes(self) -> int:
        """How often they were measured."""
        return len(self.each_s)

    def with_another(self, take: StepTime) -> StepTime:
        """The same with what was found when they were measured once more, if that found anything."""
        if not take.fits:
            return self
        takes_s = (*self.each_s, take.step_s)
        return replace(self, step_s=geometric_mean(takes_s), takes_s=takes_s, peak_memory_bytes=max(self.peak_memory_bytes, take.peak_memory_bytes))


@dataclass(frozen=True)
class Pilot:
    """A short training on the text, annealed to zero: what the loss law needs to forecast it, and what it reached."""

    model: ModelPlan
    tokens_per_step: int
    num_steps: int
    bytes_per_token: float
    unique_bytes: float  # of the text that it read from
    limit_s: float  # the time that it had
    val_bpb: float

    @property
    def tokens(self) -> int:
        """Read in all."""
        return self.num_steps * self.tokens_per_step


class Vocabulary(Protocol):
    """One vocabulary on this text and machine; see `data/survey.py`."""

    @property
    def vocab_size(self) -> int: ...
    @property
    def bytes_per_token(self) -> float: ...
    @property
    def train_tokenizer_s(self) -> float: ...
    @property
    def encode_s_per_mb(self) -> float: ...
    @property
    def filling_bytes(self) -> float: ...


PriceOf = Callable[[ModelPlan, str], Price]  # a model and its attention kernel
Measure = Callable[[ModelPlan, TrainPlan], StepTime]
RunPilot = Callable[[ModelPlan, TrainPlan, float], Pilot | None]  # in so many seconds, building and validation among them; None where it came to nothing
OpenPilots = Callable[[DataPlan, int], RunPilot]  # on the planned text, with so many bytes of it to learn from
