"""The processor by name, and its instructions that decide which kernels run: a probe tells it, and a training records it."""

from __future__ import annotations

import platform
import subprocess
from pathlib import Path

ROOT = Path("/")  # of the system; tests have their own
X86_FLAGS = {"sse4_2", "avx", "f16c", "fma", "avx2", "avx_vnni", "avx512f", "avx512bw", "avx512vl", "avx512_vnni", "avx512_bf16", "avx512_fp16"}
AMX_FLAGS = {"amx_tile", "amx_int8", "amx_bf16", "amx_fp16"}
ARM_FLAGS = {"asimd", "asimdhp", "asimddp", "fphp", "bf16", "i8mm", "sve", "sve2", "svebf16", "sme", "sme2"}
SPEED_FLAGS = X86_FLAGS | AMX_FLAGS | ARM_FLAGS


def cpu_name(root: Path = ROOT, *, system: str | None = None) -> str:
    """`AMD EPYC 9654 96-Core Processor`, `Apple M3 Pro`; on ARM under Linux, which has no names, implementer and part."""
    if (system or platform.system()) == "Darwin":
        return sysctl("machdep.cpu.brand_string") or platform.machine()
    fields = cpuinfo(root)
    first = fields[0] if fields else {}
    if "model name" in first:
        return " ".join(first["model name"].split())
    if "CPU part" in first:
        return f"{platform.machine()} implementer {first.get('CPU implementer', '?')} part {first['CPU part']}"
    return platform.machine()


def cpu_flags(root: Path = ROOT) -> list[str]:
    """Sorted names of the instruction sets that matter; empty where the system does not list them."""
    fields = cpuinfo(root)
    first = fields[0] if fields else {}
    return sorted(SPEED_FLAGS.intersection(first.get("flags", first.get("Features", "")).split()))


def cpuinfo(root: Path) -> list[dict[str, str]]:
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


def sysctl(name: str) -> str:
    """What macOS says; nothing where it says nothing."""
    asked = subprocess.run(["sysctl", "-n", name], capture_output=True, text=True, check=False)
    return asked.stdout.strip() if asked.returncode == 0 else ""
