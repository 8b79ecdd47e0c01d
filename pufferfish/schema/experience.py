"""What trainings on a text really reached, beside what had been forecast: the next forecasts for that text are corrected by it.

The file lies with the state that outlives runs, one JSON line for each evaluated training; it changes no choice, since all candidates are corrected alike.
"""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

from pufferfish.base import paths
from pufferfish.schema.hardware import Corpus
from pufferfish.schema.plan import Plan


def file() -> Path:
    """Where it is kept."""
    return paths.state() / "outcomes.jsonl"


def remember(plan: Plan, val_bpb: float, *, run_key: str) -> None:
    """Add what the planned training reached. A training that is evaluated again counts once."""
    known = {line["run_key"] for line in _lines()}
    if run_key in known:
        return
    raw = plan.forecast.val_bpb / plan.forecast.correction
    line = {
        "law": plan.forecast.law,
        "text": _name(plan.data.corpus, plan.data.validation_content, plan.data.seed),
        "run_key": run_key,
        "log_error": math.log(val_bpb / raw),
    }
    file().parent.mkdir(parents=True, exist_ok=True)
    with open(file(), "a", encoding="utf-8") as lines:
        lines.write(f"\n{json.dumps(line)}\n")  # on a line of its own, whatever a power cut left before it
        lines.flush()
        os.fsync(lines.fileno())


def log_errors(corpus: Corpus, *, seed: int, law: int) -> list[float]:
    """Logarithms of reached over forecast bits per byte, for this text and split and under this law."""
    text = _name(corpus.content, corpus.validation_content, seed)
    return [line["log_error"] for line in _lines() if (line["text"], line["law"]) == (text, law)]


def _name(content: str, validation_content: str, seed: int) -> str:
    return f"{content}/{validation_content}/{seed}"


def _lines() -> list[dict[str, Any]]:
    """Whole lines; one that a power cut left unfinished is no experience."""
    if not file().exists():
        return []
    found = []
    for line in file().read_text("utf-8").splitlines():
        try:
            found.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return found
