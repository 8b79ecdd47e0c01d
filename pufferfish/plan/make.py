"""From wishes, machine and text to one resolved plan."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pufferfish.base.errors import UserError
from pufferfish.plan import scaling
from pufferfish.plan.budget import planning_limit_s
from pufferfish.plan.candidate import Candidate
from pufferfish.plan.case import WRITE_S, Case, Measuring, Selection
from pufferfish.plan.choose import choose
from pufferfish.plan.explain import explain
from pufferfish.plan.lookup import lookup_reasons, settle_lookup
from pufferfish.plan.search import search, search_reasons
from pufferfish.plan.table import look_up, table_reasons
from pufferfish.schema.plan import BudgetPlan, Forecast, Plan

MOST_CHANGES = 2  # of the choice, once it is known how the budget divides
STRATEGIES = {"measured": (search, search_reasons), "table": (look_up, table_reasons)}  # how it chooses, and what it says about it


@dataclass(frozen=True)
class Decision:
    """A plan, and what it was chosen from."""

    plan: Plan
    selection: Selection


def decide(case: Case, measuring: Measuring | None, *, plan_s: float | None = None, known: Sequence[Candidate] = ()) -> Decision:
    """The plan with what it was chosen from. Without `measuring`, paces are predicted, with the help of candidates that are `known` from another plan.

    `plan_s` is what planning is taken to cost where nothing is measured; its limit, if not given. Raises UserError if the budget is too short, memory too
    small, or the pinned values contradict each other.
    """
    until_now_s = measuring.spent_s() if measuring else 0.0
    before_s = max(case.planning_limit_s, until_now_s) if plan_s is None else plan_s
    learned_factor = case.reserve_factor
    cheapest = max(case.vocabularies, key=lambda each: case.divided(each, plan_s=before_s).phases.train_s)
    case = case.affordable(
        cheapest, plan_s=lambda total_s: max(planning_limit_s(total_s), until_now_s) if plan_s is None else plan_s, extra_s=case.pinned_compile_s
    )
    select, reasons = STRATEGIES[case.params.plan.strategy]
    selection = select(case, measuring, plan_s=before_s, known=known)
    after_s = measuring.spent_s() + WRITE_S if measuring else before_s
    case, selection, budget = _settled(case, selection, plan_s=after_s)
    selection = settle_lookup(case, selection)
    best = selection.best
    budget = _without_harm(best, budget)
    return Decision(
        plan=Plan(
            hardware=case.hardware.identity,
            budget=budget,
            data=case.data_plan(best.vocabulary, train_bytes=selection.train_bytes),
            model=best.model,
            train=case.train_plan(
                best.model,
                best.train,
                num_steps=best.num_steps,
                train_s=best.loop_s,
                epochs=selection.epochs,
                per_byte=best.price.num_params / selection.prepared_bytes,
            ),
            forecast=_forecast(case, selection),
            why=explain(case, selection, budget, [*reasons(case, selection), *lookup_reasons(case, selection)], learned_factor=learned_factor),
        ),
        selection=selection,
    )


def _settled(case: Case, selection: Selection, *, plan_s: float) -> tuple[Case, Selection, BudgetPlan]:
    """The budget as it divides with what was chosen, which may leave more time for steps or less: then the choice is made again. Raises UserError if too
    little is left for training."""
    spare_s = max(0.0, case.planning_limit_s - plan_s)
    selection = selection.with_choice(selection.best, spare_s=spare_s)
    settled = _divided(case, selection, plan_s=plan_s)
    for _ in range(MOST_CHANGES if case.is_timed else 0):
        selection = settled[1]
        again = selection.with_choice(choose(selection.candidates, text=selection.text), spare_s=spare_s)
        if again.best is selection.best and again.train_bytes == selection.train_bytes:
            break
        try:
            settled = _divided(case, again, plan_s=plan_s)
        except UserError:  # what was chosen before leaves enough
            break
    return settled


def _divided(case: Case, selection: Selection, *, plan_s: float) -> tuple[Case, Selection, BudgetPlan]:
    best, expected = selection.best, selection.expected
    case = case.affordable(best.vocabulary, plan_s=lambda total_s: plan_s, expected=expected, extra_s=best.compile_s)
    budget = _with_counted_steps(case, best, case.divided(best.vocabulary, plan_s=plan_s, expected=expected))
    return case, selection.with_more_time(budget.phases.train_s - case.setup_s - best.compile_s - best.loop_s), budget


def _with_counted_steps(case: Case, best: Candidate, budget: BudgetPlan) -> BudgetPlan:
    """Where the steps are counted, training takes what they take, whatever the budget."""
    if case.is_timed:
        return budget
    train_s = case.setup_s + best.compile_s + best.needed_s
    return budget.model_copy(update={"phases": budget.phases.model_copy(update={"train_s": train_s})})


def _without_harm(best: Candidate, budget: BudgetPlan) -> BudgetPlan:
    """Training ends before it reads a small text too often; the time is left unused."""
    phases = budget.phases.model_copy(update={"train_s": budget.phases.train_s - best.unused_s})
    return budget.model_copy(update={"phases": phases, "unused_s": best.unused_s})


def _forecast(case: Case, selection: Selection) -> Forecast:
    best = selection.best
    forecast = best.forecast(selection.text)
    low, high = scaling.interval(forecast, selection.text.experience.spread)
    return Forecast(
        val_bpb=forecast,
        val_bpb_low=low,
        val_bpb_high=high,
        law=scaling.LAW,
        correction=selection.text.experience.correction * best.learned,
        is_free=case.params.is_free,
        step_s=best.step_s,
        tokens=best.tokens,
        epochs=selection.epochs,
        peak_memory_bytes=best.memory.total,
        num_params=best.price.num_params,
        flops_per_token=best.price.flops_per_token,
    )
