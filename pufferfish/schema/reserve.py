"""What the stages after training really took on a machine, beside what they were estimated to take: the next plans keep time for them accordingly.

The file lies with the state that outlives runs, one JSON line for each pipeline that came to its end.
"""

from __future__ import annotations

from pathlib import Path

from pufferfish.base import lines, paths
from pufferfish.base.timing import Timing
from pufferfish.schema.plan import Plan

KEPT = 5  # the last pipelines: a machine changes


def file() -> Path:
    """Where it is kept."""
    return paths.state() / "after_training.jsonl"


def remember(plan: Plan, run_key: str, evaluate: Timing | None, export: Timing) -> None:
    """Add a pipeline, if evaluation and export belong to one boot: without an evaluation that was stamped there is nothing to compare. A training that is
    exported again counts once, and one whose steps were counted does not: nothing limits its samples."""
    if plan.train.clock != "deadline" or evaluate is None or evaluate.boot_id != export.boot_id:
        return
    if run_key in {line.get("run_key") for line in lines.read(file())}:
        return
    estimated_s = (plan.budget.phases.evaluate_s + plan.budget.phases.export_s) / plan.budget.reserve_factor
    lines.append(file(), {"hardware": plan.hardware, "run_key": run_key, "took_s": evaluate.elapsed_s + export.elapsed_s, "estimated_s": estimated_s})


def ratios(hardware: str) -> list[float]:
    """Time taken over time estimated, of the last pipelines on the machine with this identity."""
    return [line["took_s"] / line["estimated_s"] for line in lines.read(file()) if line["hardware"] == hardware][-KEPT:]
