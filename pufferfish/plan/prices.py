"""What the planner is handed: prices of models, measured steps, and what a vocabulary would cost on this text."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from pufferfish.schema.plan import ModelPlan, TrainPlan


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
    def float32_elements_per_token(self) -> float: ...
    @property
    def num_operations(self) -> int: ...


@dataclass(frozen=True)
class StepTime:
    """Real steps of one configuration, measured in the conditions of the run."""

    step_s: float
    peak_memory_bytes: int
    first_step_s: float  # building, compiling and the first step
    fits: bool = True  # False: memory ran out
    is_kept: bool = False  # measured for an earlier plan


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


PriceOf = Callable[[ModelPlan, str], Price]  # a model and its attention kernel
Measure = Callable[[ModelPlan, TrainPlan], StepTime]
