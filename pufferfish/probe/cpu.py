"""The processor: its name, the instructions that decide the speed of matrix products, and how much of it this process may use."""

from __future__ import annotations

import os
import platform
import subprocess
from pathlib import Path

from pufferfish.probe import cgroup

X86_FLAGS = {"sse4_2", "avx", "f16c", "fma", "avx2", "avx_vnni", "avx512f", "avx512bw", "avx512vl", "avx512_vnni", "avx512_bf16", "avx512_fp16"}
AMX_FLAGS = {"amx_tile", "amx_int8", "amx_bf16", "amx_fp16"}
ARM_FLAGS = {"asimd", "asimdhp", "asimddp", "fphp", "bf16", "i8mm", "sve", "sve2", "svebf16", "sme", "sme2"}
SPEED_FLAGS = X86_FLAGS | AMX_FLAGS | ARM_FLAGS


def cpu_name(root: Path = cgroup.ROOT, *, system: str | None = None) -> str:
    """`AMD EPYC 9654 96-Core Processor`, `Apple M3 Pro`; on ARM under Linux, which has no names, implementer and part."""
    if (system or platform.system()) == "Darwin":
        return _sysctl("machdep.cpu.brand_string") or platform.machine()
    fields = _cpuinfo(root)
    first = fields[0] if fields else {}
    if "model name" in first:
        return " ".join(first["model name"].split())
    if "CPU part" in first:
        return f"{platform.machine()} implementer {first.get('CPU implementer', '?')} part {first['CPU part']}"
    return platform.machine()


def cpu_flags(root: Path = cgroup.ROOT) -> list[str]:
    """Sorted names of the instruction sets that matter; empty where the system does not list them."""
    fields = _cpuinfo(root)
    first = fields[0] if fields else {}
    return sorted(SPEED_FLAGS.intersection(first.get("flags", first.get("Features", "")).split()))


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
        physical = int(_sysctl("hw.perflevel0.physicalcpu") or _sysctl("hw.physicalcpu") or len(allowed))
    else:
        cores = {
            (fields["physical id"], fields["core id"])
            for fields in _cpuinfo(root)
            if "physical id" in fields and "core id" in fields and int(fields["processor"]) in allowed
        }
        physical = len(cores) or len(allowed)
    return max(1, min(physical, usable_cores(root, allowed=allowed)))


def _cpuinfo(root: Path) -> list[dict[str, str]]:
    """One dictionary for each logical processor."""
    try:
        text = (root / "proc/cpuinfo").read_text("utf-8", errors="replace")
    except OSError:
        return []
    blocks = [dict(_field(line) for line in block.splitlines() if ":" in line) for block in text.split("\n\n")]
    return [block for block in blocks if "processor" in block]


def _field(line: str) -> tuple[str, str]:
    name, _, value = line.partition(":")
    return name.strip(), value.strip()


def _sysctl(name: str) -> str:
    asked = subprocess.run(["sysctl", "-n", name], capture_output=True, text=True, check=False)
    return asked.stdout.strip() if asked.returncode == 0 else ""
