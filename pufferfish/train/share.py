"""How long training may take: the budget, less what the stages before it cost, less what the stages after it need."""

from __future__ import annotations

import math
from itertools import pairwise

from pufferfish.base.timing import Timing
from pufferfish.schema.plan import NUM_PAUSES, BudgetPlan

BEFORE = ("hardware-probe", "plan", "prepare-subset")
ACCIDENT_SHARE = 0.1  # of the budget, that a cached stage may have cost more than planned
LONGEST_PAUSE_S, LONGEST_PAUSE_SHARES = 20.0, (0.02, 0.1)  # and of the budget at least and at most: a longer one is not a pause of one pipeline run


def train_share_s(budget: BudgetPlan, timings: dict[str, Timing | None], *, own: Timing) -> float:
    """Seconds that training owns, from the start of its process; `own` is that start.

    A cached stage is charged what it cost when it ran, so that a re-run of training alone trains as long as in the cold run; but what was an accident then, a
    cold disk or a sleeping laptop, is charged up to `ACCIDENT_SHARE` of the budget. A pause before a stage is measured where the two ran one after the
    other, and taken from the plan elsewhere.
    """
    planned_s = (budget.phases.hardware_probe_s, budget.phases.plan_s, budget.phases.prepare_subset_s)
    chain = [*(timings.get(name) for name in BEFORE), own]
    longest_s = _longest_pause_s(budget.total_s)
    pauses_s = [_pause_s(before, after, longest_s) for before, after in pairwise(chain)]
    spent_s = 0.0
    for number, (timing, expected_s) in enumerate(zip(chain[:-1], planned_s, strict=True)):
        is_of_this_run = all(pause_s is not None for pause_s in pauses_s[number:])
        charged_s = math.inf if is_of_this_run else expected_s + ACCIDENT_SHARE * budget.total_s
        spent_s += min(timing.elapsed_s, charged_s) if timing else expected_s
    usual_s = budget.phases.between_s / NUM_PAUSES
    return budget.total_s - spent_s - sum(usual_s if pause_s is None else pause_s for pause_s in pauses_s) - budget.reserve_s


def taken_just_now_s(stage: Timing | None, own: Timing, *, total_s: float) -> float:
    """What a stage took, if this process, `own`, followed on it in one pipeline; else 0."""
    return stage.elapsed_s if stage and _pause_s(stage, own, _longest_pause_s(total_s)) is not None else 0.0


def _longest_pause_s(total_s: float) -> float:
    least_s, most_s = (share * total_s for share in LONGEST_PAUSE_SHARES)
    return min(most_s, max(least_s, LONGEST_PAUSE_S))


def _pause_s(before: Timing | None, after: Timing | None, longest_s: float) -> float | None:
    """None where the one did not follow on the other."""
    if before is None or after is None or before.boot_id != after.boot_id:
        return None
    pause_s = after.start_s - before.end_s
    return pause_s if 0 <= pause_s <= longest_s else None
