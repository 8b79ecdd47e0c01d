"""One clock for every stage: seconds since boot, sleep included, the same in all processes of a machine."""

from __future__ import annotations

import os
import time
from pathlib import Path

import psutil

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
PROCESS = Path("/proc/self/stat")


def now_s() -> float:
    """Seconds since boot. Monotonic, and it goes on while a laptop sleeps (CLOCK_BOOTTIME where the system has it)."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


def process_start_s() -> float:
    """When this process started, on the clock of `now_s`: interpreter start and imports are part of the user's budget.

    Linux counts it in ticks since boot (field 22 of proc_pid_stat(5)). The date that psutil makes of it is up to a second off, as boot has whole seconds.
    """
    if PROCESS.exists():
        return int(PROCESS.read_text().rpartition(")")[2].split()[19]) / os.sysconf("SC_CLK_TCK")
    return now_s() - (time.time() - psutil.Process(os.getpid()).create_time())


def boot_id() -> str:
    """Names this boot, so that stamps of another one are not compared with ours."""
    if BOOT_ID.exists():
        return BOOT_ID.read_text().strip()
    return f"{psutil.boot_time():.0f}"
