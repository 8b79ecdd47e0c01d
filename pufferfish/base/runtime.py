"""How the process runs: settings of the C libraries, which have to stand before PyTorch is imported."""

from __future__ import annotations

import ctypes
import os
import platform
from collections.abc import Mapping

# glibc gives blocks above the mmap threshold back to the system when they are freed, and the system clears them anew for the next step: above
# 32 MiB, which is the most that the threshold grows to by itself, that costs more than the arithmetic (a step went from 234 to 91 ms).
# GNU OpenMP's threads wait for work by spinning for milliseconds. Where another process wants a core, that keeps away the very thread that is waited
# for. A step of 19 ms on 2 quiet cores took 1,100 to 1,700 ms beside one busy neighbour; with a thousand spins 20 and 77; without any 28 and 64.
SETTINGS = {
    "MALLOC_MMAP_THRESHOLD_": str(2**30),
    "MALLOC_TRIM_THRESHOLD_": str(2**31 - 1),
    "GOMP_SPINCOUNT": "1000",
}
# glibc reads its variables at the start of the process only; later, mallopt(3) sets the same. The numbers are those of malloc.h.
MALLOC_PARAMETERS = {"MALLOC_MMAP_THRESHOLD_": -3, "MALLOC_TRIM_THRESHOLD_": -1}
OLD_MOST = 2**25  # mmap threshold that older glibc takes
WAITING = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")  # two names for one choice: either of the user's wins


def ensure_runtime(num_threads: int) -> None:
    """Give this process, and those that it starts, the settings that PyTorch needs on Linux; what the user has set wins.

    To be called before torch is imported: GNU OpenMP reads its variables when it is loaded. Does nothing on other systems.
    """
    if platform.system() != "Linux":
        return
    missing = missing_settings(num_threads, os.environ)
    os.environ |= missing
    c_library = ctypes.CDLL(None)
    if hasattr(c_library, "mallopt"):  # glibc has it, musl has not
        for name, parameter in MALLOC_PARAMETERS.items():
            if name in missing and not c_library.mallopt(parameter, int(missing[name])):
                c_library.mallopt(parameter, OLD_MOST)


def missing_settings(num_threads: int, environment: Mapping[str, str]) -> dict[str, str]:
    """The settings that `environment` lacks."""
    wanted = {**SETTINGS, "OMP_NUM_THREADS": str(num_threads)}
    if any(name in environment for name in WAITING):
        del wanted["GOMP_SPINCOUNT"]
    return {name: value for name, value in wanted.items() if name not in environment}
