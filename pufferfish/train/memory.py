"""Memory: what training uses, and what to do when there is not enough."""

from __future__ import annotations

import traceback
from typing import TYPE_CHECKING

import psutil
import torch

from pufferfish.base.errors import UserError
from pufferfish.base.memory import says_out_of_memory

if TYPE_CHECKING:
    from pufferfish.train.step import Trainer

CONTEXT_BYTES = 600_000_000  # of CUDA and its libraries, beside what is reserved; the guess of plans (plan/memory.py), so that both count the same


def hold_to(num_bytes: int) -> None:
    """Let this process take no more of the accelerator's memory than so many bytes: more is as if there were none."""
    share = (num_bytes - CONTEXT_BYTES) / torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction(min(1.0, max(0.0, share)))


def used_bytes(device: torch.device) -> int:
    """Memory of the device that this process holds: resident on the CPU; on an accelerator what is reserved, and the context."""
    return CONTEXT_BYTES + torch.cuda.memory_reserved() if device.type == "cuda" else psutil.Process().memory_info().rss


def peak_bytes(device: torch.device) -> int:
    """The most of `used_bytes` since the peak was reset; on the CPU, where nobody keeps it, what is held now."""
    return CONTEXT_BYTES + torch.cuda.max_memory_reserved() if device.type == "cuda" else used_bytes(device)


def is_out_of_memory(error: Exception) -> bool:
    """Whether a failed step failed for want of memory."""
    return isinstance(error, torch.OutOfMemoryError) or says_out_of_memory(error)


def smaller(micro_batch: int, per_step: int, *, device: torch.device, step: int) -> int:
    """Sequences at a time, half as many or less, that divide those of a step. Raises UserError after a single one, with the step where that was."""
    fits = next((size for size in range(micro_batch // 2, 0, -1) if per_step % size == 0), 0)
    if not fits:
        raise UserError(
            "memory does not suffice for a single sequence",
            saw=f"{used_bytes(device) / 1e9:.1f} GB in use at step {step}",
            fix="set hardware_probe.memory in params.yaml to what is really free, so that the plan fits",
        )
    return fits


def shrink(trainer: Trainer, error: Exception, *, step: int) -> str:
    """Halve the micro-batch after an out-of-memory error and say so; any other error goes on. Raises UserError after a single sequence."""
    if not is_out_of_memory(error):
        raise error
    micro_batch = trainer.micro_batch
    trainer.micro_batch = smaller(micro_batch, trainer.sequences_per_step, device=trainer.device, step=step)
    trainer.drop_gradients()
    free(error, trainer.device)
    return f"out of memory with {micro_batch} sequences at a time; going on with {trainer.micro_batch}, {trainer.plan.tokens_per_step} tokens a step as before"


def free(error: Exception, device: torch.device) -> None:
    """Give back what had been computed when memory ran out."""
    traceback.clear_frames(error.__traceback__)
    if device.type == "cuda":
        torch.cuda.empty_cache()
