"""Whether a model with a table of values keeps it: where a text is read again and again, rows learn it by heart."""

from __future__ import annotations

from dataclasses import replace

from pufferfish.plan.candidate import Candidate
from pufferfish.plan.case import Case, Selection
from pufferfish.plan.speed import step_seconds

MOST_EPOCHS = 4.0  # 1.6 % fewer bits per byte after 1.9 readings, 1.0 % after 3.8, on one text (docs/LOG.md); more were not tried


def settle_lookup(case: Case, selection: Selection) -> Selection:
    """The selection, its models without the table that the plan was free to give them, if the best one would read the text too often."""
    if not _is_free(case) or _readings(case, selection) <= MOST_EPOCHS:
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


def _readings(case: Case, selection: Selection) -> float:
    """How often the best one has time to read the text: where it stops before, because more would do harm, rows are learned by heart all the same."""
    best = selection.best
    num_steps = best.fitting_steps if case.is_timed else best.num_steps
    return num_steps * best.train.tokens_per_step * best.vocabulary.bytes_per_token / selection.prepared_bytes


def _without_table(case: Case, candidate: Candidate) -> Candidate:
    """The pace stays as it was found: a table costs next to none."""
    model = candidate.model.model_copy(update={"lookup": "none"})
    return replace(candidate, model=model, price=case.price_of(model, candidate.train.attention))


def lookup_reasons(case: Case, selection: Selection) -> list[str]:
    """Where the plan was free to look something up, whether it does."""
    if not _is_free(case):
        return []
    readings = _readings(case, selection)
    read = f"there is time to read this one {readings:.1f} times" if readings > selection.epochs else f"this one is read {readings:.1f} times"
    bound = f"that pays where a text is read {MOST_EPOCHS:g} times at most, and {read}"
    table = "values of tokens are looked up in a table, so the export comes with code" if selection.best.model.lookup == "value" else "nothing is looked up"
    return [f"{table}: {bound}"]


def _is_free(case: Case) -> bool:
    return not case.params.model.portable and case.params.model.lookup == "auto"
