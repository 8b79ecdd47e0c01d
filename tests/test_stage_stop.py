"""How a stage is asked to stop between two steps."""

import os
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
WAITING = """
import time
from pufferfish.base.stage import StopRequest
stop = StopRequest.install()
print("waiting", flush=True)
end_s = time.monotonic() + 20
while not stop() and time.monotonic() < end_s:
    time.sleep(0.01)
time.sleep(0.1)  # what a second signal would end
print("asked" if stop() else "not asked", flush=True)
"""


def waiting(at_hang_up=signal.SIG_DFL):
    """The tests themselves may have been started with nohup."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    prepare = partial(signal.signal, signal.SIGHUP, at_hang_up)
    return subprocess.Popen([sys.executable, "-c", WAITING], stdout=subprocess.PIPE, text=True, env=environment, preexec_fn=prepare)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_is_noted_and_the_work_ends_by_itself(number):
    with waiting() as process:
        assert process.stdout.readline() == "waiting\n"
        process.send_signal(number)
        assert process.stdout.readline() == "asked\n"
    assert process.returncode == 0


def test_a_closed_terminal_stops_nothing_that_was_started_with_nohup():
    with waiting(signal.SIG_IGN) as process:
        assert process.stdout.readline() == "waiting\n"
        process.send_signal(signal.SIGHUP)
        process.send_signal(signal.SIGTERM)
        assert process.stdout.readline() == "asked\n"
    assert process.returncode == 0


def test_a_closed_terminal_that_is_told_twice_ends_nothing_half_way():
    with waiting() as process:
        assert process.stdout.readline() == "waiting\n"
        for _ in range(3):
            process.send_signal(signal.SIGHUP)
        assert process.stdout.readline() == "asked\n"
    assert process.returncode == 0
