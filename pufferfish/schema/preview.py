"""What `pufferfish plan` tells beyond the plan itself. Nothing of it is kept."""

from __future__ import annotations

from pufferfish.schema.artifact import Strict
from pufferfish.schema.plan import Candidate, Forecast, ModelPlan, Plan


class OtherBudget(Strict):
    """What would be trained in another time, from the same measurements."""

    total_s: float
    refusal: str  # empty: there is a plan
    model: ModelPlan | None
    tokens_per_step: int  # 0: no plan
    forecast: Forecast | None


class Preview(Strict):
    """A plan with its surroundings."""

    plan: Plan
    pilots_to_come: bool  # short trainings before the real plan, which may change it
    is_predicted: bool  # for another machine, on which nothing can be measured from here
    runner_up: Candidate | None  # the best of another shape; None: there was no other shape to choose
    memory_bytes: dict[str, int]  # at the peak, by term
    other_budgets: list[OtherBudget]  # half and double
