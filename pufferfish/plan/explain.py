"""Why this plan: reasons in sentences, the candidates that lost with the reason for each, and the best that lost with another shape."""

from __future__ import annotations

from pufferfish.base.units import format_bytes, format_count, format_duration
from pufferfish.plan import recipe
from pufferfish.plan.budget import RESERVE_MARGIN
from pufferfish.plan.candidate import Candidate, has_enough_steps
from pufferfish.plan.case import ENCODING_SHARE, Case, Selection
from pufferfish.plan.choose import NEAR
from pufferfish.plan.memory import MOST_AT_ONCE
from pufferfish.plan.scaling import Text, most_epochs
from pufferfish.schema import plan as schema

NUM_SHOWN = 16
CLOSE = 1.02  # a ratio that is not worth a word


def explain(case: Case, selection: Selection, budget: schema.BudgetPlan, strategy_reasons: list[str], *, learned_factor: float) -> schema.Why:
    """Reasons, those of the strategy first, and the candidates, measured ones first, then the best forecasts. `learned_factor`: what earlier pipelines on this
    machine ask for, see `budget.reserve_factor`."""
    best = selection.best
    ranked = sorted(selection.candidates, key=lambda candidate: candidate.forecast(selection.text))
    shown = [best, *(c for c in selection.measured if c.model != best.model or c.train != best.train)]
    shown += [c for c in ranked if not c.measured and c is not best][: max(0, NUM_SHOWN - len(shown))]
    reasons = [*strategy_reasons, *_common_reasons(case, selection), *_reserve_reasons(case, learned_factor), *_counted_reasons(case, selection, budget)]
    return schema.Why(reasons=reasons, candidates=[row(c, selection.text, verdict(c, best, selection.text)) for c in shown[:NUM_SHOWN]])


def _common_reasons(case: Case, selection: Selection) -> list[str]:
    best = selection.best
    epochs = selection.epochs
    sizes = ", ".join(f"{v.vocab_size}: {v.bytes_per_token:.2f}" for v in case.vocabularies)
    fastest = "as pinned" if case.params.train.dtype != "auto" else "the best that runs here, by its matrix products (float16 has to be twice as quick)"
    rows = [f"vocabulary {best.model.vocab_size}: bytes per token on a sample of this text are {sizes}", f"{best.train.dtype}: {fastest}"]
    if known := case.text.experience.num_outcomes:
        rows.append(f"{known} earlier training{'s' if known > 1 else ''} on this text: the law is corrected by {case.text.experience.correction - 1:+.1%}")
    if not best.measured:
        rows.append("the pace is predicted from the machine's speeds: no step of this configuration was measured")
    if epochs > 1:
        rows.append(f"the text is read {epochs:.1f} times" + ("; more text would help" if case.text is case.all_text else ""))
    if epochs > 1 and case.text is not case.all_text and selection.train_bytes < case.all_text.unique_bytes:
        share = f"{format_bytes(selection.prepared_bytes)} of the text's {format_bytes(case.all_text.unique_bytes)}"
        rows.append(f"{share} are used: to read and encode twice as much would take more than {ENCODING_SHARE:.0%} of the budget")
    if best.unused_s:
        is_most = epochs >= 0.99 * most_epochs(is_taught=best.is_taught)
        reason = "more readings were no better where they were tried" if is_most else "to read the text more often would do more harm than good"
        rows.append(f"{format_duration(best.unused_s)} of the budget are left unused: {reason}")
    if case.params.train.input_noise == "auto" and (noise := recipe.usual_noise(epochs)):
        rows.append(f"{noise:.1%} of the inputs are replaced by random tokens, so that the text is not learned by heart")
    if best.is_taught and case.params.train.teacher_share == "auto":
        share = f"an average of the last weights gives {best.train.teacher_share:.0%} of each target and is the model in the end"
        rows.append(f"{share}: so the text can be read more often before it is learned by heart")
    num_micro = best.train.tokens_per_step // (best.train.micro_batch * best.model.seq_len)
    if num_micro > 1:
        is_most = 2 * best.train.micro_batch * best.model.seq_len > MOST_AT_ONCE[best.train.device]
        cause = "since more at once are no quicker" if is_most else "because memory does not hold them at once"
        rows.append(f"{num_micro} micro-batches a step, {'as pinned' if case.params.train.micro_batch != 'auto' else cause}")
    return rows


def _reserve_reasons(case: Case, learned_factor: float) -> list[str]:
    """What is kept for the last stages, where that was learned."""
    if case.reserve_factor != learned_factor:
        longer = f"earlier pipelines on this machine ask for {learned_factor:.2g} times what evaluation and export are estimated to take"
        return [f"{longer}, which leaves too little of this budget: they are given {case.reserve_factor:.2g} times that, and may end late"]
    if learned_factor == RESERVE_MARGIN:
        return []
    return [f"evaluation and export are given {learned_factor:.2g} times what they are estimated to take, by what earlier pipelines took on this machine"]


def _counted_reasons(case: Case, selection: Selection, budget: schema.BudgetPlan) -> list[str]:
    """For counted steps: whether the budget will be kept."""
    if case.is_timed:
        return []
    best, expected_s = selection.best, sum(budget.phases.model_dump().values())
    kept = "within the budget, which is not used up" if expected_s <= case.total_s else f"the budget of {format_duration(case.total_s)} is not kept"
    needed = f"{format_duration(best.needed_s)}, and the whole pipeline {format_duration(expected_s)}"
    return [f"{best.num_steps} steps, as pinned, take about {needed}: {kept}"]


def verdict(candidate: Candidate, best: Candidate, text: Text) -> str:
    """In a few words, what became of a candidate."""
    forecast, winner = candidate.forecast(text), best.forecast(text)
    if candidate is best:
        return "chosen"
    if forecast < winner and candidate.measured:
        if not has_enough_steps(candidate) or forecast < winner * (1 - NEAR):
            return "too slow for enough steps"
        return "near-equal and larger" if candidate.price.num_params > best.price.num_params else "near-equal, reads more often"
    if forecast < winner:
        return "not worth measuring"
    return "near-equal" if forecast <= winner * (1 + NEAR) else f"{forecast / winner - 1:.1%} worse"


def runner_up(selection: Selection) -> schema.Candidate | None:
    """The best candidate of another shape, with why it lost. None where there was no other shape."""
    best, text = selection.best, selection.text
    others = [candidate for candidate in selection.candidates if candidate.shape != best.shape]
    if not others:
        return None
    second = min(others, key=lambda candidate: candidate.forecast(text))
    return row(second, text, why_it_lost(second, best, text))


def why_it_lost(candidate: Candidate, best: Candidate, text: Text) -> str:
    """In a sentence, why a candidate was not taken although it came close."""
    ratio = candidate.forecast(text) / best.forecast(text)
    larger, more_tokens = candidate.price.num_params / best.price.num_params, candidate.tokens / best.tokens
    size = f"{larger:.2g} times as many parameters" if larger >= 1 else f"{larger:.2g} of the parameters"
    reads = f"{format_count(candidate.tokens)} tokens in the time instead of {format_count(best.tokens)}"
    is_known = not best.measured or candidate.measured
    if (has_enough_steps(best) and not has_enough_steps(candidate)) or (is_known and ratio < 1 - NEAR):  # counted steps are enough, but may not be in time
        return "but it is too slow for enough steps"
    if not is_known and ratio <= 1 + NEAR:
        return "but measuring its steps was not worth the time"
    if ratio <= 1 + NEAR and larger < 1 and candidate.unused_s:
        return f"its forecast is {ratio - 1:.2%} worse, and time is left over"
    if ratio <= 1 + NEAR and larger < 1:
        return f"its forecast is equal within {NEAR:.1%}, but it reads the text {candidate.epochs(text):.1f} times"
    if ratio <= 1 + NEAR:
        return f"its forecast is equal within {NEAR:.1%}, and it has {size}"
    worse = f"{ratio - 1:.1%} worse"
    if larger >= CLOSE > more_tokens:
        return f"{worse}: it has {size}, but reads {reads}"
    if larger < CLOSE <= more_tokens:
        return f"{worse}: it reads {reads}, but has {size}"
    return f"{worse}: it has {size} and reads {reads}"


def row(candidate: Candidate, text: Text, verdict: str) -> schema.Candidate:
    """A candidate in the plan's own words."""
    return schema.Candidate(
        vocab_size=candidate.model.vocab_size,
        num_layers=candidate.model.num_layers,
        d_model=candidate.model.d_model,
        seq_len=candidate.model.seq_len,
        tokens_per_step=candidate.train.tokens_per_step,
        num_params=candidate.price.num_params,
        is_compiled=candidate.train.is_compiled,
        predicted_step_s=candidate.predicted_step_s if candidate.measured else candidate.step_s,
        measured_step_s=candidate.step_s if candidate.measured else 0.0,
        tokens=candidate.tokens,
        val_bpb=candidate.forecast(text),
        verdict=verdict,
    )
