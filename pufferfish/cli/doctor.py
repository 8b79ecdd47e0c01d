"""`pufferfish doctor`: whether everything is here and in order, each line ok, warn or fail, with what mends it."""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import json
import os
import platform
import shutil
import sqlite3
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from urllib.parse import urlsplit

from filelock import FileLock, Timeout

from pufferfish.base import memo, paths
from pufferfish.base.errors import UserError
from pufferfish.base.units import format_bytes, format_duration
from pufferfish.plan.recipe import OLDEST_FLASH
from pufferfish.probe import health, nvidia
from pufferfish.probe.fingerprint import Identity, identify_here
from pufferfish.probe.memory import available_memory_bytes
from pufferfish.probe.probe import compiler_here, forget_speeds
from pufferfish.probe.torch_build import installed_torch
from pufferfish.schema import reserve
from pufferfish.schema.params import Params
from pufferfish.track import journal, store
from pufferfish.train.work import is_owned

OLDEST_PYTHON = (3, 11)


@dataclass(frozen=True)
class Check:
    """One line: what was looked at, ok / warn / fail, what was seen, and what mends it."""

    name: str
    status: str
    saw: str
    fix: str = ""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What may be cleaned up, and the form of the answer."""
    parser.add_argument("--prune", action="store_true", help="remove the work of interrupted trainings that nobody is at, and what older code kept")
    parser.add_argument(
        "--remeasure", action="store_true", help="forget the measured speeds, steps, surveys, pilots and last stages: the next `dvc repro` measures anew"
    )
    parser.add_argument("--json", action="store_true", help="print the checks as JSON")


def run(arguments: argparse.Namespace) -> int:
    """Print every check. 0 unless one of them failed, then 1."""
    checks = list(all_checks(prune=arguments.prune))
    if arguments.remeasure:
        checks.append(Check("speeds", "ok", f"forgot those of {forget_speeds()} machines, and what plans had found out; the next `dvc repro` measures anew"))
        remove(memo.all_kept())
        reserve.file().unlink(missing_ok=True)
    if arguments.json:
        print(json.dumps([asdict(check) for check in checks], indent=2))
    else:
        for check in checks:
            print(f"{check.status:<5} {check.name:<11} {check.saw}" + (f"\n{'':<18}fix: {check.fix}" if check.fix else ""))
    return int(any(check.status == "fail" for check in checks))


def all_checks(*, prune: bool) -> Iterator[Check]:
    """Every check, the cheap and fundamental ones first."""
    yield check_python(sys.version_info[:2])
    yield check_workspace()
    params, settings = check_settings()
    yield settings
    yield from check_tools()
    yield from check_torch()
    identity, machine = identify(params)
    yield from machine
    if identity:
        yield from check_machine(identity)
        yield from check_gpus(identity)
    yield check_disk()
    yield check_tracking()
    yield from check_spool()
    yield from check_work(prune=prune)
    yield from check_kept(prune=prune)


def check_python(version: tuple[int, ...]) -> Check:
    """The interpreter is new enough."""
    if version < OLDEST_PYTHON:
        return Check("python", "fail", f"{'.'.join(map(str, version))} is too old", "install Python 3.11 or newer, then `make setup`")
    return Check("python", "ok", f"{platform.python_version()} at {sys.executable}")


def check_workspace() -> Check:
    """The checkout can be written."""
    try:
        with tempfile.TemporaryFile(dir=paths.workspace()):
            return Check("workspace", "ok", str(paths.workspace()))
    except OSError as error:
        return Check("workspace", "fail", f"{error.strerror}: {paths.workspace()}", "mend the permissions, or work in a folder of your own")


def check_settings() -> tuple[Params, Check]:
    """params.yaml is right; if not, the defaults are used for the other checks."""
    try:
        params = Params.load(paths.PARAMS)
    except UserError as error:
        return Params(), Check("settings", "fail", f"{error.what} ({error.saw})", error.fix)
    return params, Check("settings", "ok", f"{paths.PARAMS}: {params.budget.time} for the source {params.data.source}")


def check_tools() -> Iterator[Check]:
    """DVC runs the pipeline; git is needed for its experiments."""
    if importlib.util.find_spec("dvc") is None:
        yield Check("dvc", "fail", "not installed", "run `make setup`")
    elif not (paths.workspace() / ".dvc").is_dir():
        yield Check("dvc", "fail", f"{importlib.metadata.version('dvc')}, but no DVC project in {paths.workspace()}", "run `make setup` in the checkout")
    else:
        yield Check("dvc", "ok", importlib.metadata.version("dvc"))
    workspace = paths.workspace()
    if shutil.which("git") is None:
        yield Check("git", "warn", "not installed: `dvc repro` works, `dvc exp` does not", "install git")
    elif not any((folder / ".git").exists() for folder in (workspace, *workspace.parents)):
        yield Check(
            "git", "warn", "this folder is in no git repository: `dvc repro` works, `dvc exp` does not", "run `git init`, commit once, then `make setup`"
        )
    else:
        yield Check("git", "ok", "a repository")


def check_torch() -> Iterator[Check]:
    """PyTorch can be imported, and is what its files say."""
    try:
        build = installed_torch()
        import torch
    except UserError as error:
        yield Check("torch", "fail", error.saw, error.fix)
    except (ImportError, OSError) as error:
        yield Check("torch", "fail", str(error).splitlines()[0], "remove .venv and run `make setup`")
    else:
        cuda = f"CUDA {build.cuda}, {torch.cuda.device_count()} devices usable" if build.cuda else "CPU build"
        yield Check("torch", "ok", f"{torch.__version__}, {cuda}")


def identify(params: Params) -> tuple[Identity | None, list[Check]]:
    """The machine as the probe sees it, and what it says about the choice of the device."""
    try:
        identity = identify_here(params.hardware_probe)
    except UserError as error:
        return None, [Check("device", "fail", f"{error.what} ({error.saw})", error.fix)]
    notes = [Check("device", "warn", note) for note in identity.notes]
    return identity, notes or [Check("device", "ok", identity.fingerprint.device)]


def check_machine(identity: Identity) -> Iterator[Check]:
    """Memory, cores, load and compiler."""
    fingerprint = identity.fingerprint
    few = health.memory_advice(fingerprint)
    saw = f"{format_bytes(fingerprint.memory_bytes)}, {format_bytes(available_memory_bytes())} free"
    yield Check("memory", "warn", few, "end other programs; the plan chooses a model that fits") if few else Check("memory", "ok", saw)
    yield Check("cores", "ok", f"{fingerprint.cpu}: {fingerprint.num_cores} cores, {fingerprint.num_threads} threads")
    busy = health.load_advice()
    yield Check("load", "warn", busy, "end other programs, or expect less") if busy else Check("load", "ok", f"{os.getloadavg()[0]:.1f} over the last minute")
    if compiler_here(fingerprint):
        yield Check("compiler", "ok", "torch.compile can work")
    else:
        fix = "install g++ and Python's headers (Debian, Ubuntu: `apt install g++ python3-dev`; macOS: `xcode-select --install`)"
        yield Check("compiler", "warn", "none that torch.compile could use: long trainings are slower", fix)


def check_gpus(identity: Identity) -> Iterator[Check]:
    """What the NVIDIA devices are and do now, and whether flash-attn is there for them."""
    nvml = nvidia.load_nvml()
    if not identity.fingerprint.gpus or nvml is None:
        yield Check("gpu", "ok", "no NVIDIA device")
        return
    try:
        states = nvidia.gpu_states(nvml, os.environ)
    except nvml.NVMLError as error:
        yield Check("gpu", "warn", f"NVIDIA's driver does not answer: {error}", "run `nvidia-smi`, which says more")
        return
    for gpu, state in zip(identity.fingerprint.gpus, states, strict=True):
        facts = [gpu.name, f"compute capability {gpu.compute_capability}", f"driver {gpu.driver}", format_bytes(gpu.memory_bytes)]
        facts += [f"{format_bytes(state.free_bytes)} free"] if state.free_bytes is not None else []
        facts += [f"{state.utilisation_share:.0%} busy"] if state.utilisation_share is not None else []
        facts += [f"{state.power_watts:.0f} W"] if state.power_watts is not None else []
        yield Check("gpu", "ok", ", ".join(facts))
    yield from (Check("gpu", "warn", sentence, "end it, or expect less memory and speed") for sentence in health.gpu_advice(nvml, os.environ))
    if importlib.util.find_spec("flash_attn"):
        yield Check("flash-attn", "ok", "installed; `train.attention: flash_attn` takes it, plans take PyTorch's own")
    elif identity.fingerprint.device == "cuda" and float(identity.fingerprint.gpus[0].compute_capability) >= OLDEST_FLASH:
        yield Check("flash-attn", "ok", "not installed: PyTorch's own attention serves")


def check_disk() -> Check:
    """There is room for data, checkpoints and exports."""
    few = health.disk_advice(paths.workspace())
    free = format_bytes(shutil.disk_usage(paths.workspace()).free)
    return Check("disk", "warn", few, "free some space, for example `dvc gc -w`") if few else Check("disk", "ok", f"{free} free")


def check_tracking() -> Check:
    """The store of the runs exists and can be written; a server is named, not asked."""
    path = store.database()
    if path is None:
        return Check("mlflow", "ok", f"a server: {urlsplit(store.tracking_uri()).hostname or 'no host'} (not asked)")
    if not path.exists():
        return Check("mlflow", "warn", f"no store at {path}: the first run creates it, which takes seconds", "run `make setup`")
    if not os.access(path, os.W_OK):
        return Check("mlflow", "fail", f"{path} cannot be written", "mend the permissions")
    try:
        store.check_database()
    except sqlite3.Error as error:
        return Check("mlflow", "fail", f"{path}: {error}", "end what holds it, or move the file away and run `make setup`")
    return Check("mlflow", "ok", str(path))


def check_spool() -> Iterator[Check]:
    """Rows that have not reached the store; running stages have one each."""
    waiting = [journal.start_message(path) or {} for path in sorted(journal.folder().glob("*.jsonl"))]
    ours = sum(map(journal.is_for_our_store, waiting))
    if ours:
        yield Check("tracking", "warn", f"{ours} rows wait in {journal.folder()}", "the next run delivers them")
    if others := len(waiting) - ours:
        fix = "run with the MLFLOW_TRACKING_URI that they were written for, or without one"
        yield Check("tracking", "warn", f"{others} rows in {journal.folder()} wait for another store", fix)


def check_work(*, prune: bool) -> Iterator[Check]:
    """The work of interrupted trainings, which `dvc repro` goes on with as long as the plan is the same."""
    for folder in sorted(path for path in (paths.state() / "work").glob("*") if path.is_dir()):
        size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        age = format_duration(max(0.0, time.time() - folder.stat().st_mtime))
        saw = f"{folder.name}: {format_bytes(size)}, last touched {age} ago"
        yield prune_work(folder, saw) if prune else Check("work", "ok", saw + (", training now" if is_owned(folder) else ""))


def prune_work(folder: Path, saw: str) -> Check:
    """Remove the folder unless a process is training there."""
    try:
        with FileLock(folder / "lock", timeout=0):
            shutil.rmtree(folder)
    except Timeout:
        return Check("work", "ok", f"{saw}, training now: kept")
    return Check("work", "ok", f"{saw}: removed")


def check_kept(*, prune: bool) -> Iterator[Check]:
    """What plans found out about this machine and its texts; what older code found is never read again."""
    kept = memo.all_kept()
    old = [each for each in kept if not each.is_current]
    if kept:
        state = f", {len(old)} of them by older code{': removed' if prune else ''}" if old else ""
        yield Check("kept", "ok", f"{len(kept)} answers for the next plan, {format_bytes(sum(each.num_bytes for each in kept))}{state}")
    if prune:
        remove(old)


def remove(kept: list[memo.Kept]) -> None:
    """Delete files that can be made again."""
    for each in kept:
        each.path.unlink(missing_ok=True)
