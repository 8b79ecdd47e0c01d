"""How much of the processor this process may use."""

from __future__ import annotations

import os
import platform
from pathlib import Path

from pufferfish.base.processor import cpuinfo, sysctl
from pufferfish.probe import cgroup


def allowed_cpus() -> set[int]:
    """Numbers of the logical processors that the scheduler gives this process."""
    if hasattr(os, "sched_getaffinity"):
        return os.sched_getaffinity(0)
    return set(range(os.cpu_count() or 1))


def usable_cores(root: Path = cgroup.ROOT, *, allowed: set[int] | None = None) -> int:
    """Logical processors that this process may use: those it may run on, or its quota of time, rounded to the nearest."""
    num_allowed = len(allowed_cpus() if allowed is None else allowed)
    quota = cgroup.cpu_quota(root)
    return num_allowed if quota is None else max(1, min(num_allowed, int(quota + 0.5)))


def usable_threads(root: Path = cgroup.ROOT, *, allowed: set[int] | None = None, system: str | None = None) -> int:
    """Threads for matrix products: one for each physical core that may be used, since two on one core share its arithmetic units."""
    allowed = allowed_cpus() if allowed is None else allowed
    if (system or platform.system()) == "Darwin":
        physical = int(sysctl("hw.perflevel0.physicalcpu") or sysctl("hw.physicalcpu") or len(allowed))
    else:
        cores = {
            (fields["physical id"], fields["core id"])
            for fields in cpuinfo(root)
            if "physical id" in fields and "core id" in fields and int(fields["processor"]) in allowed
        }
        physical = len(cores) or len(allowed)
    return max(1, min(physical, usable_cores(root, allowed=allowed)))
