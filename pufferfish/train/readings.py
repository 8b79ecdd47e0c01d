"""Loss and gradient norm of each step, read without making an accelerator wait: one step late there, at once on the CPU."""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Reading:
    """Numbers of one finished step."""

    step: int
    loss: float
    grad_norm: float


class Readings:
    """Take in what a step returned, give out what has been computed by now."""

    def __init__(self, device: torch.device) -> None:
        self.is_asynchronous = device.type == "cuda"
        self._pending: tuple[int, torch.Tensor, torch.cuda.Event] | None = None

    @property
    def is_in_flight(self) -> bool:
        """Whether the last step is still being computed, for all that is known here."""
        return self._pending is not None

    def exchange(self, step: int, loss: torch.Tensor, grad_norm: torch.Tensor) -> Reading | None:
        """Hand in the results of `step`; get those of this step (CPU) or of the one before (accelerator, waiting until it is finished)."""
        values = torch.stack((loss.detach(), grad_norm.detach().to(loss.dtype)))
        if not self.is_asynchronous:
            return Reading(step, *values.tolist())
        before = self.flush()
        copied = torch.empty_like(values, device="cpu", pin_memory=True).copy_(values, non_blocking=True)
        event = torch.cuda.Event()
        event.record()
        self._pending = (step, copied, event)
        return before

    def flush(self) -> Reading | None:
        """The results that are still on their way, if any."""
        if self._pending is None:
            return None
        step, values, event = self._pending
        event.synchronize()
        self._pending = None
        return Reading(step, *values.tolist())
