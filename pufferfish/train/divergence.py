"""Whether the training still learns: losses, weights and validation are numbers, or the user hears that it diverged."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch

from pufferfish.base.errors import UserError

LOST_STEPS = 3  # in a row with a loss that is not finite: it will not recover


class Watch:
    """Sees every loss. Raises UserError once the training has diverged; a single lost loss is forgiven, but not the last one."""

    def __init__(self, learning_rate: float) -> None:
        self._learning_rate, self._lost_steps = learning_rate, 0

    def see(self, loss: float, step: int) -> None:
        """Raises UserError after too many lost losses in a row."""
        self._lost_steps = 0 if math.isfinite(loss) else self._lost_steps + 1
        if self._lost_steps >= LOST_STEPS:
            raise self._diverged(f"the loss is not a number for {self._lost_steps} steps", step)

    def see_validation(self, val_bpb: float, step: int) -> None:
        """Raises UserError if it is not a number."""
        if not math.isfinite(val_bpb):
            raise self._diverged("the validation loss is not a number", step)

    def see_end(self, weights: Iterable[torch.Tensor], step: int) -> None:
        """After the last step nothing can recover: raises UserError if its loss was lost, or if an update ruined the weights."""
        if self._lost_steps:
            raise self._diverged("the last loss is not a number", step)
        if not all(bool(torch.isfinite(weight).all()) for weight in weights):
            raise self._diverged("weights are not numbers after the last update", step)

    def _diverged(self, saw: str, step: int) -> UserError:
        return UserError("training diverged", saw=f"{saw}, at step {step}", fix=f"set train.learning_rate below {self._learning_rate:g} in params.yaml")
