"""Whether a model with a table of values keeps it: where a text is read again and again, rows learn it by heart."""

from __future__ import annotations

from dataclasses import replace

from pufferfish.plan.candidate import Candidate
from pufferfish.plan.case import Case, Selection
from pufferfish.plan.speed import step_seconds

MOST_EPOCHS = 2.0  # a guess


def settle_lookup(case: Case, selection: Selection) -> Selection:
    """The selection, its models without the table that the plan was free to give them, if the best one would read the text too often."""
    if not _is_free(case) or selection.epochs <= MOST_EPOCHS:
        return selection
    plain = {id(each): _without_table(case, each) for each in selection.candidates}
    best = plain[id(selection.best)]
    predicted_s = step_seconds(case.machine, best.price, best.model, best.train)
    plain[id(selection.best)] = replace(best, predicted_step_s=predicted_s, measured=None, correction=best.step_s / best.predicted_step_s)
    return replace(
        selection,
        best=plain[id(selection.best)],
        candidates=list(plain.values()),
        measured=[plain[id(each)] for each in selection.measured if each is not selection.best],
    )


def _without_table(case: Case, candidate: Candidate) -> Candidate:
    """The pace stays as it was found: a table costs next to none."""
    model = candidate.model.model_copy(update={"lookup": "none"})
    return replace(candidate, model=model, price=case.price_of(model, candidate.train.attention))


def lookup_reasons(case: Case, selection: Selection) -> list[str]:
    """Where the plan was free to look something up, whether it does."""
    if not _is_free(case):
        return []
    bound = f"that pays where a text is read {MOST_EPOCHS:g} times at most, and this one is read {selection.epochs:.1f} times"
    table = "values of tokens are looked up in a table, so the export comes with code" if selection.best.model.lookup == "value" else "nothing is looked up"
    return [f"{table}: {bound}"]


def _is_free(case: Case) -> bool:
    return not case.params.model.portable and case.params.model.lookup == "auto"
