"""Whether the machine is in a state to work: enough memory and disk, nobody else at it. Asked anew each time, never part of its identity."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil

from pufferfish.base.units import format_bytes
from pufferfish.probe import nvidia
from pufferfish.schema.hardware import Fingerprint

ADVISED_MEMORY_BYTES = 8 * 10**9
ADVISED_DISK_BYTES = 10 * 10**9
BUSY_SHARE = 0.5  # of the cores; the pipeline's own start is part of it


def advice(fingerprint: Fingerprint, *, folder: Path, nvml: Any, environment: Mapping[str, str]) -> list[str]:
    """What the user should know before training here, one sentence each; empty where all is well."""
    found = [memory_advice(fingerprint), disk_advice(folder), load_advice(), *gpu_advice(nvml, environment)]
    return [sentence for sentence in found if sentence]


def memory_advice(fingerprint: Fingerprint) -> str:
    """Less memory than advised."""
    if fingerprint.memory_bytes >= ADVISED_MEMORY_BYTES:
        return ""
    return f"{format_bytes(fingerprint.memory_bytes)} of memory; {format_bytes(ADVISED_MEMORY_BYTES)} are advised"


def disk_advice(folder: Path) -> str:
    """Less free disk than advised."""
    free_bytes = shutil.disk_usage(folder).free
    return "" if free_bytes >= ADVISED_DISK_BYTES else f"{format_bytes(free_bytes)} free on the disk; {format_bytes(ADVISED_DISK_BYTES)} are advised"


def load_advice(*, running: float | None = None, num_cores: int | None = None) -> str:
    """The machine was busy over the last minute, by its mean number of running threads (unlike the cores, not that of a container alone)."""
    running = os.getloadavg()[0] if running is None else running
    num_cores = num_cores or psutil.cpu_count() or 1
    if running < BUSY_SHARE * num_cores:
        return ""
    return f"this machine was busy over the last minute (load {running:.1f} on {num_cores} cores): what is measured and trained beside it is slower"


def gpu_advice(nvml: Any, environment: Mapping[str, str]) -> list[str]:
    """Other processes on the visible NVIDIA devices."""
    if nvml is None:
        return []
    try:
        states = nvidia.gpu_states(nvml, environment)
    except nvml.NVMLError:
        return []
    return [
        f"process {process} uses {format_bytes(num_bytes or 0)} of {state.name}"
        for state in states
        for process, num_bytes in state.processes
        if process != os.getpid()
    ]
