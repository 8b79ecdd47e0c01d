"""A plan in words and tables, for the plan stage and `pufferfish plan`."""

from __future__ import annotations

import textwrap

from pufferfish.base.units import format_bytes, format_count, format_duration, format_seconds
from pufferfish.schema.hardware import Hardware
from pufferfish.schema.plan import STAGES, BudgetPlan, Candidate, Forecast, ModelPlan, Phases, Plan, TrainPlan
from pufferfish.ui.lines import GAP, columns, labelled, machine_lines

WIDTH = 110
SHOWN_S = 0.05  # less cannot be seen in a table


def plan_text(plan: Plan, hardware: Hardware | None = None) -> str:
    """What will be done and why, at most 110 columns wide."""
    parts = [
        [f"Plan for {format_duration(plan.budget.total_s)}", ""],
        decisions(plan, hardware),
        ["", *phase_table(plan.budget)],
        ["", *candidate_table(plan.why.candidates)] if plan.why.candidates else [],
        ["", *reason_lines(plan.why.reasons)] if plan.why.reasons else [],
    ]
    return "\n".join(line for part in parts for line in part)


def decisions(plan: Plan, hardware: Hardware | None) -> list[str]:
    """One labelled line for each thing that was decided."""
    model, train, forecast = plan.model, plan.train, plan.forecast
    machine = "; ".join(machine_lines(hardware)) if hardware else f"{train.device}, {train.num_threads} threads"
    vocabulary = f"{model.vocab_size:,} byte-level tokens, {'shared by' if model.is_tied else 'separate for'} input and output"
    pairs = {
        "machine": machine,
        "data": f"{plan.data.source}{f' ({plan.data.path})' if plan.data.path else ''}, up to {format_bytes(plan.data.train_bytes)} of text",
        "vocabulary": vocabulary,
        "model": f"{format_count(forecast.num_params)} parameters: {shape_text(model)}",
        "batch": f"{train.tokens_per_step:,} tokens a step, {train.micro_batch} x {model.seq_len:,} at once",
        "steps": steps_text(train, forecast),
        "optimizer": optimizer_text(train),
        "schedule": f"warm-up {train.warmup_share:.1%}, cooldown {train.cooldown_share:.0%} of the {'time' if train.clock == 'deadline' else 'steps'}",
        "precision": f"{train.dtype}, {'compiled' if train.is_compiled else 'not compiled'}{', activations recomputed' if train.is_checkpointed else ''}",
        "memory": f"{format_bytes(forecast.peak_memory_bytes)} at the peak{f' of {format_bytes(hardware.usable_memory_bytes)}' if hardware else ''}",
        "forecast": f"{forecast.val_bpb:.3f} bits per byte (80 %: {forecast.val_bpb_low:.3f} to {forecast.val_bpb_high:.3f})",
    }
    return [line for label, text in pairs.items() for line in labelled(label, text, width=WIDTH)]


def shape_text(model: ModelPlan) -> str:
    """The decoder's shape in words."""
    heads = f"{model.num_heads} heads" + (f" ({model.num_kv_heads} key/value)" if model.num_kv_heads != model.num_heads else "")
    norm = ", QK-norm" if model.has_qk_norm else ""
    lookup = "" if model.lookup == "none" else f", {model.lookup} lookup"
    return f"{model.num_layers} layers x {model.d_model} wide, {heads} of {model.head_dim}, feed-forward {model.d_ff}, context {model.seq_len:,}{norm}{lookup}"


def steps_text(train: TrainPlan, forecast: Forecast) -> str:
    """How many steps, how long, over how much."""
    about = "about " if train.clock == "deadline" else ""
    return f"{about}{train.num_steps:,} of {format_seconds(forecast.step_s)}: {format_count(forecast.tokens)} tokens, {forecast.epochs:.2g} epochs"


def optimizer_text(train: TrainPlan) -> str:
    """The optimizer with its peak rates."""
    rates = f"matrices {train.matrix_lr:.2g}, embedding {train.embedding_lr:.2g}, head {train.head_lr:.2g}, gains {train.gain_lr:.2g}"
    clipping = f", clipped at {train.clip_norm:g}" if train.clip_norm else ""
    return f"{train.optimizer}: {rates}; weight decay {train.weight_decay:g}{clipping}"


def phase_rows(phases: Phases) -> list[tuple[str, float]]:
    """Stages, and the pauses between them, with their planned seconds."""
    rows = [(stage, float(getattr(phases, f"{stage.replace('-', '_')}_s"))) for stage in STAGES]
    return [*rows, ("between stages", phases.between_s)]


def phase_table(budget: BudgetPlan) -> list[str]:
    """How the time is divided; counted steps may take more or less than the budget."""
    expected_s = sum(budget.phases.model_dump().values())
    rows = [("time", "planned", "share")]
    for name, planned_s in [*phase_rows(budget.phases), ("total", expected_s)]:
        rows.append((name, format_duration(planned_s), f"{planned_s / budget.total_s:.0%}"))
    if abs(expected_s - budget.total_s) > SHOWN_S:
        rows.append(("budget", format_duration(budget.total_s), "100%"))
    return columns(rows, align="<>>")


def candidate_table(candidates: list[Candidate]) -> list[str]:
    """What was considered, as the plan ordered it."""
    rows = [("vocab", "layers", "width", "context", "batch", "params", "step", "tokens", "bits/byte")]
    rows += [candidate_row(each) for each in candidates]
    lines = columns(rows, align=">>>>>>>>>", gap="  ")
    start = max(map(len, lines)) + len(GAP)
    text = []
    for line, verdict in zip(lines, ["verdict", *(each.verdict for each in candidates)], strict=True):
        first, *others = textwrap.wrap(verdict, WIDTH - start, break_on_hyphens=False) or [""]
        text += [f"{line:<{start}}{first}".rstrip(), *(" " * start + other for other in others)]
    return [*text, "  ~ not measured, * compiled"]


def candidate_row(candidate: Candidate) -> tuple[str, ...]:
    """One candidate's cells, without the verdict."""
    step = format_seconds(candidate.measured_step_s) if candidate.measured_step_s else f"~{format_seconds(candidate.predicted_step_s)}"
    return (
        f"{candidate.vocab_size:,}",
        str(candidate.num_layers),
        str(candidate.d_model),
        f"{candidate.seq_len:,}",
        f"{candidate.tokens_per_step:,}",
        format_count(candidate.num_params),
        f"{step}{'*' if candidate.is_compiled else ' '}",
        format_count(candidate.tokens),
        f"{candidate.val_bpb:.3f}",
    )


def reason_lines(reasons: list[str]) -> list[str]:
    """Each wrapped behind a dash."""
    wrapped = (textwrap.wrap(each, WIDTH, initial_indent="  - ", subsequent_indent="    ", break_on_hyphens=False) for each in reasons)
    return ["  Why", *(line for lines in wrapped for line in lines)]
