"""`pufferfish summary`: what the last `dvc repro` did, on one screen, from its artifacts alone."""

from __future__ import annotations

import argparse
import json
from typing import Any

from pufferfish.base import paths
from pufferfish.base.errors import UserError
from pufferfish.schema.hardware import Hardware
from pufferfish.schema.plan import STAGES, Plan
from pufferfish.schema.reports import Evaluation, ExportReport, Outcome
from pufferfish.ui.summary import summary


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """None: it reads the artifacts of the folder it is called in."""


def run(arguments: argparse.Namespace) -> int:
    """Raises UserError where a stage has not run, or left something that is not its own."""
    plan, hardware = Plan.load(paths.PLAN), Hardware.load(paths.HARDWARE)
    outcome, evaluation = Outcome.load(paths.MODEL / "outcome.json"), Evaluation.load(paths.EVALUATION)
    reports = sorted(paths.EXPORT.glob("*.json"))
    report = ExportReport.load(reports[0]) if reports else None
    check_one_run(plan, outcome, evaluation, report)
    stamps = {stage: read_stamp(stage) for stage in STAGES}
    if outcome.num_resumes:  # the stamp knows only the last process
        stamps["train"]["elapsed_s"] = outcome.train_s
    print(summary(plan, hardware, stamps, outcome, evaluation, report, read_sample()))
    return 0


def check_one_run(plan: Plan, outcome: Outcome, evaluation: Evaluation, report: ExportReport | None) -> None:
    """Raises UserError where one of them is left from an earlier run, because a later one was interrupted."""
    for what, saw, wanted in (
        ("model is of another plan", outcome.plan, plan.identity),
        ("evaluation is of another model", evaluation.weights_sha256, outcome.weights_sha256),
        ("export is of another model", report.weights_sha256 if report else outcome.weights_sha256, outcome.weights_sha256),
    ):
        if saw != wanted:
            raise UserError(f"the last run is not finished: the {what}", saw=f"{saw[:16]}, not {wanted[:16]}", fix="run `dvc repro`")


def read_stamp(stage: str) -> dict[str, Any]:
    """Start, end and length of a stage in seconds on the boot clock, as it wrote them. Raises UserError if it did not."""
    path = paths.timing(stage)
    try:
        stamp = json.loads(path.read_text("utf-8"))
        return {"boot_id": str(stamp["boot_id"]), **{name: float(stamp[name]) for name in ("start_s", "end_s", "elapsed_s")}}
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise UserError(f"what the stage {stage} cost is not known", saw=f"{path}: {type(error).__name__}", fix="run `dvc repro`") from None


def read_sample() -> str:
    """The first text between fences in the samples, without its fence; empty if there is none. Raises UserError if they are no text."""
    try:
        text = paths.SAMPLES.read_text("utf-8") if paths.SAMPLES.exists() else ""
    except UnicodeDecodeError as error:
        raise UserError(f"{paths.SAMPLES} is not UTF-8 text", saw=error.reason, fix="run `dvc repro`") from None
    parts = text.split("\n```")
    return parts[1].partition("\n")[2] if len(parts) > 1 else text
