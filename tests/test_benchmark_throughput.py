"""The benchmark of steps: both checkouts take turns, and the ratio is that of neighbouring turns."""

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[1] / "benchmarks" / "throughput.py"


def load_script():
    sys.path.insert(0, str(SCRIPT.parent))  # as Python does for a script
    return importlib.import_module("throughput")


benchmark = load_script()
LEAST = benchmark.Configuration(1, 16, 300, 16, 32, 32)


NAME = next(iter(benchmark.CONFIGURATIONS))


class FakeWorker:
    """Steps on a machine that becomes slower with each turn, for whoever asks."""

    def __init__(self, step_s, asked):
        self.base_s, self.asked = step_s, asked

    def step_s(self, number):
        self.asked.append(self)
        return self.base_s * (1 + number) * (1 + len(self.asked) // 2)


def test_a_machine_that_becomes_slower_changes_the_times_and_not_the_ratio():
    asked = []
    here, there = FakeWorker(0.09, asked), FakeWorker(0.1, asked)
    found = benchmark.compare(here, there, 1, NAME, rounds=9)
    assert found.ratio == pytest.approx(0.9, rel=0.15)
    assert found.step_s > 0.5
    first = asked[::2]
    assert first.count(here) == 4, "each is first every other time"
    assert benchmark.compare(here, None, 0, NAME, rounds=3).ratio is None


def test_the_table_has_a_line_for_each():
    lines = benchmark.table([benchmark.Result("one", 0.05, 40_000.0, 0.9, 0.8, 1.0), benchmark.Result("two", 0.1, 20_000.0, None, None, None)]).splitlines()
    assert lines[1].split() == ["one", "50.0", "ms", "40,000", "0.900", "(0.800", "to", "1.000)"]
    assert lines[2].split() == ["two", "100.0", "ms", "20,000"]


def test_a_process_takes_real_steps_with_the_code_of_a_checkout():
    program = f"import throughput; throughput.take_steps([throughput.{LEAST}])"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=SCRIPT.parent, env={"PYTHONPATH": str(SCRIPT.parents[1])}, input="0\n0\n", capture_output=True, text=True
    )
    ready, *seconds = done.stdout.split()
    assert ready == "ready", done.stderr
    assert len(seconds) == 2
    assert all(0 < float(each) < 10 for each in seconds)


@pytest.mark.parametrize(
    ("arguments", "told"), [(["--only", "nothing"], "called like nothing"), (["--against", "/nowhere"], "no checkout"), (["--rounds", "0"], "1 or more")]
)
def test_mistakes_are_told(arguments, told):
    done = subprocess.run([sys.executable, str(SCRIPT), *arguments], env={"PYTHONPATH": str(SCRIPT.parents[1])}, capture_output=True, text=True)
    assert done.returncode == 2
    assert told in done.stderr
