"""The machine, measured once: its identity costs milliseconds at every call, its speeds are kept under the identity's digest.

Kept speeds survive the artifacts, which DVC may delete: the same machine gives the same bytes.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from pydantic import ValidationError

from pufferfish.base import atomic, paths
from pufferfish.base.digest import digest
from pufferfish.base.errors import UserError
from pufferfish.probe.fingerprint import identify_here
from pufferfish.probe.health import load_advice
from pufferfish.schema.hardware import Fingerprint, Hardware, Measured
from pufferfish.schema.params import HardwareProbeParams

VERSION = 2  # of the kept files and of the way of measuring; a new one measures anew


def probe(params: HardwareProbeParams, *, tell: Callable[[str], None] = print) -> tuple[Hardware, bool]:
    """The machine as it may be used, and whether its speeds were measured anew. `tell` gets what the user should know.

    Raises UserError for wishes that this machine cannot grant, and where nothing can be written.
    """
    identity = identify_here(params)
    for note in identity.notes:
        tell(note)
    kept = kept_speeds(identity.fingerprint, tell=tell)
    measured = kept or measure(identity.fingerprint)
    if kept and not kept.has_compiler and compiler_here(identity.fingerprint):  # installed since then
        measured = kept.model_copy(update={"has_compiler": True})
        keep_speeds(identity.fingerprint, measured)
    if not kept:
        keep_speeds(identity.fingerprint, measured)
        if load_advice():
            tell("measured while the machine was busy; once it is quiet, `pufferfish doctor --remeasure` and `dvc repro` measure again")
    return Hardware(fingerprint=identity.fingerprint, measured=measured, usable_memory_bytes=identity.usable_memory_bytes), not kept


def before_measuring(params: HardwareProbeParams, prepare: Callable[[int], None]) -> None:
    """Call `prepare` with the number of threads where speeds will have to be measured, so that they are measured under the settings of a training."""
    fingerprint = identify_here(params).fingerprint
    if kept_speeds(fingerprint, tell=lambda note: None) is None:
        prepare(fingerprint.num_threads)


def forget_speeds() -> int:
    """Remove all kept speeds, so that the next call measures anew; returns how many machines were known."""
    known = list((paths.state() / "machines").glob("*.json"))
    for path in known:
        path.unlink(missing_ok=True)
    return len(known)


def speeds_path(fingerprint: Fingerprint) -> Path:
    """Where the speeds of a machine are kept."""
    return paths.state() / "machines" / f"{digest(fingerprint.model_dump(mode='json'))}.json"


def kept_speeds(fingerprint: Fingerprint, *, tell: Callable[[str], None] = print) -> Measured | None:
    """Speeds that were measured before, None where there are none, or none that can be trusted, which is told. Raises UserError where they cannot be read."""
    path = speeds_path(fingerprint)
    try:
        content = json.loads(path.read_text("utf-8"))
        if content["version"] == VERSION and content["fingerprint"] == fingerprint.model_dump(mode="json"):
            return Measured.model_validate(content["measured"])
        reason = "written by another version"
    except FileNotFoundError:
        return None
    except OSError as error:
        raise unusable_place(path, error) from None
    except (ValueError, KeyError, TypeError, ValidationError) as error:
        reason = f"damaged ({type(error).__name__})"
    tell(f"measuring anew: {path} is {reason}")
    return None


def keep_speeds(fingerprint: Fingerprint, measured: Measured) -> None:
    """Write the speeds for the next time. Raises UserError where that is not possible."""
    content = {"version": VERSION, "fingerprint": fingerprint.model_dump(mode="json"), "measured": measured.model_dump(mode="json")}
    path = speeds_path(fingerprint)
    try:
        atomic.write_json(path, content)
    except OSError as error:
        raise unusable_place(path, error) from None


def unusable_place(path: Path, error: OSError) -> UserError:
    """The folder of kept speeds refuses to be read or written."""
    return UserError("the measured speeds cannot be kept", saw=f"{error.strerror}: {path}", fix="free some space, or mend the permissions")


def compiler_here(fingerprint: Fingerprint) -> bool:
    """Whether torch.compile can work on the chosen device."""
    from pufferfish.probe import surroundings

    return surroundings.has_compiler(fingerprint.device, fingerprint.gpus[0].compute_capability if fingerprint.device == "cuda" else "")


def measure(fingerprint: Fingerprint) -> Measured:
    """Measure all speeds of the chosen device. Raises UserError where the device cannot compute, or the disk cannot be written."""
    from pufferfish.probe import measure as speeds
    from pufferfish.probe import surroundings

    folder = paths.state()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError("this folder cannot be written", saw=f"{error.strerror}: {folder}", fix="mend the permissions, or work in another folder") from None
    gpu = fingerprint.gpus[0] if fingerprint.device == "cuda" else None
    with ThreadPoolExecutor(1) as beside:  # the compiler's trial is a process of its own, and importing torch leaves it a core
        has_compiler = beside.submit(compiler_here, fingerprint)
        import_torch_s = surroundings.import_torch_s()
    try:
        device = speeds.prepare_device(fingerprint.device, fingerprint.num_threads)
    except RuntimeError as error:
        saw, fix = str(error).strip().splitlines()[0], "end other programs on the device, or write `hardware_probe.device: cpu`"
        raise UserError(f"{gpu.name if gpu else fingerprint.cpu} cannot compute", saw=saw, fix=fix) from None
    if gpu and len(fingerprint.gpus) > 1 and (name := speeds.cuda_name(device)) != gpu.name:
        saw = f"CUDA's first is {name}, where {gpu.name} was expected"
        fix = "export CUDA_DEVICE_ORDER=PCI_BUS_ID, and CUDA_VISIBLE_DEVICES with the number that nvidia-smi gives the one to use"
        raise UserError("the devices are counted in another order than CUDA counts them", saw=saw, fix=fix)
    return Measured(
        dtypes=speeds.measure_dtypes(device),
        bandwidth_bytes_per_s=speeds.measure_bandwidth(device, usable_bytes=gpu.memory_bytes if gpu else fingerprint.memory_bytes),
        launch_s=speeds.measure_launch_s(device),
        disk_write_bytes_per_s=surroundings.disk_write_bytes_per_s(folder),
        import_torch_s=round(import_torch_s, 3),
        has_compiler=has_compiler.result(),
    )
