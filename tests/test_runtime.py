"""The process starts itself again, once, and stays what it was: arguments, id, standard streams."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pufferfish.base import clock, memory, runtime

ROOT = Path(__file__).resolve().parents[1]
OURS = (*runtime.SETTINGS, *runtime.WAITING, "OMP_NUM_THREADS")
PROGRAM = """
import os, sys
print("start", os.getpid(), flush=True)
from pufferfish.base.runtime import ensure_runtime
print("said before")
ensure_runtime(3)
print("went on", os.getpid(), sys.argv[1:], sys.stdin.readline().strip(), sys.flags.utf8_mode)
print(*(f"{name}={os.environ[name]}" for name in sorted(os.environ) if name.startswith(("MALLOC_", "OMP_", "GOMP_"))))
print("to the other stream", file=sys.stderr)
"""
ON_LINUX = pytest.mark.skipif(sys.platform != "linux", reason="only Linux restarts")


def start(arguments, folder, **settings):
    environment = {name: value for name, value in os.environ.items() if name not in OURS} | {"PYTHONPATH": str(ROOT)} | settings
    return subprocess.run([sys.executable, "-X", "utf8", *arguments], cwd=folder, env=environment, input="hello\n", capture_output=True, text=True, timeout=60)


@pytest.fixture
def program(tmp_path):
    (tmp_path / "program.py").write_text(PROGRAM)
    return tmp_path


@ON_LINUX
@pytest.mark.parametrize("way", [["program.py"], ["-m", "program"], ["-c", PROGRAM]], ids=["file", "module", "code"])
def test_the_process_restarts_once_with_the_same_id_arguments_and_streams(program, way):
    done = start([*way, "--name", "two words", ""], program)
    lines = done.stdout.splitlines()
    process = lines[0].split()[1]
    assert lines[:3] == [f"start {process}", "said before", f"start {process}"], done.stderr
    assert lines[3:5] == ["said before", f"went on {process} ['--name', 'two words', ''] hello 1"]
    assert lines[5] == "GOMP_SPINCOUNT=1000 MALLOC_MMAP_THRESHOLD_=1073741824 MALLOC_TRIM_THRESHOLD_=2147483648 OMP_NUM_THREADS=3"
    assert done.stderr == "to the other stream\n"


@ON_LINUX
def test_what_the_user_has_set_wins(program):
    done = start(["program.py"], program, OMP_NUM_THREADS="5", MALLOC_TRIM_THRESHOLD_="7")
    assert "MALLOC_TRIM_THRESHOLD_=7 OMP_NUM_THREADS=5" in done.stdout


def test_a_wished_way_of_waiting_is_not_contradicted():
    assert "GOMP_SPINCOUNT" not in runtime.missing_settings(2, {"OMP_WAIT_POLICY": "ACTIVE"})
    assert runtime.missing_settings(2, {"GOMP_SPINCOUNT": "5"}).keys() == {"MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "OMP_NUM_THREADS"}


def test_nothing_restarts_where_everything_is_set(program):
    done = start(["program.py"], program, **runtime.SETTINGS, OMP_NUM_THREADS="2")
    assert done.stdout.count("start") == 1


def test_a_program_from_standard_input_is_not_lost():
    code = "from pufferfish.base.runtime import ensure_runtime\nensure_runtime(2)\nprint('done')\n"
    environment = {name: value for name, value in os.environ.items() if name not in OURS}
    done = subprocess.run([sys.executable], cwd=ROOT, env=environment, input=code, capture_output=True, text=True, timeout=60)
    assert done.stdout == "done\n", done.stderr


def test_other_systems_are_left_alone(monkeypatch):
    monkeypatch.setattr(runtime.platform, "system", lambda: "Darwin")
    monkeypatch.setattr(runtime.os, "execve", lambda *all: pytest.fail("restarted"))
    runtime.ensure_runtime(2)


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
