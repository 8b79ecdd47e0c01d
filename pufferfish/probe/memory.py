"""Memory of the machine that this process may use: all of it (the same at every call), and what is free now."""

from __future__ import annotations

from pathlib import Path

import psutil

from pufferfish.probe import cgroup

STABLE_BYTES = 2**26  # the total differs by a few MiB between boots and kernels, and must not name another machine


def total_memory_bytes(root: Path = cgroup.ROOT, *, physical: int | None = None) -> int:
    """The smaller of the machine's memory, rounded down to 64 MiB, and the limit of the control group."""
    physical = psutil.virtual_memory().total if physical is None else physical
    rounded = physical // STABLE_BYTES * STABLE_BYTES
    limit = cgroup.memory_limit_bytes(root)
    return rounded if limit is None else min(rounded, limit)


def available_memory_bytes(root: Path = cgroup.ROOT, *, available: int | None = None) -> int:
    """What can be allocated now without swapping: the machine's, or what is left in the control group."""
    available = psutil.virtual_memory().available if available is None else available
    limit, used = cgroup.memory_limit_bytes(root), cgroup.memory_used_bytes(root)
    return available if limit is None or used is None else max(0, min(available, limit - used))
