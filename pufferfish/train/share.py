"""How long training may take: the budget, less what the stages before it cost, less what the stages after it need."""

from __future__ import annotations

import json
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from pufferfish.schema.plan import BudgetPlan

BEFORE = ("hardware-probe", "plan", "prepare-subset")
NUM_PAUSES = 5  # between six stages
LONGEST_PAUSE_S = 20.0  # a longer one is not a pause of one pipeline run


@dataclass(frozen=True)
class Timing:
    """What `base/stage.py` wrote about one run of a stage."""

    boot_id: str
    start_s: float
    end_s: float

    @property
    def elapsed_s(self) -> float:
        """Cost of the stage from the start of its process."""
        return self.end_s - self.start_s


def read_timing(path: Path) -> Timing | None:
    """None where the stage left no timing, as after `dvc pull`."""
    try:
        content = json.loads(path.read_text("utf-8"))
        return Timing(content["boot_id"], content["start_s"], content["end_s"])
    except (FileNotFoundError, ValueError, KeyError):
        return None


def train_share_s(budget: BudgetPlan, timings: dict[str, Timing | None], *, own: Timing) -> float:
    """Seconds that training owns, from the start of its process; `own` is that start.

    A cached stage is charged what it cost when it ran, so that a re-run of training alone trains as long as in the cold run. A pause before a stage
    is measured where the two ran one after the other, and taken from the plan elsewhere.
    """
    planned = dict(zip(BEFORE, (budget.phases.hardware_probe_s, budget.phases.plan_s, budget.phases.prepare_subset_s), strict=True))
    spent_s = sum(timing.elapsed_s if timing else planned[name] for name, timing in ((name, timings.get(name)) for name in BEFORE))
    chain = [*(timings.get(name) for name in BEFORE), own]
    pause_s = sum(_pause_s(before, after, budget.phases.between_s / NUM_PAUSES) for before, after in pairwise(chain))
    return budget.total_s - spent_s - pause_s - budget.reserve_s


def _pause_s(before: Timing | None, after: Timing | None, planned_s: float) -> float:
    if before is None or after is None or before.boot_id != after.boot_id:
        return planned_s
    pause_s = after.start_s - before.end_s
    return pause_s if 0 <= pause_s <= LONGEST_PAUSE_S else planned_s
