"""How the process runs: settings that the C libraries read once, at their start, and that PyTorch therefore cannot change any more."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Mapping

# glibc gives blocks above the mmap threshold back to the system when they are freed, and the system clears them anew for the next step: above
# 32 MiB, which is the most that the threshold grows to by itself, that costs more than the arithmetic (a step went from 234 to 91 ms).
# GNU OpenMP's threads wait for work by spinning for milliseconds. Where another process wants a core, that keeps away the very thread that is waited
# for. A step of 19 ms on 2 quiet cores took 1,100 to 1,700 ms beside one busy neighbour; with a thousand spins 20 and 77; without any 28 and 64.
SETTINGS = {
    "MALLOC_MMAP_THRESHOLD_": str(2**30),
    "MALLOC_TRIM_THRESHOLD_": str(2**31),
    "GOMP_SPINCOUNT": "1000",
}
WAITING = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")  # two names for one choice: either of the user's wins


def ensure_runtime(num_threads: int) -> None:
    """Start this process again, once, with the settings that PyTorch needs on Linux; what the user has set wins.

    The process keeps its id, its arguments and its open standard streams. To be called first thing: what was computed is lost. Does nothing
    where everything is set (so after the restart, too), on other systems, and where the program itself comes from standard input.
    """
    missing = missing_settings(num_threads, os.environ)
    if platform.system() != "Linux" or not missing or sys.argv[0] in ("", "-"):
        return
    sys.stdout.flush()
    sys.stderr.flush()
    os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], {**os.environ, **missing})


def missing_settings(num_threads: int, environment: Mapping[str, str]) -> dict[str, str]:
    """The settings that `environment` lacks."""
    wanted = {**SETTINGS, "OMP_NUM_THREADS": str(num_threads)}
    if any(name in environment for name in WAITING):
        del wanted["GOMP_SPINCOUNT"]
    return {name: value for name, value in wanted.items() if name not in environment}
