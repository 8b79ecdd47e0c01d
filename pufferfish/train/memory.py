"""Memory: what training uses, and what to do when there is not enough."""

from __future__ import annotations

import traceback

import psutil
import torch


def used_bytes(device: torch.device) -> int:
    """Memory of the device that this process holds: reserved on an accelerator, resident on the CPU."""
    return torch.cuda.memory_reserved() if device.type == "cuda" else psutil.Process().memory_info().rss


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether a failed step failed for want of memory; the CPU allocator says so only in its message."""
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error) or "not enough memory" in str(error)


def free(error: RuntimeError, device: torch.device) -> None:
    """Give back what had been computed when memory ran out."""
    traceback.clear_frames(error.__traceback__)
    if device.type == "cuda":
        torch.cuda.empty_cache()
