"""What trainings on a text really reached, beside what had been forecast: the next forecasts for that text are corrected by it.

The file lies with the state that outlives runs, one JSON line for each training that tells something of the law; it changes no choice, since all candidates
are corrected alike.
"""

from __future__ import annotations

import math
from pathlib import Path

from pufferfish.base import lines, paths
from pufferfish.schema.hardware import Corpus
from pufferfish.schema.plan import Plan
from pufferfish.schema.reports import Outcome

TOLD_TOKENS = (0.8, 1.25)  # read over planned: outside, another amount of text decides more than the law's error; inside, by under 3 % of the bits per byte


def file() -> Path:
    """Where it is kept."""
    return paths.state() / "outcomes.jsonl"


def remember(plan: Plan, outcome: Outcome, val_bpb: float) -> None:
    """Add what the planned training reached, if it was such a training as is forecast. One that is evaluated again counts once."""
    known = {line["run_key"] for line in lines.read(file())}
    if outcome.run_key in known or not is_lesson(plan, outcome):
        return
    raw = plan.forecast.val_bpb / plan.forecast.correction
    line = {
        "law": plan.forecast.law,
        "text": _name(plan.data.corpus, plan.data.validation_content, plan.data.seed),
        "run_key": outcome.run_key,
        "log_error": math.log(val_bpb / raw),
    }
    lines.append(file(), line)


def is_lesson(plan: Plan, outcome: Outcome) -> bool:
    """Whether a training says how far the law is off on its text: nothing that decides the quality was pinned (the best of many forecasts errs otherwise than
    one of a pinned configuration), nothing is looked up (one run stands behind what that gains), and about as much was read as planned."""
    least, most = (share * plan.forecast.tokens for share in TOLD_TOKENS)
    return plan.forecast.is_free and plan.model.lookup == "none" and least <= outcome.num_tokens <= most


def log_errors(corpus: Corpus, *, seed: int, law: int) -> list[float]:
    """Logarithms of reached over forecast bits per byte, for this text and split and under this law."""
    text = _name(corpus.content, corpus.validation_content, seed)
    return [line["log_error"] for line in lines.read(file()) if (line["text"], line["law"]) == (text, law)]


def _name(content: str, validation_content: str, seed: int) -> str:
    return f"{content}/{validation_content}/{seed}"
