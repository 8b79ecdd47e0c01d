"""Steps measured in a process beside this one, which imports torch while this one looks at the text: on two cores that saves the planner a second."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from typing import Protocol

from pufferfish.base.clock import now_s
from pufferfish.base.errors import UserError
from pufferfish.plan.measuring import MEASURED_STEPS_S
from pufferfish.plan.prices import StepTime
from pufferfish.schema.hardware import Hardware
from pufferfish.schema.plan import ModelPlan, TrainPlan


class Steps(Protocol):
    """Who measures steps."""

    def measure(self, model: ModelPlan, plan: TrainPlan) -> StepTime:
        """Real steps. Raises UserError where torch.compile does not work here."""

    def end(self) -> None:
        """Give back the memory and the device that measuring holds outside this process; whoever measures after that does it in this one."""


@contextmanager
def measuring(hardware: Hardware) -> Iterator[Steps]:
    """Who measures: a process beside this one where there is a core for it, else this one, and where this one may hold the device already. Where every step
    turns out to be known, that process is ended unasked."""
    if hardware.fingerprint.num_cores == 1 or (hardware.fingerprint.device == "cuda" and "torch" in sys.modules):
        yield StepsHere()
        return
    steps = StepsBeside()
    try:
        yield steps
    finally:
        steps.end()


class StepsHere:
    """Steps measured in this process."""

    def measure(self, model: ModelPlan, plan: TrainPlan) -> StepTime:
        """Real steps."""
        from pufferfish.train.measure import measure_steps  # torch arrives here, and not where every step is known

        return measure_steps(model, plan, limit_s=MEASURED_STEPS_S)

    def end(self) -> None:
        """Nothing is held elsewhere."""


class StepsBeside:
    """Steps measured in a process of their own, which starts at once and may be ended in the middle of its work.

    Where it is killed, as Linux does where memory runs out, the configuration does not fit, and another process measures the next one. Where it fails
    otherwise, its own traceback says why, and ChildProcessError is raised here.
    """

    def __init__(self) -> None:
        self._is_ended = False
        self._start()

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._here, there = context.Pipe()
        self._process = context.Process(target=_serve_parent, args=(there,), daemon=True)
        self._process.start()
        there.close()

    def measure(self, model: ModelPlan, plan: TrainPlan) -> StepTime:
        """Real steps there."""
        if self._is_ended:
            return StepsHere().measure(model, plan)
        start_s = now_s()
        try:
            self._here.send((model, plan))
            answer: StepTime | dict[str, str] = self._here.recv()
        except (EOFError, BrokenPipeError, ConnectionResetError):
            self._process.join()
            if self._process.exitcode != -signal.SIGKILL:
                raise ChildProcessError(f"the process that measures steps ended with status {self._process.exitcode}") from None
            self._here.close()
            self._start()
            return StepTime(0.0, 0, now_s() - start_s, fits=False)
        if isinstance(answer, dict):
            raise UserError(**answer)
        return answer

    def end(self) -> None:
        """End the process."""
        self._is_ended = True
        self._process.kill()
        self._process.join()


def _serve_parent(there: Connection) -> None:
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _serve(there)


def _end_with_parent() -> None:
    """Who is killed ends nobody, and a compilation would go on for a minute."""
    parent = multiprocessing.parent_process()
    assert parent
    parent.join()
    os._exit(1)


def _serve(there: Connection) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the process that asks ends this one
    from pufferfish.train import measure

    while True:
        model, plan = there.recv()
        try:
            there.send(measure.measure_steps(model, plan, limit_s=MEASURED_STEPS_S))
        except UserError as error:
            there.send({"what": error.what, "saw": error.saw, "fix": error.fix})
