"""Whether the training still learns: losses, gradients, weights and validation are numbers, and better than a guess, or the user hears that it diverged."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch

from pufferfish.base.errors import UserError
from pufferfish.schema.plan import Plan

LOST_STEPS = 3  # in a row with a loss or a gradient that is not finite: it will not recover
FAR_WORSE = 2.0  # times the loss of a uniform guess: a training that learns begins at about one and falls


class Watch:
    """Sees every loss. Raises UserError once the training has diverged; a single lost step is forgiven, but not the last loss.

    Whether a loss is far too high is asked of the text that is learned from: a validation text may be of another kind.
    """

    def __init__(self, plan: Plan) -> None:
        self._learning_rate, self._guess_nats = plan.train.matrix_lr, math.log(plan.model.vocab_size)
        self._is_scaled = plan.train.dtype == "float16"  # whose gradients overflow now and then, until their scale fits
        self._lost_steps, self._last_loss = 0, 0.0

    @property
    def is_lost(self) -> bool:
        """Whether the last step was: its weights may be ruined, and are not to be kept."""
        return self._lost_steps > 0

    def see(self, loss: float, grad_norm: float, step: int) -> None:
        """Raises UserError after too many lost steps in a row."""
        is_good = math.isfinite(loss) and (self._is_scaled or math.isfinite(grad_norm))
        self._lost_steps, self._last_loss = 0 if is_good else self._lost_steps + 1, loss
        if self._lost_steps >= LOST_STEPS:
            raise self._diverged(f"loss or gradient is not a number for {self._lost_steps} steps", step)

    def see_validation(self, val_bpb: float, mean_loss: float, step: int) -> None:
        """Raises UserError if it is not a number, or if the mean of the last training losses is far worse than a guess."""
        if not math.isfinite(val_bpb):
            raise self._diverged("the validation loss is not a number", step)
        self._see_mean(mean_loss, step)

    def see_end(self, weights: Iterable[torch.Tensor], mean_loss: float, step: int) -> None:
        """After the last step nothing can recover: raises UserError if its loss was lost, if the last ones are far worse than a guess, or if an update ruined
        the weights."""
        if not math.isfinite(self._last_loss):
            raise self._diverged("the last loss is not a number", step)
        if not all(bool(torch.isfinite(weight).all()) for weight in weights):
            raise self._diverged("weights are not numbers after the last update", step)
        self._see_mean(mean_loss, step)

    def _see_mean(self, mean_loss: float, step: int) -> None:
        if mean_loss > FAR_WORSE * self._guess_nats:
            raise self._diverged(f"the loss is {mean_loss:.4g} nats per token, where a guess has {self._guess_nats:.4g}", step)

    def _diverged(self, saw: str, step: int) -> UserError:
        return UserError("training diverged", saw=f"{saw}, at step {step}", fix=f"set train.learning_rate below {self._learning_rate:g} in params.yaml")
