"""`pufferfish summary`: what the last `dvc repro` did, on one screen, from its artifacts alone."""

from __future__ import annotations

import argparse
import itertools
import json
from pathlib import Path

from pufferfish.base import paths
from pufferfish.base.errors import UserError
from pufferfish.base.units import format_bytes, format_count, format_duration
from pufferfish.schema.hardware import Hardware
from pufferfish.schema.plan import Phases, Plan
from pufferfish.schema.reports import Evaluation, Outcome

STAGES = ("hardware-probe", "plan", "prepare-subset", "train", "evaluate", "export")
SAMPLE_LINES, SAMPLE_CHARACTERS = 6, 100


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """None: it reads the artifacts of the folder it is called in."""


def run(arguments: argparse.Namespace) -> int:
    """Raises UserError where a stage has not run."""
    print(summary())
    return 0


def summary() -> str:
    """The whole screen."""
    hardware, plan = Hardware.load(paths.HARDWARE), Plan.load(paths.PLAN)
    outcome, evaluation = Outcome.load(paths.MODEL / "outcome.json"), Evaluation.load(paths.EVALUATION)
    stamps = {stage: read_stamp(stage) for stage in STAGES}
    parts = [
        ["", "Pufferfish is done.", ""],
        [f"  machine   {machine_line(hardware)}", f"  plan      {plan_line(plan)}", f"  training  {training_line(outcome)}", ""],
        time_table(plan, stamps),
        quality_table(plan, evaluation),
        sample_lines(),
        closing_lines(plan),
    ]
    return "\n".join(line for part in parts for line in part)


def machine_line(hardware: Hardware) -> str:
    """`2 cores, 24.0 GB, AMD EPYC` or the GPU's name."""
    seen = hardware.fingerprint
    device = ", ".join(gpu.name for gpu in seen.gpus) if seen.device == "cuda" else seen.cpu
    return f"{device}; {seen.num_cores} cores, {format_bytes(hardware.usable_memory_bytes)} usable, {seen.device}"


def plan_line(plan: Plan) -> str:
    """Shape and recipe."""
    model, train = plan.model, plan.train
    size = f"{format_count(plan.forecast.num_params)} parameters"
    shape = f"{size}: {model.num_layers} layers x {model.d_model}, vocabulary {model.vocab_size}, context {model.seq_len}"
    return f"{shape}; {train.optimizer}, {train.tokens_per_step} tokens a step, {train.dtype}{', compiled' if train.is_compiled else ''}"


def training_line(outcome: Outcome) -> str:
    """What came of it."""
    resumed = f", resumed {outcome.num_resumes} times" if outcome.num_resumes else ""
    return f"{outcome.num_steps} steps, {format_count(outcome.num_tokens)} tokens, {format_count(outcome.tokens_per_s)} tokens/s{resumed}"


def read_stamp(stage: str) -> dict[str, float]:
    """Start, end and length of a stage in seconds on the boot clock, as it wrote them."""
    path = paths.timing(stage)
    if not path.exists():
        raise UserError(f"the stage {stage} has not run", saw=f"no file {path}", fix="run `dvc repro`")
    stamp: dict[str, float] = json.loads(path.read_text())
    return stamp


def time_table(plan: Plan, stamps: dict[str, dict[str, float]]) -> list[str]:
    """Planned against spent, phase by phase. Stages that did not run now are charged what they cost when they did."""
    phases: Phases = plan.budget.phases
    rows = [(stage, getattr(phases, f"{stage.replace('-', '_')}_s"), stamps[stage]["elapsed_s"]) for stage in STAGES]
    spent_s = sum(row[2] for row in rows)
    boots = {stamps[stage]["boot_id"] for stage in STAGES}
    whole_s = stamps[STAGES[-1]]["end_s"] - stamps[STAGES[0]]["start_s"]
    ran_at_once = len(boots) == 1 and all(stamps[a]["end_s"] <= stamps[b]["start_s"] for a, b in itertools.pairwise(STAGES))
    between_s = whole_s - spent_s
    if ran_at_once and between_s < plan.budget.total_s:
        rows.append(("between stages", phases.between_s, between_s))
        spent_s = whole_s
    lines = [f"  {'time':16} {'planned':>10} {'spent':>10}"]
    lines += [f"  {name:16} {format_duration(planned):>10} {format_duration(spent):>10}" for name, planned, spent in rows]
    late_s = spent_s - plan.budget.total_s
    verdict = f"{format_duration(abs(late_s))} {'late' if late_s > 0 else 'early'}"
    return [*lines, f"  {'total':16} {format_duration(plan.budget.total_s):>10} {format_duration(spent_s):>10}   {verdict}", ""]


def quality_table(plan: Plan, evaluation: Evaluation) -> list[str]:
    """Bits per byte of the validation text beside what is simple to beat."""
    rows = sorted([("this model", evaluation.val_bpb), *((each.name, each.bpb) for each in evaluation.baselines)], key=lambda row: row[1])
    lines = [f"  {'bits per byte':16} {'lower is better':>21}"]
    lines += [f"  {name:16} {bpb:>21.3f}{' <--' if name == 'this model' else ''}" for name, bpb in rows]
    forecast = plan.forecast
    return [*lines, f"  {'(forecast)':16} {forecast.val_bpb:>21.3f}   {forecast.val_bpb_low:.3f} to {forecast.val_bpb_high:.3f}", ""]


def sample_lines() -> list[str]:
    """The beginning of the first sample."""
    if not paths.SAMPLES.exists():
        return []
    text = [line[:SAMPLE_CHARACTERS] for line in paths.SAMPLES.read_text("utf-8").splitlines() if line.strip()]
    return ["  a sample", *(f"    {line}" for line in text[:SAMPLE_LINES]), f"    ... all of them in {paths.SAMPLES}", ""]


def closing_lines(plan: Plan) -> list[str]:
    """Where the result is, and what to do next."""
    folders = sorted(str(folder) for folder in Path(paths.EXPORT).iterdir() if folder.is_dir()) if paths.EXPORT.exists() else []
    longer = "10m" if plan.budget.total_s < 600 else "1h"
    return [
        f"  export    {', '.join(folders) or paths.EXPORT}   (loads with transformers' AutoModelForCausalLM)",
        "",
        "  next      make ui                                 all runs in the browser",
        '            .venv/bin/pufferfish generate "def "     let it write',
        f"            .venv/bin/dvc exp run -S budget.time={longer}   the same with more time",
    ]
