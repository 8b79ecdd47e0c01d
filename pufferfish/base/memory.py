"""Memory of this process."""

from __future__ import annotations

import os
import resource
import sys

import psutil


def process_memory_bytes() -> int:
    """What the process holds in memory now."""
    return int(psutil.Process(os.getpid()).memory_info().rss)


def peak_memory_bytes() -> int:
    """The most that the process held since its start. Linux counts in KiB, macOS in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
