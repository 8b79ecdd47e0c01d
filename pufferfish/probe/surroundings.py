"""What surrounds the device: the disk, the start of an interpreter, a compiler that torch.compile can use."""

from __future__ import annotations

import importlib
import importlib.util
import os
import platform
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
from pathlib import Path

from pufferfish.base.errors import UserError
from pufferfish.base.units import format_bytes

DISK_BOX_S = 0.25
DISK_PIECE_BYTES, DISK_MAX_BYTES = 2**22, 2**25
WAITED_S = 0.5  # more than its processor time: an import that took longer came from the disk, perhaps, which happens once
TRITON_CAPABILITY = 7.0  # the oldest that Triton, behind torch.compile on CUDA, serves
COMPILER_TRIAL = "#include <Python.h>\n#include <vector>\nint trial(int n) { return std::vector<int>(n).size(); }\n"
OPENMP_TRIAL = "#include <omp.h>\nint threads() { return omp_get_max_threads(); }\n"


def disk_write_bytes_per_s(folder: Path) -> float:
    """Speed of writing a file and flushing it to the disk, as saving a checkpoint does. Raises UserError where it cannot be written."""
    piece, num_bytes = os.urandom(DISK_PIECE_BYTES), 0
    start_s = time.perf_counter()
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            while num_bytes < DISK_MAX_BYTES and time.perf_counter() - start_s < DISK_BOX_S:
                num_bytes += file.write(piece)
                file.flush()
                os.fsync(file.fileno())
    except OSError as error:
        free = format_bytes(shutil.disk_usage(folder).free)
        raise UserError("the disk cannot be written", saw=f"{error.strerror}: {folder} ({free} free)", fix="free some space, or mend the permissions") from None
    return round(num_bytes / (time.perf_counter() - start_s))


def import_torch_s() -> float:
    """Seconds to start an interpreter with our settings and torch in it, from the file cache; imports torch here, if it is not."""
    if "torch" in sys.modules:
        return _interpreter_s("import pufferfish.schema.params, torch")
    start_s, worked_s = time.perf_counter(), time.process_time()
    importlib.import_module("torch")
    import_s, worked_s = time.perf_counter() - start_s, time.process_time() - worked_s
    if import_s > worked_s + WAITED_S:
        return min(import_s, _interpreter_s("import pufferfish.schema.params, torch"))
    return import_s + _interpreter_s("import pufferfish.schema.params")


def _interpreter_s(code: str) -> float:
    start_s = time.perf_counter()
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True)
    return time.perf_counter() - start_s


def has_compiler(device: str, compute_capability: str) -> bool:
    """Whether torch.compile can work: a C++ compiler that finds Python's headers and OpenMP, or on CUDA a C compiler, Python's headers and Triton.

    `compute_capability` is that of the chosen device, empty on the CPU. The compiler is the one that PyTorch takes: CXX, or g++ (clang++ on macOS).
    """
    headers = sysconfig.get_path("include")
    if not (Path(headers) / "Python.h").exists():  # Triton starts its kernels from C that includes it
        return False
    if device == "cuda":
        is_served = importlib.util.find_spec("triton") is not None and float(compute_capability) >= TRITON_CAPABILITY
        return is_served and any(shutil.which(name) for name in (os.environ.get("CC", "gcc"), "clang"))
    is_mac = platform.system() == "Darwin"
    compiler = shutil.which(os.environ.get("CXX") or ("clang++" if is_mac else "g++"))
    if compiler is None:
        return False
    flags, code = ([], COMPILER_TRIAL) if is_mac else (["-fopenmp"], COMPILER_TRIAL + OPENMP_TRIAL)  # on macOS, PyTorch brings OpenMP itself
    command = [compiler, "-x", "c++", "-std=c++17", "-fsyntax-only", *flags, f"-I{headers}", "-"]
    return subprocess.run(command, input=code, text=True, capture_output=True, check=False).returncode == 0
