"""The process gives itself the settings of the C libraries, before torch is there, and keeps what the user has set."""

import ctypes
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pufferfish.base import clock, memory, runtime

ROOT = Path(__file__).resolve().parents[1]
OURS = (*runtime.SETTINGS, *runtime.WAITING, "OMP_NUM_THREADS")
PROGRAM = """
import ctypes, os, sys
from pufferfish.base.runtime import ensure_runtime
ensure_runtime(3)
print(*(f"{name}={os.environ[name]}" for name in sorted(os.environ) if name.startswith(("MALLOC_", "OMP_", "GOMP_"))))
class Mallinfo(ctypes.Structure):
    _fields_ = [(name, ctypes.c_size_t) for name in "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost".split()]
c_library = ctypes.CDLL(None)
c_library.mallinfo2.restype = Mallinfo
c_library.malloc.restype = ctypes.c_void_p
c_library.free.argtypes = [ctypes.c_void_p]
for size in (2**28, 2**27):
    c_library.free(c_library.malloc(ctypes.c_size_t(size)))
    print("kept" if c_library.mallinfo2().arena > 2**28 else "given back")
"""
ON_LINUX = pytest.mark.skipif(sys.platform != "linux", reason="settings for Linux")
ON_GLIBC = pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallinfo2"), reason="asks glibc 2.33 or newer what it does")


def start(code, **settings):
    environment = {name: value for name, value in os.environ.items() if name not in OURS} | {"PYTHONPATH": str(ROOT)} | settings
    return subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60)


@ON_GLIBC
def test_the_settings_stand_and_freed_memory_is_kept():
    done = start(PROGRAM)
    assert done.stdout.splitlines() == [
        "GOMP_SPINCOUNT=1000 MALLOC_MMAP_THRESHOLD_=1073741824 MALLOC_TRIM_THRESHOLD_=2147483647 OMP_NUM_THREADS=3",
        "kept",
        "kept",
    ], done.stderr


@ON_GLIBC
def test_what_the_user_has_set_wins():
    done = start(PROGRAM, OMP_NUM_THREADS="5", MALLOC_TRIM_THRESHOLD_="7")
    assert "MALLOC_TRIM_THRESHOLD_=7 OMP_NUM_THREADS=5" in done.stdout, done.stderr
    assert "given back" in done.stdout


def test_a_wished_way_of_waiting_is_not_contradicted():
    assert "GOMP_SPINCOUNT" not in runtime.missing_settings(2, {"OMP_WAIT_POLICY": "ACTIVE"})
    assert runtime.missing_settings(2, {"GOMP_SPINCOUNT": "5"}).keys() == {"MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "OMP_NUM_THREADS"}


@ON_LINUX
def test_torch_waits_and_shares_its_work_as_set():
    code = "from pufferfish.base.runtime import ensure_runtime\nensure_runtime(1)\nimport torch\nprint(torch.get_num_threads())"
    done = start(code, OMP_DISPLAY_ENV="VERBOSE")
    assert done.stdout == "1\n"
    assert "GOMP_SPINCOUNT = '1000'" in done.stderr


def test_other_systems_are_left_alone(monkeypatch):
    monkeypatch.setattr(runtime.platform, "system", lambda: "Darwin")
    before = dict(os.environ)
    runtime.ensure_runtime(2)
    assert dict(os.environ) == before


@ON_LINUX
def test_the_start_of_a_process_is_known_to_a_few_hundredths_of_a_second():
    code = "from pufferfish.base import clock; print(clock.process_start_s(), clock.now_s())"
    before_s = clock.now_s()
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    after_s = clock.now_s()
    start_s, end_s = map(float, done.stdout.split())
    assert before_s - 0.05 <= start_s < end_s <= after_s


def test_the_peak_of_memory_is_at_least_what_is_held_and_grows_with_it():
    before = memory.peak_memory_bytes()
    block = bytearray(before + 2**25)
    assert memory.peak_memory_bytes() >= before + 2**25 - 2**23
    assert memory.process_memory_bytes() <= memory.peak_memory_bytes() + 2**22
    del block
