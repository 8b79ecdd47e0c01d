"""Where the time goes: what each phase of the pipeline will cost on this machine, in seconds."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

from pufferfish.base.errors import UserError
from pufferfish.base.units import format_duration
from pufferfish.schema.hardware import Hardware
from pufferfish.schema.plan import NUM_PAUSES, BudgetPlan, Phases

# Each phase is start-up, which is a multiple of importing torch on this machine, and work. Set by hand to a few runs on 2 cores (docs/LOG.md).
PROBE_STARTS, PROBE_S = 1.0, 1.9
TRAIN_STARTS, TRAIN_SETUP_S = 1.4, 0.6
EVALUATE_STARTS, EVALUATE_S = 1.3, 0.8
EXPORT_STARTS, EXPORT_S = 2.0, 1.0
RESERVE_MARGIN = 1.25  # on evaluation and export, which nobody can shorten when they turn out slow
SEVERAL = 3  # earlier pipelines, one of which may have met an accident
RESERVE_FACTORS = (1.0, 4.0)  # at least and at most, on what they are estimated to take: small pipelines say little of what large ones take
PAUSE_S = 0.45  # DVC between two stages
EVALUATED_PER_TRAINED = 3.0  # a forward pass costs a third of both, but a simple model is counted beside it and samples are written
# For each parameter: loading and writing samples; writing, loading again, comparing and hashing the export; hashing between the stages. Seen with 124 million
# parameters on 2 cores, 497 MB (docs/LOG.md).
EVALUATE_S_PER_PARAM, EXPORT_S_PER_PARAM, PAUSES_S_PER_PARAM = 8.2e-8, 2.5e-8, 1e-8
WRITTEN_PER_PARAM = 4  # bytes of an export
MIN_TRAIN_SHARE = 0.1  # of the budget: with less left for training, the budget is refused
PLANNING_SHARES = ((120.0, 0.08), (float("inf"), 0.05))  # up to so many seconds of budget, so much of it for planning


def planning_limit_s(total_s: float) -> float:
    """What planning may cost in all: 8 % of the budget under two minutes, else 5 %."""
    return next(share for limit, share in PLANNING_SHARES if total_s < limit) * total_s


def reserve_factor(ratios: Sequence[float]) -> float:
    """What evaluation and export are estimated to take is multiplied by this: a margin, and what earlier pipelines on this machine took of the estimate. The
    worst of few counts, and of several the second worst."""
    if not ratios:
        return RESERVE_MARGIN
    least, most = RESERVE_FACTORS
    return min(most, max(least, RESERVE_MARGIN * sorted(ratios)[-2 if len(ratios) >= SEVERAL else -1]))


def reserve_s(hardware: Hardware, *, validation_tokens: float, trained_tokens_per_s: float, num_params: int, factor: float) -> tuple[float, float, float]:
    """Seconds for evaluate, export, and the two pauses before them."""
    start_s = hardware.measured.import_torch_s
    evaluate_s = EVALUATE_STARTS * start_s + EVALUATE_S + validation_tokens / (EVALUATED_PER_TRAINED * trained_tokens_per_s) + EVALUATE_S_PER_PARAM * num_params
    written_s_per_param = max(EXPORT_S_PER_PARAM, WRITTEN_PER_PARAM / hardware.measured.disk_write_bytes_per_s)
    export_s = EXPORT_STARTS * start_s + EXPORT_S + written_s_per_param * num_params
    return factor * evaluate_s, factor * export_s, 2 * PAUSE_S + PAUSES_S_PER_PARAM * num_params


def divide(
    total_s: float,
    hardware: Hardware,
    *,
    plan_s: float,
    prepare_s: float,
    validation_tokens: float,
    trained_tokens_per_s: float,
    num_params: int,
    factor: float,
    probed_s: float = 0.0,
) -> BudgetPlan:
    """The budget by phase; training gets what is left. May be negative: see `check`. `factor`: see `reserve_factor`; `probed_s`: what the
    probe took, if it is over."""
    evaluate_s, export_s, last_pauses_s = reserve_s(
        hardware, validation_tokens=validation_tokens, trained_tokens_per_s=trained_tokens_per_s, num_params=num_params, factor=factor
    )
    probe_s = max(probed_s, PROBE_STARTS * hardware.measured.import_torch_s + PROBE_S)
    between_s = (NUM_PAUSES - 2) * PAUSE_S + last_pauses_s
    train_s = total_s - probe_s - plan_s - prepare_s - evaluate_s - export_s - between_s
    phases = Phases(
        hardware_probe_s=probe_s, plan_s=plan_s, prepare_subset_s=prepare_s, train_s=train_s, evaluate_s=evaluate_s, export_s=export_s, between_s=between_s
    )
    return BudgetPlan(total_s=total_s, reserve_s=evaluate_s + export_s + last_pauses_s, reserve_factor=factor, unused_s=0.0, phases=phases)


def training_setup_s(hardware: Hardware) -> float:
    """Of the training phase, what passes before the first step: imports, building, a dry step."""
    return TRAIN_STARTS * hardware.measured.import_torch_s + TRAIN_SETUP_S


def suffices(budget: BudgetPlan, setup_s: float) -> bool:
    """Whether enough of the budget is left for training."""
    return budget.phases.train_s >= setup_s + MIN_TRAIN_SHARE * budget.total_s


def check(divide_for: Callable[[float], BudgetPlan], *, total_s: float, written: str, setup_s: float) -> None:
    """Raises UserError if too little is left for training, naming the smallest budget that works here; `divide_for` divides any budget."""
    budget = divide_for(total_s)
    if suffices(budget, setup_s):
        return
    smallest = next(five for five in itertools.count(5, 5) if suffices(divide_for(five), setup_s))
    raise UserError(
        "the time budget is too short to train anything",
        saw=f"budget.time: {written}; everything but training takes {format_duration(total_s - budget.phases.train_s + setup_s)} here",
        fix=f"give at least {smallest}s on this machine, for example `time: {max(smallest, 60)}s`",
    )
