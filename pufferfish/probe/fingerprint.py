"""What machine this is, in facts that cost nothing and do not change between two calls: no torch, no speeds, no load."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pufferfish.base import processor
from pufferfish.base.errors import UserError
from pufferfish.base.units import format_bytes, parse_bytes
from pufferfish.probe import cgroup, cpu, nvidia, torch_build
from pufferfish.probe.memory import total_memory_bytes
from pufferfish.schema.hardware import Fingerprint, Gpu
from pufferfish.schema.params import HardwareProbeParams


@dataclass(frozen=True)
class Identity:
    """The fingerprint, and what the user should be told about how it came about."""

    fingerprint: Fingerprint
    usable_memory_bytes: int  # of the chosen device, after the cap in params.yaml
    notes: list[str]


def identify(params: HardwareProbeParams, *, nvml: Any, build: torch_build.TorchBuild, environment: Mapping[str, str], root: Path = cgroup.ROOT) -> Identity:
    """The machine as far as `params` lets us use it. `nvml` is the module pynvml, or None without NVIDIA's driver.

    Raises UserError for a device that is absent or unusable, and for a cap on memory above what there is.
    """
    memory_bytes = total_memory_bytes(root)
    gpus, trouble = nvidia.find_gpus(nvml, environment, shared_bytes=memory_bytes)
    if nvml is None and build.cuda and params.device != "cpu":
        trouble = nvidia.trouble_without_nvml()
    device, notes = choose_device(params.device, gpus, build=build, trouble=trouble, hidden=environment.get("CUDA_VISIBLE_DEVICES"))
    num_cores = cpu.usable_cores(root)
    num_threads = cpu.usable_threads(root) if params.threads == "auto" else params.threads
    if num_threads > num_cores:
        notes.append(f"threads: {num_threads}, as wished, on {num_cores} cores: more threads than cores are slower, not faster")
    fingerprint = Fingerprint(
        system=f"{platform.system()} {platform.machine()}",
        python=platform.python_version(),
        torch=build.version,
        cpu=processor.cpu_name(root),
        cpu_flags=processor.cpu_flags(root),
        num_cores=num_cores,
        memory_bytes=memory_bytes,
        gpus=gpus,
        device=device,
        num_threads=num_threads,
    )
    return Identity(fingerprint, capped_memory_bytes(params, gpus[0].memory_bytes if device == "cuda" else memory_bytes, device), notes)


def identify_here(params: HardwareProbeParams) -> Identity:
    """`identify` for the machine and environment of this process."""
    return identify(params, nvml=nvidia.load_nvml(), build=torch_build.installed_torch(), environment=os.environ)


def choose_device(wish: str, gpus: list[Gpu], *, build: torch_build.TorchBuild, trouble: str, hidden: str | None) -> tuple[str, list[str]]:
    """`cpu` or `cuda`, and what the user should be told. Raises UserError where `cuda` is wished and cannot be had: never a silent CPU."""
    obstacle = torch_build.why_unsupported(build, gpus[0]) if gpus else trouble
    if wish == "cpu":
        return "cpu", []
    if gpus and not obstacle:
        return "cuda", []
    if wish == "auto":
        if not obstacle:
            return "cpu", []
        mend = f" ({torch_build.how_to_support(gpus[0])} may help)" if gpus else ""
        return "cpu", [f"the CPU is used, and not the NVIDIA device: {obstacle}{mend}"]
    what = "the wished device cannot be used" if obstacle else "the wished device is not there"
    saw = obstacle or ("no NVIDIA device or driver" if hidden is None else f"no NVIDIA device within CUDA_VISIBLE_DEVICES={hidden}")
    fix = f"{torch_build.how_to_support(gpus[0])}, or " if gpus else ""
    raise UserError(what, saw=f"hardware_probe.device: cuda; {saw}", fix=f"{fix}write `device: auto` or `device: cpu`")


def capped_memory_bytes(params: HardwareProbeParams, memory_bytes: int, device: str) -> int:
    """Memory of the device that may be used. Raises UserError for a cap above what there is."""
    if params.memory == "auto":
        return memory_bytes
    cap_bytes = parse_bytes(params.memory)
    if cap_bytes > memory_bytes:
        saw = f"hardware_probe.memory: {params.memory}; this process may use {format_bytes(memory_bytes)} ({device})"
        raise UserError("the cap on memory is above what there is", saw=saw, fix=f"write at most `memory: {memory_bytes // 10**6}MB`, or `memory: auto`")
    return cap_bytes
