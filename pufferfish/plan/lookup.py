"""Whether a model with a table of values keeps it: where a text is read again and again, rows learn it by heart."""

from __future__ import annotations

from dataclasses import replace

from pufferfish.plan.case import Case, Selection
from pufferfish.plan.speed import step_seconds

MOST_EPOCHS = 2.0  # a guess


def settle_lookup(case: Case, selection: Selection) -> Selection:
    """The selection, its best model without the table that the plan was free to give it, if it would read the text too often."""
    best = selection.best
    if not _is_free(case) or selection.epochs <= MOST_EPOCHS:
        return selection
    model = best.model.model_copy(update={"lookup": "none"})
    price = case.price_of(model, best.train.attention)
    predicted_s = step_seconds(case.machine, price, model, best.train)
    plain = replace(best, model=model, price=price, predicted_step_s=predicted_s, measured=None, correction=best.step_s / best.predicted_step_s)
    return replace(
        selection,
        best=plain,
        candidates=[plain if each is best else each for each in selection.candidates],
        measured=[each for each in selection.measured if each is not best],
    )


def lookup_reasons(case: Case, selection: Selection) -> list[str]:
    """Where the plan was free to look something up, whether it does."""
    if not _is_free(case):
        return []
    bound = f"that pays where a text is read {MOST_EPOCHS:g} times at most, and this one is read {selection.epochs:.1f} times"
    table = "values of tokens are looked up in a table, so the export comes with code" if selection.best.model.lookup == "value" else "nothing is looked up"
    return [f"{table}: {bound}"]


def _is_free(case: Case) -> bool:
    return not case.params.model.portable and case.params.model.lookup == "auto"
