"""The plan with what a person asks next: what nearly won, where the memory goes, what half and double the time would give."""

from __future__ import annotations

from dataclasses import replace

from pufferfish.base.errors import UserError
from pufferfish.plan import pilot
from pufferfish.plan.case import Case, Measuring
from pufferfish.plan.explain import runner_up
from pufferfish.plan.make import Decision, decide
from pufferfish.schema.params import LONGEST_BUDGET_S
from pufferfish.schema.preview import OtherBudget, Preview

FACTORS = (0.5, 2.0)  # of the budget
NEIGHBOURS = 2  # vocabularies on each side that another budget is planned with


def make_preview(case: Case, measuring: Measuring | None) -> Preview:
    """Without `measuring`, paces are predicted. Raises UserError as `decide` does."""
    decision = decide(case, measuring)
    budgets = [factor * case.total_s for factor in FACTORS if factor * case.total_s <= LONGEST_BUDGET_S]
    return Preview(
        plan=decision.plan,
        is_predicted=measuring is None,
        pilots_to_come=pilot.are_to_come(case, plan_s=decision.plan.budget.phases.plan_s if measuring else 0.0),
        runner_up=runner_up(decision.selection),
        memory_bytes=vars(decision.selection.best.memory),
        other_budgets=[other_budget(case.with_total(total_s), decision) for total_s in budgets],
    )


def other_budget(case: Case, decision: Decision) -> OtherBudget:
    """The plan for another budget, which measures nothing and believes what was measured for the first."""
    plan_s = min(case.planning_limit_s, decision.plan.budget.phases.plan_s)
    near = replace(_near(case, decision.plan.model.vocab_size), pilots=decision.selection.pilots)
    try:
        plan = decide(near, None, plan_s=plan_s, known=decision.selection.measured).plan
    except UserError as error:
        return OtherBudget(total_s=case.total_s, refusal=error.what, model=None, tokens_per_step=0, forecast=None)
    return OtherBudget(total_s=case.total_s, refusal="", model=plan.model, tokens_per_step=plan.train.tokens_per_step, forecast=plan.forecast)


def _near(case: Case, vocab_size: int) -> Case:
    """With the vocabularies around this one, which half and double the time move by less: pricing all of them would take seconds."""
    place = [vocabulary.vocab_size for vocabulary in case.vocabularies].index(vocab_size)
    return replace(case, vocabularies=case.vocabularies[max(0, place - NEIGHBOURS) : place + NEIGHBOURS + 1])
