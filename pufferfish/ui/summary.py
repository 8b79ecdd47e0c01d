"""What the last `dvc repro` did, on one screen of 80 columns."""

from __future__ import annotations

import itertools
import textwrap
from collections.abc import Mapping
from operator import itemgetter
from typing import Any

from pufferfish.base import paths
from pufferfish.base.units import format_bytes, format_count, format_duration
from pufferfish.schema.hardware import Hardware
from pufferfish.schema.plan import STAGES, Plan
from pufferfish.schema.reports import Evaluation, ExportReport, Outcome
from pufferfish.ui.lines import columns, labelled, machine_lines
from pufferfish.ui.tables import phase_rows

WIDTH = 79
MAX_PAUSE_S = 60.0  # between stages of one `dvc repro`; longer ones lie between two of them
SAMPLE_LINES = 6
BAR_WIDTH = 32
ON_TIME_S = 0.05
NEXT = {
    "make ui": "all runs in the browser",
    "pufferfish generate": "let it write",
    "dvc exp run -S budget.time={longer}": "the same with more time",
}
Timing = Mapping[str, Mapping[str, Any]]


def summary(plan: Plan, hardware: Hardware, timing: Timing, outcome: Outcome, evaluation: Evaluation, export_report: ExportReport | None, sample: str) -> str:
    """The whole screen. `timing` holds for each stage what it wrote: `start_s`, `end_s`, `elapsed_s`, `boot_id`."""
    spent_s = total_spent_s(plan, timing)
    budget = f"{lateness(spent_s, plan.budget.total_s)} for a budget of {format_duration(plan.budget.total_s)}"
    parts = [
        [f"Done: {evaluation.val_bpb:.3f} bits per byte, {budget}.", ""],
        facts(plan, hardware, outcome),
        ["", *time_table(plan, timing)],
        ["", *quality_table(plan, evaluation)],
        ["", *sample_lines(sample)] if sample.strip() else [],
        ["", *closing_lines(plan, export_report)],
    ]
    return "\n".join(line for part in parts for line in part)


def facts(plan: Plan, hardware: Hardware, outcome: Outcome) -> list[str]:
    """Machine, plan, training."""
    model, train = plan.model, plan.train
    size = f"{format_count(plan.forecast.num_params)} parameters"
    shape = f"{size}: {model.num_layers} layers x {model.d_model} wide, vocabulary {model.vocab_size:,}, context {model.seq_len:,}"
    how = f"{train.optimizer}, {train.tokens_per_step:,} tokens a step, {train.dtype}{', compiled' if train.is_compiled else ''}"
    trained = f"{outcome.num_steps:,} steps, {format_count(outcome.num_tokens)} tokens, {format_count(outcome.tokens_per_s)} tokens/s"
    memory = f", {format_bytes(outcome.peak_memory_bytes)} at the peak"
    resumed = f", resumed {outcome.num_resumes} time{'s' if outcome.num_resumes > 1 else ''}" if outcome.num_resumes else ""
    pairs = [("machine", "; ".join(machine_lines(hardware))), ("plan", f"{shape}; {how}"), ("training", trained + memory + resumed)]
    pairs += [("warning", warning) for warning in outcome.warnings]
    return [line for label, text in pairs for line in labelled(label, text, width=WIDTH)]


def pauses_s(plan: Plan, timing: Timing) -> float:
    """Seconds between the stages; the planned ones between two that did not run one after the other."""
    pairs = list(itertools.pairwise(timing[stage] for stage in STAGES))
    usual_s = plan.budget.phases.between_s / len(pairs)
    gaps = [later["start_s"] - earlier["end_s"] if later["boot_id"] == earlier["boot_id"] else -1.0 for earlier, later in pairs]
    return sum(gap_s if 0 <= gap_s <= MAX_PAUSE_S else usual_s for gap_s in gaps)


def total_spent_s(plan: Plan, timing: Timing) -> float:
    """What the experiment cost. A stage that was not run again is charged what it cost when it ran."""
    return sum(float(timing[stage]["elapsed_s"]) for stage in STAGES) + pauses_s(plan, timing)


def lateness(spent_s: float, total_s: float) -> str:
    """`1.2 s early`, `0.4 s late`."""
    late_s = spent_s - total_s
    if abs(late_s) < ON_TIME_S:
        return "on time"
    return f"{format_duration(abs(late_s))} {'late' if late_s > 0 else 'early'}"


def time_table(plan: Plan, timing: Timing) -> list[str]:
    """Planned against spent, phase by phase."""
    spent = {stage: float(timing[stage]["elapsed_s"]) for stage in STAGES}
    spent["between stages"] = pauses_s(plan, timing)
    rows = [("time", "planned", "spent", "")]
    for name, planned_s in phase_rows(plan.budget.phases):
        rows.append((name, format_duration(planned_s), format_duration(spent[name]), ""))
    if plan.budget.unused_s:
        rows.append(("left unused", format_duration(plan.budget.unused_s), "", ""))
    spent_s = total_spent_s(plan, timing)
    rows.append(("total", format_duration(plan.budget.total_s), format_duration(spent_s), lateness(spent_s, plan.budget.total_s)))
    return columns(rows, align="<>><")


def quality_table(plan: Plan, evaluation: Evaluation) -> list[str]:
    """Bits per byte of the validation text beside what is simple to beat, the best first."""
    scores = sorted([("this model", evaluation.val_bpb), *evaluation.baselines.items()], key=itemgetter(1))
    worst = max(bpb for _, bpb in scores)
    rows = []
    for name, bpb in scores:
        rows.append((name, f"{bpb:.3f}", "█" * max(1, round(BAR_WIDTH * bpb / worst)) if worst > 0 else ""))
    forecast = plan.forecast
    rows.append(("forecast was", f"{forecast.val_bpb:.3f}", f"80 %: {forecast.val_bpb_low:.3f} to {forecast.val_bpb_high:.3f}"))
    return ["  bits per byte of text not trained on, less is better", *columns(rows, align="<><")]


def sample_lines(sample: str) -> list[str]:
    """The beginning of a text that the model wrote; what is no printable character is shown as a space."""
    visible = "".join(character if character.isprintable() or character == "\n" else " " for character in sample.strip("\n").expandtabs(4))
    lines = [line for part in visible.split("\n") for line in (textwrap.wrap(part, WIDTH - 4, drop_whitespace=False, break_on_hyphens=False) or [""])]
    ending = ["    ..."] if len(lines) > SAMPLE_LINES else []
    return ["  it writes", *(f"    {line}".rstrip() for line in lines[:SAMPLE_LINES]), *ending, f"    (more in {paths.SAMPLES})"]


def closing_lines(plan: Plan, export_report: ExportReport | None) -> list[str]:
    """Where the result is, and what to do next."""
    longer = "10m" if plan.budget.total_s < 600 else "1h" if plan.budget.total_s < 3600 else "8h"
    rows = [(command.format(longer=longer), meaning) for command, meaning in NEXT.items()]
    where = []
    if export_report is not None:
        where = labelled("export", f"{export_report.folder}  ({export_report.architecture}, {format_bytes(export_report.num_bytes)}, compared)", width=WIDTH)
    return [*where, "", "  next", *columns(rows, align="<<", indent="    ")]
