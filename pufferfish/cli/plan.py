"""`pufferfish plan`: what would I get for another budget, or on another machine? Plans without training, and writes no artifact."""

from __future__ import annotations

import argparse
import sys
from contextlib import nullcontext
from pathlib import Path

from pydantic import ValidationError

from pufferfish.base import clock, paths
from pufferfish.base.errors import UserError, did_you_mean
from pufferfish.base.runtime import ensure_runtime
from pufferfish.data.corpus import inspect_corpus
from pufferfish.probe.probe import before_measuring, probe
from pufferfish.probe.sheets import SHEETS, machine_of
from pufferfish.schema.hardware import Hardware
from pufferfish.schema.params import BudgetParams, HardwareProbeParams, Params

MACHINES = f"its {paths.HARDWARE.name}, or by its data sheet {', '.join(SHEETS)}"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The budget, the machine, and the form of the answer."""
    parser.add_argument("--budget", metavar="TIME", help="instead of budget.time in params.yaml, for example 36s, 10m, 1h30m")
    parser.add_argument("--machine", metavar="MACHINE", help=f"plan for another one, from predictions alone: {MACHINES}")
    parser.add_argument("--json", action="store_true", help="print everything as JSON")


def run(arguments: argparse.Namespace) -> int:
    """Raises UserError for mistakes in params.yaml or the budget, and for a text or a machine that cannot be used."""
    params = with_budget(Params.load(paths.PARAMS), arguments.budget)
    other, corpus = None if arguments.machine is None else other_machine(arguments.machine), inspect_corpus(params.data)
    here = this_machine(HardwareProbeParams() if other else params.hardware_probe)  # what is pinned for this one says nothing of another
    if other is None:
        ensure_runtime(here.fingerprint.num_threads)
    started_s = clock.now_s()

    from pufferfish.train.beside import measuring

    with nullcontext() if other else measuring(here) as steps:  # before the rest is loaded: torch arrives there meanwhile
        from pufferfish.train.planning import preview_here
        from pufferfish.ui.preview import preview_text

        preview = preview_here(params, here, corpus, steps=steps, other=other, spent_s=lambda: clock.now_s() - started_s, tell=tell)
    print(preview.model_dump_json(indent=2) if arguments.json else preview_text(preview, other or here))
    return 0


def this_machine(params: HardwareProbeParams) -> Hardware:
    """The machine as it is now, measured where it was not yet; the speeds are kept as those of the probe are, and no artifact is written."""

    def announce(num_threads: int) -> None:
        ensure_runtime(num_threads)
        tell("plan: this machine is measured first, which takes a few seconds, once")

    before_measuring(params, announce)
    return probe(params, tell=tell)[0]


def tell(line: str) -> None:
    """A remark, beside the answer."""
    print(line, file=sys.stderr)


def other_machine(name: str) -> Hardware:
    """By its data sheet, or as its own probe described it. Raises UserError with the names that there are, and the way to get such a file."""
    if name in SHEETS:
        return machine_of(SHEETS[name])
    path = Path(name)
    try:
        return Hardware.load(path)
    except UserError as error:
        measured = f"run `dvc repro {Hardware.MADE_BY}` on that machine, and give its {paths.HARDWARE}"
        fix = measured if path.exists() else f"{did_you_mean(name, SHEETS)} (or {measured})"
        raise UserError(error.what, saw=error.saw, fix=fix) from None


def with_budget(params: Params, budget: str | None) -> Params:
    """The same wishes with another budget. Raises UserError if it is not a duration."""
    if budget is None:
        return params
    try:
        return params.model_copy(update={"budget": BudgetParams(time=budget)})
    except ValidationError as error:
        message = error.errors()[0]["msg"].removeprefix("Value error, ")
        raise UserError("the budget is not right", saw=f"--budget {budget or '(nothing)'}", fix=message.partition(": ")[2] or message) from None
