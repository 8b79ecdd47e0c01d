"""Where things lie. Artifacts are relative to the working folder, which DVC sets; state that outlives a run is not."""

from __future__ import annotations

import os
from pathlib import Path

PARAMS = Path("params.yaml")
LOCK = Path("dvc.lock")  # written by DVC when it has taken the results of a stage
ARTIFACTS = Path("artifacts")
HARDWARE = ARTIFACTS / "hardware.json"
CORPUS = ARTIFACTS / "corpus.json"
PLAN = ARTIFACTS / "plan.json"
SUBSET = ARTIFACTS / "subset"
MODEL = ARTIFACTS / "model"
EVALUATION = ARTIFACTS / "evaluation.json"
METRICS = ARTIFACTS / "metrics.json"
SAMPLES = ARTIFACTS / "samples.md"
CURVE = ARTIFACTS / "curve.csv"
EXPORT = ARTIFACTS / "export"
TIMING = ARTIFACTS / "timing"


def timing(stage: str) -> Path:
    """What a stage cost, `artifacts/timing/<stage>.json`."""
    return TIMING / f"{stage}.json"


def workspace() -> Path:
    """The user's checkout: a DVC experiment runs in a temporary copy of it and names the original in DVC_ROOT."""
    return Path(os.environ.get("DVC_ROOT") or Path.cwd()).resolve()


def state() -> Path:
    """What must survive a run and is not versioned: machine measurements, work of interrupted trainings, unsent tracking."""
    return workspace() / ".pufferfish"


def user_path(text: str) -> Path:
    """A path that the user wrote: absolute, `~`, or relative to the working folder or else to the checkout."""
    path = Path(text).expanduser()
    if path.is_absolute() or path.exists():
        return path
    return workspace() / path
