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

LIBRARY, CUDA_LIBRARY = "libnvidia-ml.so.1", "libcuda.so.1"  # both of the driver; containers may get the second alone


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


def trouble_without_nvml() -> str:
    """Why no device was found where the driver has devices and its NVML is missing; empty where there are none. CUDA itself is asked, without a context."""
    try:
        status = ctypes.CDLL(CUDA_LIBRARY).cuInit(0)
    except (OSError, AttributeError):
        return ""
    if status != 0:
        return ""
    mend = "a container gets it with NVIDIA_DRIVER_CAPABILITIES=compute,utility, others with the whole driver"
    return f"CUDA works, but NVML, which tells what the device is, is missing ({LIBRARY}): {mend}"


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
    """The devices that CUDA programs see, inside a session. Raises nvml.NVMLError where none answers.

    CUDA_VISIBLE_DEVICES lists numbers or the beginnings of identifiers, and ends at the first that fits nothing. Of MIG instances CUDA
    uses one, the first where none is named. Numbers count the fastest first unless CUDA_DEVICE_ORDER is PCI_BUS_ID.
    Source: CUDA C++ Programming Guide, environment variables; NVIDIA MIG User Guide, "Device Enumeration".
    """
    wish = environment.get("CUDA_VISIBLE_DEVICES")
    devices = _answering_devices(nvml, shared_bytes)
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


def _answering_devices(nvml: Any, shared_bytes: int) -> list[Device]:
    """Devices, and MIG instances of those that are split. One that refuses what has to be known is left out: CUDA does not see a forbidden one either."""
    devices: list[Device] = []
    refusals: list[Exception] = []
    for index in range(nvml.nvmlDeviceGetCount()):
        with _noting(nvml, refusals):
            parent = nvml.nvmlDeviceGetHandleByIndex(index)
            for handle in _handles(nvml, parent):
                with _noting(nvml, refusals):
                    devices.append(_device(nvml, handle, parent, shared_bytes))
    if refusals and not devices:
        raise refusals[0]
    return devices


@contextmanager
def _noting(nvml: Any, refusals: list[Exception]) -> Iterator[None]:
    try:
        yield
    except nvml.NVMLError as error:
        refusals.append(error)


def _handles(nvml: Any, parent: Any) -> list[Any]:
    """The device itself, or its MIG instances where it is split."""
    if not _ask(nvml, lambda: nvml.nvmlDeviceGetMigMode(parent)[0], 0):
        return [parent]
    places = range(nvml.nvmlDeviceGetMaxMigDeviceCount(parent))
    return [handle for place in places if (handle := _ask(nvml, lambda place=place: nvml.nvmlDeviceGetMigDeviceHandleByIndex(parent, place), None))]


def _device(nvml: Any, handle: Any, parent: Any, shared_bytes: int) -> Device:
    major, minor = nvml.nvmlDeviceGetCudaComputeCapability(parent)
    gpu = Gpu(
        name=_ask(nvml, lambda: nvml.nvmlDeviceGetName(handle), "NVIDIA device"),
        compute_capability=f"{major}.{minor}",
        memory_bytes=_memory_bytes(nvml, handle) or shared_bytes,
        driver=nvml.nvmlSystemGetDriverVersion(),
    )
    return Device(handle, parent, tuple(_ask(nvml, lambda each=each: nvml.nvmlDeviceGetUUID(each), "") for each in (handle, parent)), gpu)


def _memory_bytes(nvml: Any, handle: Any) -> int:
    """Of its own; 0 for one on the processor's chip, which has none."""
    try:
        return int(nvml.nvmlDeviceGetMemoryInfo(handle).total)
    except nvml.NVMLError_NotSupported:
        return 0


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
