"""Steps are measured in a process beside, where there is a core for it."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from machines import MACHINES
from toys import model_plan, train_plan

from pufferfish.base.errors import UserError
from pufferfish.plan.prices import StepTime
from pufferfish.train import beside, measure

COLD = MACHINES["server"]
TESTS = Path(__file__).parent


def measuring_processes():
    """Those of this test that measure."""
    return [child for child in psutil.Process().children() if "spawn_main" in " ".join(child.cmdline())]


def the_started_process():
    """The one that measures; it has no command line of its own until it is loaded."""
    end_s = time.monotonic() + 10
    while not (found := measuring_processes()) and time.monotonic() < end_s:
        time.sleep(0.01)
    [process] = found
    return process


def test_another_process_measures_again_and_again_and_ends_with_the_context(workplace):
    with beside.measuring(COLD) as steps:
        process = the_started_process()
        found = [steps.measure(model_plan(), train_plan()) for _ in range(2)]
        assert process.is_running()
    assert all(step.fits and step.step_s > 0 for step in found)
    assert not process.is_running()


def test_whoever_measures_after_the_end_does_it_here(workplace):
    with beside.measuring(COLD) as steps:
        steps.end()
        assert not measuring_processes()
        assert steps.measure(model_plan(), train_plan()).step_s > 0


def test_a_failure_there_is_a_failure_here(workplace, capfd):
    with beside.measuring(COLD) as steps:
        with pytest.raises(ChildProcessError, match="status 1"):
            steps.measure(model_plan(), "no plan")
        with pytest.raises(ChildProcessError, match="status 1"):
            steps.measure(model_plan(), train_plan())
    assert "AttributeError" in capfd.readouterr().err


def test_a_compilation_that_fails_there_is_told_here_and_the_process_goes_on(monkeypatch):
    here, there = multiprocessing.Pipe()
    words = {"what": "torch.compile does not work here", "saw": "no compiler", "fix": "install one"}
    answers = iter([UserError(**words), StepTime(1.0, 2, 3.0)])

    def answer(model, plan, *, limit_s):
        if isinstance(found := next(answers), UserError):
            raise found
        return found

    monkeypatch.setattr(measure, "measure_steps", answer)
    monkeypatch.setattr(beside.signal, "signal", lambda number, handler: None)
    monkeypatch.setattr(beside.StepsBeside, "_start", lambda steps: setattr(steps, "_here", here))
    for _ in range(2):
        here.send((model_plan(), train_plan(is_compiled=True)))
    here.send(())
    with pytest.raises(ValueError, match="unpack"):
        beside._serve(there)
    steps = beside.StepsBeside()
    with pytest.raises(UserError) as error:
        steps.measure(model_plan(), train_plan(is_compiled=True))
    assert vars(error.value) == words
    assert steps.measure(model_plan(), train_plan()) == StepTime(1.0, 2, 3.0)


def test_a_process_that_is_killed_for_want_of_memory_means_that_it_does_not_fit_and_another_goes_on(workplace):
    with beside.measuring(COLD) as steps:
        first = the_started_process()
        first.kill()
        assert not steps.measure(model_plan(), train_plan()).fits
        second = the_started_process()
        assert second != first
        assert steps.measure(model_plan(), train_plan()).fits
    assert not second.is_running()


def test_an_error_here_does_not_wait_for_the_process(workplace):
    start_s = time.perf_counter()
    with pytest.raises(ZeroDivisionError), beside.measuring(COLD):
        raise ZeroDivisionError
    assert not measuring_processes()
    assert time.perf_counter() - start_s < 60, "it would wait for ever"


ASKING = """
import sys
from machines import MACHINES
from toys import model_plan, train_plan
from pufferfish.train import beside

if __name__ == "__main__":
    with beside.measuring(MACHINES["server"]) as steps:
        steps.measure(model_plan(), train_plan())
        print(steps._process.pid, flush=True)
        steps.measure(model_plan(num_layers=400, seq_len=500), train_plan(micro_batch=50, tokens_per_step=500_000))
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_measurement_ends_with_the_process_that_asked_for_it(workplace, number):
    (workplace / "asking.py").write_text(ASKING)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, (TESTS, TESTS.parent)))}
    with subprocess.Popen([sys.executable, "asking.py"], stdout=subprocess.PIPE, text=True, env=environment) as asking:
        process = psutil.Process(int(asking.stdout.readline()))
        time.sleep(0.5)
        asking.send_signal(number)
    process.wait(timeout=5)


def test_where_no_core_is_free_or_this_process_may_hold_the_device_nothing_is_started(workplace, monkeypatch):
    monkeypatch.setattr(beside, "StepsBeside", lambda: pytest.fail("started"))
    alone = COLD.model_copy(update={"fingerprint": COLD.fingerprint.model_copy(update={"num_cores": 1})})
    for machine in (alone, MACHINES["H200"]):
        with beside.measuring(machine) as steps:
            assert isinstance(steps, beside.StepsHere)
