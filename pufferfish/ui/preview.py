"""`pufferfish plan` in words and tables: the plan, what nearly won, where the memory goes, what other budgets would give."""

from __future__ import annotations

import textwrap

from pufferfish.base.units import format_bytes, format_count, format_duration
from pufferfish.schema.hardware import Hardware
from pufferfish.schema.plan import Candidate
from pufferfish.schema.preview import OtherBudget, Preview
from pufferfish.ui.lines import columns, labelled
from pufferfish.ui.tables import WIDTH, candidate_table, decisions, phase_table, reason_lines

TERMS = {  # of memory, in words
    "process": "process and libraries",
    "weights": "weights that compute",
    "masters": "master weights",
    "average": "average of the weights",
    "gradients": "gradients",
    "optimizer": "optimizer state",
    "activations": "activations",
    "logits": "logits of the head",
    "workspace": "work space",
    "cache": "keys and values of one context",  # where text is written
}
PILOTS = "Before it is made for real, pilots are trained on the text, for which this look took no time: they may change it."
PREDICTED = "predicted for a machine that is not this one: no step was measured there, and the text was surveyed here"


def preview_text(preview: Preview, hardware: Hardware) -> str:
    """Everything, at most 110 columns wide."""
    plan = preview.plan
    title = f"Plan for {format_duration(plan.budget.total_s)}" + (f", {PREDICTED}" if preview.is_predicted else "")
    pilots = textwrap.wrap(PILOTS, WIDTH) if preview.pilots_to_come else []
    parts = [
        [*textwrap.wrap(title, WIDTH), *pilots, ""],
        decisions(plan, hardware),
        ["", *phase_table(plan.budget)],
        ["", *memory_table(preview.memory_bytes)],
        ["", *other_budget_table(preview)],
        ["", *runner_up_lines(preview.runner_up)],
        ["", *candidate_table(plan.why.candidates)],
        ["", *reason_lines(plan.why.reasons)],
    ]
    return "\n".join(line for part in parts for line in part)


def memory_table(memory_bytes: dict[str, int], title: str = "memory") -> list[str]:
    """Terms of the peak; those that are nothing are left out."""
    total = sum(memory_bytes.values())
    rows = [(title, "at the peak", "share")]
    rows += [(TERMS[name], format_bytes(term), f"{term / total:.0%}") for name, term in memory_bytes.items() if term]
    return columns([*rows, ("total", format_bytes(total), "100%")], align="<>>")


def other_budget_table(preview: Preview) -> list[str]:
    """This budget between half and double of it."""
    plan = preview.plan
    this = OtherBudget(total_s=plan.budget.total_s, refusal="", model=plan.model, tokens_per_step=plan.train.tokens_per_step, forecast=plan.forecast)
    rows = [("budget", "layers", "width", "vocab", "context", "batch", "params", "tokens", "bits/byte", "80 %")]
    rows += [_budget_row(each) for each in sorted([*preview.other_budgets, this], key=lambda each: each.total_s)]
    refusals = [f"  {format_duration(each.total_s)}: {each.refusal}" for each in preview.other_budgets if each.refusal]
    return [*columns(rows, align="<>>>>>>>>>"), *refusals]


def _budget_row(other: OtherBudget) -> tuple[str, ...]:
    if other.model is None or other.forecast is None:
        return (format_duration(other.total_s), *["-"] * 9)
    model, forecast = other.model, other.forecast
    return (
        format_duration(other.total_s),
        str(model.num_layers),
        str(model.d_model),
        f"{model.vocab_size:,}",
        f"{model.seq_len:,}",
        f"{other.tokens_per_step:,}",
        format_count(forecast.num_params),
        format_count(forecast.tokens),
        f"{forecast.val_bpb:.3f}",
        f"{forecast.val_bpb_low:.3f} to {forecast.val_bpb_high:.3f}",
    )


def runner_up_lines(candidate: Candidate | None) -> list[str]:
    """What nearly won, and why it did not."""
    if candidate is None:
        return labelled("runner-up", "none: there was no other shape to choose", width=WIDTH)
    shape = f"{candidate.num_layers} layers x {candidate.d_model} wide, vocabulary {candidate.vocab_size:,}, context {candidate.seq_len:,}"
    size = f"{format_count(candidate.num_params)} parameters, {candidate.tokens_per_step:,} tokens a step"
    return labelled("runner-up", f"{shape}, {size}: {candidate.val_bpb:.3f} bits per byte, {candidate.verdict}", width=WIDTH)
