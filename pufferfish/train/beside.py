"""Steps measured in a process beside this one, which imports torch while this one looks at the text: on two cores that saves the planner a second."""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection

from pufferfish.base import memo
from pufferfish.plan.choose import MEASURED_STEPS_S
from pufferfish.plan.prices import StepTime
from pufferfish.schema.hardware import Hardware
from pufferfish.schema.plan import ModelPlan, TrainPlan

MeasureSteps = Callable[[ModelPlan, TrainPlan], StepTime]


@contextmanager
def measuring(hardware: Hardware) -> Iterator[MeasureSteps]:
    """How to measure a step: in a process beside this one where there is a core for it and nothing is known yet of this machine, else in this one."""
    if hardware.fingerprint.num_cores == 1 or memo.path_of("steps", steps_question(hardware)).exists():
        yield measure_here
    else:
        with measuring_beside() as measure:
            yield measure


def steps_question(hardware: Hardware) -> dict[str, str]:
    """Under what the paces of a machine are kept."""
    return {"machine": hardware.identity}


@contextmanager
def measuring_beside() -> Iterator[MeasureSteps]:
    """Start the process; it ends with the context, in the middle of its work if need be.

    Where it fails, its own traceback says why, and ChildProcessError is raised here.
    """
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=_serve, args=(there,), daemon=True)
    process.start()
    there.close()

    def measure(model: ModelPlan, plan: TrainPlan) -> StepTime:
        try:
            here.send((model, plan))
            step: StepTime = here.recv()
        except (EOFError, BrokenPipeError, ConnectionResetError):
            process.join()
            raise ChildProcessError(f"the process that measures steps ended with status {process.exitcode}") from None
        return step

    try:
        yield measure
    finally:
        process.kill()
        process.join()


def measure_here(model: ModelPlan, plan: TrainPlan) -> StepTime:
    """The same in this process."""
    from pufferfish.train.measure import measure_steps  # torch arrives here, and not where every step is known

    return measure_steps(model, plan, limit_s=MEASURED_STEPS_S)


def _serve(there: Connection) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the process that asks ends this one
    from pufferfish.train import measure

    while True:
        model, plan = there.recv()
        there.send(measure.measure_steps(model, plan, limit_s=MEASURED_STEPS_S))
