"""How one configuration is run: as a whole pipeline against the clock, or by counted steps, as many as there is time for at a pace that is compared in turn."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import paces
import pipeline
from ledger import Ledger, Order, Result

from pufferfish.plan.budget import PAUSE_S

LAST = "evaluate"
DATA_SEED = 0  # one split for all runs of a corpus
SECTIONS = {
    **dict.fromkeys(("num_layers", "d_model", "seq_len"), "model"),
    **dict.fromkeys(("tokens_per_step", "compile", "learning_rate"), "train"),
    "vocab_size": "data",
    "strategy": "plan",
}
PINNED = ("num_layers", "d_model", "num_heads", "num_kv_heads", "head_dim", "d_ff", "seq_len", "is_tied", "has_qk_norm")  # of a planned model
SHARED = ("hardware_probe_s", "between_s")  # phases that have nothing to do with what is pinned
SPEEDS = Path(".pufferfish") / "machines"


def run_pipeline(order: Order, *, project: Path) -> Result:
    """A whole cold pipeline. Raises CalledProcessError, with the pipeline's last words on the screen, if a stage fails without refusing."""
    started_s = time.monotonic()
    try:
        with pipeline.cold_project(settings_of(order), source=project) as folder:
            pipeline.reproduce_quietly(folder, LAST)
            return read_result(folder)
    except pipeline.Refused as refused:
        return Result(time.monotonic() - started_s, refused_by=refused.stage, refusal=refused.text)


class InTurn:
    """Runs pipelines of counted steps: as many as there is time for, by paces that are compared in turn. What the first run, the planner's, found of the
    machine, and the time that it took for what all of a case have in common, holds for all of them."""

    def __init__(self, ledger: Ledger, *, project: Path) -> None:
        self._ledger, self._project = ledger, project

    def __call__(self, order: Order) -> Result:
        """What a pipeline gives that has the time of its plan for steps at its own pace. Raises CalledProcessError as `run_pipeline` does."""
        first, started_s = self._ledger.find(Order(order.case, {})), time.monotonic()
        try:
            with pipeline.cold_project(settings_of(order), source=self._project) as folder:
                if first:
                    write_speeds(folder, first.result.speeds)
                pipeline.reproduce_quietly(folder, "plan")
                plan, speeds = pipeline.read_json(folder, "plan.json"), read_speeds(folder)
                step_s = self._compared(folder, first.result.plan) if first else float(plan["forecast"]["step_s"])
                more_s = shared_s(plan) - shared_s(first.result.plan) if first else 0.0
                pipeline.set_params(folder, counted(settings_of(order), plan, step_s=step_s, more_s=more_s))
                pipeline.reproduce_quietly(folder, LAST)
                result = read_result(folder)
        except pipeline.Refused as refused:
            return Result(time.monotonic() - started_s, refused_by=refused.stage, refusal=refused.text)
        on_time_s = order.case.budget_s - result.export_s
        kept = {} if first else {"plan": plan, "speeds": speeds}
        return replace(result, spent_s=on_time_s, step_s=step_s, **kept)

    def _compared(self, folder: Path, first: dict[str, Any]) -> float:
        """Seconds of a step, where those of the first plan take what was planned."""
        other = folder / "planner.json"
        other.write_text(json.dumps(first), "utf-8")
        return float(first["forecast"]["step_s"] * paces.ratio(folder / "artifacts" / "plan.json", other, code=self._project))


def read_speeds(folder: Path) -> dict[str, str]:
    """What was measured of the machine, by file."""
    return {path.name: path.read_text("utf-8") for path in (folder / SPEEDS).glob("*.json")}


def write_speeds(folder: Path, speeds: dict[str, str]) -> None:
    """As if they had been measured there."""
    (folder / SPEEDS).mkdir(parents=True)
    for name, text in speeds.items():
        (folder / SPEEDS / name).write_text(text, "utf-8")


def shared_s(plan: dict[str, Any]) -> float:
    """Time of a plan's budget that goes to what all of a case have in common."""
    return sum(plan["budget"]["phases"][name] for name in SHARED)


def counted(settings: dict[str, dict[str, Any]], plan: dict[str, Any], *, step_s: float, more_s: float = 0.0) -> dict[str, dict[str, Any]]:
    """The settings with what was planned pinned, for as many steps as there is time for, `more_s` more than was planned, unless fewer are better."""
    model, train, unused_s = plan["model"], plan["train"], plan["budget"]["unused_s"]
    fitting = int((train["num_steps"] * plan["forecast"]["step_s"] + unused_s + more_s) / step_s)
    pins = {
        "model": {name: model[name] for name in PINNED},
        "data": {"vocab_size": model["vocab_size"]},
        "train": {
            "tokens_per_step": train["tokens_per_step"],
            "teacher_share": train["teacher_share"],
            "compile": train["is_compiled"],
            "num_steps": min(train["num_steps"], fitting) if unused_s else fitting,
        },
    }
    return {section: settings.get(section, {}) | pins.get(section, {}) for section in settings | pins}


def settings_of(order: Order) -> dict[str, dict[str, Any]]:
    """Sections of params.yaml, where nothing but what is pinned is pinned."""
    settings = pipeline.settings_for(order.case.budget, order.case.corpus)
    settings["data"]["seed"], settings["train"] = DATA_SEED, {"seed": order.seed}
    for name, value in order.pins.items():
        settings.setdefault(SECTIONS[name], {})[name] = value
    return settings


def read_result(folder: Path) -> Result:
    """What the stages wrote down."""
    plan, evaluation = pipeline.read_json(folder, "plan.json"), pipeline.read_json(folder, "evaluation.json")
    model, train, budget = plan["model"], plan["train"], plan["budget"]
    return Result(
        spent_s=pipeline.spent_s(pipeline.read_stamps(folder), last=LAST),
        val_bpb=evaluation["val_bpb"],
        val_bytes=evaluation["num_bytes"],
        device=train["device"],
        configuration={
            **{name: model[name] for name in ("num_layers", "d_model", "vocab_size", "seq_len")},
            "tokens_per_step": train["tokens_per_step"],
            "compile": train["is_compiled"],
            "learning_rate": train["matrix_lr"],
        },
        tokens=pipeline.read_json(folder, "model/outcome.json")["num_tokens"],
        flops_per_token=plan["forecast"]["flops_per_token"],
        export_s=PAUSE_S + budget["phases"]["export_s"] / budget["reserve_factor"],
    )
