"""`pufferfish plan`: what would I get for another budget? Plans on this machine without training, and writes nothing."""

from __future__ import annotations

import argparse

from pydantic import ValidationError

from pufferfish.base import clock, paths
from pufferfish.base.errors import UserError
from pufferfish.schema.hardware import Corpus, Hardware
from pufferfish.schema.params import BudgetParams, Params


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The budget, and the form of the answer."""
    parser.add_argument("--budget", metavar="TIME", help="instead of budget.time in params.yaml, for example 36s, 10m, 1h30m")
    parser.add_argument("--json", action="store_true", help="print the plan as JSON")


def run(arguments: argparse.Namespace) -> int:
    """Raises UserError for mistakes in params.yaml or the budget, or where the machine is not measured yet."""
    params = with_budget(Params.load(paths.PARAMS), arguments.budget)
    hardware, corpus = Hardware.load(paths.HARDWARE), Corpus.load(paths.CORPUS)

    from pufferfish.base.runtime import ensure_runtime

    ensure_runtime(hardware.fingerprint.num_threads)

    from pufferfish.train.planning import plan_here
    from pufferfish.ui.tables import plan_text

    started_s = clock.now_s()
    plan = plan_here(params, hardware, corpus, spent_s=lambda: clock.now_s() - started_s)
    print(plan.model_dump_json(indent=2) if arguments.json else plan_text(plan, hardware))
    return 0


def with_budget(params: Params, budget: str | None) -> Params:
    """The same wishes with another budget. Raises UserError if it is not a duration."""
    if budget is None:
        return params
    try:
        return params.model_copy(update={"budget": BudgetParams(time=budget)})
    except ValidationError as error:
        message = error.errors()[0]["msg"].removeprefix("Value error, ")
        raise UserError("the budget is not right", saw=f"--budget {budget}", fix=message.partition(": ")[2] or message) from None
