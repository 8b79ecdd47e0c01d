"""The paces of two planned trainings, compared in turn: whatever the machine does meanwhile, it does to both."""

from __future__ import annotations

import math
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pipeline

from pufferfish.schema.plan import Plan

TURNS = 16  # of both
TURN_S = 0.25  # of steps, at least


def ratio(plan: Path, other: Path, *, code: Path, turns: int = TURNS) -> float:
    """Seconds of a step of one plan over those of the other, in a process with the code of a checkout. Raises Refused if that fails."""
    command = [sys.executable, str(code / "benchmarks" / Path(__file__).name), str(plan), str(other), str(turns)]
    ended = subprocess.run(command, env=os.environ | {"PYTHONPATH": str(code)}, stdout=subprocess.PIPE, text=True)
    if ended.returncode:
        raise pipeline.Refused("its paces", f"taking steps ended with status {ended.returncode}; its own words are above")
    return float(ended.stdout.splitlines()[-1])


def main() -> None:
    """The other side of `ratio`: two plan.json and a number of turns are named, and the ratio is written."""
    from pufferfish.base.runtime import ensure_runtime

    plans = [Plan.load(Path(name)) for name in sys.argv[1:3]]
    ensure_runtime(plans[0].train.num_threads)
    turns = [turns_of(plan) for plan in plans]
    logs = []
    for turn in range(int(sys.argv[3])):
        seconds = {number: next(turns[number]) for number in ((0, 1) if turn % 2 else (1, 0))}
        logs.append(math.log(seconds[0] / seconds[1]))
    print(math.exp(statistics.median(logs)))


def turns_of(plan: Plan) -> Iterator[float]:
    """Seconds of a step, the mean of those of each turn."""
    from pufferfish.train.measure import random_batches
    from pufferfish.train.step import Trainer

    batches = random_batches(plan.model, plan.train)
    trainer = Trainer(plan.model, plan.train)
    trainer.dry_step(batches)
    while True:
        float(trainer.step(batches, lr_share=0.001)[0])  # only warms the caches again
        start_s, num_steps = time.perf_counter(), 0
        while not num_steps or time.perf_counter() - start_s < TURN_S:
            float(trainer.step(batches, lr_share=0.001)[0])
            num_steps += 1
        yield (time.perf_counter() - start_s) / num_steps


if __name__ == "__main__":
    main()
