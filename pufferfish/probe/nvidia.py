"""NVIDIA devices through NVML, the library of the driver: no CUDA context, no torch, a few milliseconds.

Functions take the module `pynvml` as an argument, so that tests can give one of their own.
"""

from __future__ import annotations

import ctypes
import importlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from pufferfish.base.errors import UserError
from pufferfish.schema.hardware import Gpu

LIBRARY = "libnvidia-ml.so.1"


@dataclass(frozen=True)
class Device:
    """One device, or one MIG instance of a device, with the handles that NVML knows it by."""

    handle: Any
    parent: Any  # the whole device, the same as `handle` without MIG
    uuids: tuple[str, ...]
    gpu: Gpu


@dataclass(frozen=True)
class GpuState:
    """What one device is doing now; None where the driver does not tell."""

    name: str
    free_bytes: int | None
    utilisation_share: float | None
    power_watts: float | None
    processes: list[tuple[int, int | None]]  # process id, bytes


def load_nvml() -> Any | None:
    """The module `pynvml`, None on a machine without NVIDIA's driver. Looking for the library first saves the import where it is useless.

    Raises UserError where the driver is there and the module is not.
    """
    try:
        ctypes.CDLL(LIBRARY)
    except OSError:
        return None
    try:
        return importlib.import_module("pynvml")
    except ModuleNotFoundError as error:
        raise UserError("NVIDIA's driver is here, but nothing to ask it with", saw=str(error), fix="run `make setup`, or install nvidia-ml-py") from None


@contextmanager
def session(nvml: Any) -> Iterator[None]:
    """Between `nvmlInit` and `nvmlShutdown`. Raises nvml.NVMLError where the driver does not answer."""
    nvml.nvmlInit()
    try:
        yield
    finally:
        with suppress(nvml.NVMLError):
            nvml.nvmlShutdown()


def find_gpus(nvml: Any, environment: Mapping[str, str], *, shared_bytes: int) -> tuple[list[Gpu], str]:
    """The devices that CUDA programs see, the one that CUDA takes first at the front, and what is wrong with the driver (empty: nothing).

    `shared_bytes` stands for the memory of devices that have none of their own.
    """
    if nvml is None:
        return [], ""
    try:
        with session(nvml):
            return [device.gpu for device in visible_devices(nvml, environment, shared_bytes=shared_bytes)], ""
    except nvml.NVMLError as error:
        return [], f"NVIDIA's driver does not answer: {error}"


def gpu_states(nvml: Any, environment: Mapping[str, str]) -> list[GpuState]:
    """What the visible devices are doing. Raises nvml.NVMLError where the driver does not answer."""
    with session(nvml):
        return [_state(nvml, device) for device in visible_devices(nvml, environment, shared_bytes=0)]


def visible_devices(nvml: Any, environment: Mapping[str, str], *, shared_bytes: int) -> list[Device]:
    """The devices that CUDA programs see, inside a session.

    CUDA_VISIBLE_DEVICES lists numbers or the beginnings of identifiers, and ends at the first that fits nothing. Of MIG instances CUDA
    uses one, the first where none is named. Numbers count the fastest first unless CUDA_DEVICE_ORDER is PCI_BUS_ID.
    Source: CUDA C++ Programming Guide, environment variables; NVIDIA MIG User Guide, "Device Enumeration".
    """
    wish = environment.get("CUDA_VISIBLE_DEVICES")
    devices = [device for index in range(nvml.nvmlDeviceGetCount()) for device in _instances(nvml, index, shared_bytes)]
    if environment.get("CUDA_DEVICE_ORDER") != "PCI_BUS_ID":
        devices.sort(key=lambda device: (-float(device.gpu.compute_capability), -device.gpu.memory_bytes))
    if wish is None:
        chosen = devices
    else:
        chosen = []
        for word in wish.split(","):
            found = _find(word.strip(), devices)
            if found is None or found in chosen:
                break
            chosen.append(found)
    instances = [device for device in chosen if device.handle is not device.parent]
    return instances[:1] or chosen


def _find(word: str, devices: list[Device]) -> Device | None:
    if word.isdigit():
        return devices[int(word)] if int(word) < len(devices) else None
    fits = [device for device in devices if word and any(uuid.startswith(word) for uuid in device.uuids)]
    return fits[0] if fits else None


def _instances(nvml: Any, index: int, shared_bytes: int) -> list[Device]:
    """The device, or its MIG instances where it is split."""
    parent = nvml.nvmlDeviceGetHandleByIndex(index)
    handles = [parent]
    if _ask(nvml, lambda: nvml.nvmlDeviceGetMigMode(parent)[0], 0):
        places = range(nvml.nvmlDeviceGetMaxMigDeviceCount(parent))
        handles = [handle for place in places if (handle := _ask(nvml, lambda place=place: nvml.nvmlDeviceGetMigDeviceHandleByIndex(parent, place), None))]
    major, minor = nvml.nvmlDeviceGetCudaComputeCapability(parent)
    driver = nvml.nvmlSystemGetDriverVersion()
    devices = []
    for handle in handles:
        memory_bytes = _ask(nvml, lambda handle=handle: nvml.nvmlDeviceGetMemoryInfo(handle).total, 0) or shared_bytes
        gpu = Gpu(name=nvml.nvmlDeviceGetName(handle), compute_capability=f"{major}.{minor}", memory_bytes=memory_bytes, driver=driver)
        devices.append(Device(handle, parent, (nvml.nvmlDeviceGetUUID(handle), nvml.nvmlDeviceGetUUID(parent)), gpu))
    return devices


def _state(nvml: Any, device: Device) -> GpuState:
    running = _ask(nvml, lambda: nvml.nvmlDeviceGetComputeRunningProcesses(device.handle), [])
    utilisation = _ask(nvml, lambda: nvml.nvmlDeviceGetUtilizationRates(device.parent).gpu, None)
    milliwatts = _ask(nvml, lambda: nvml.nvmlDeviceGetPowerUsage(device.parent), None)
    return GpuState(
        name=device.gpu.name,
        free_bytes=_ask(nvml, lambda: nvml.nvmlDeviceGetMemoryInfo(device.handle).free, None),
        utilisation_share=None if utilisation is None else utilisation / 100,
        power_watts=None if milliwatts is None else milliwatts / 1000,
        processes=[(process.pid, process.usedGpuMemory) for process in running],
    )


def _ask(nvml: Any, question: Any, otherwise: Any) -> Any:
    """The answer, or `otherwise` where this device, driver or container does not give one."""
    try:
        return question()
    except nvml.NVMLError:
        return otherwise
