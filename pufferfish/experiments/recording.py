"""A finished training as its artifacts tell it: everything that is needed to repeat it, checked before anything heavy is loaded."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pufferfish.base import paths
from pufferfish.base.errors import UserError
from pufferfish.data.shards import load_subset
from pufferfish.schema.hardware import Fingerprint, Hardware
from pufferfish.schema.plan import Plan, TrainedPlan
from pufferfish.schema.reports import Outcome, Subset
from pufferfish.train.realised import SCHEDULE, Realised, load_realised


@dataclass(frozen=True)
class Recording:
    """What was planned, what it was trained on, what really happened."""

    model_folder: Path
    subset_folder: Path
    plan: Plan
    subset: Subset
    outcome: Outcome
    realised: Realised
    machine: Fingerprint | None  # None: the folder tells of another machine than the one that was planned for


def open_recording(artifacts: Path) -> Recording:
    """Raises UserError if there is no training, if it left no schedule, if a file was changed, or if the prepared text is another one."""
    model, subset_folder = artifacts / paths.MODEL.name, artifacts / paths.SUBSET.name
    if not model.is_dir():
        fix = "run `make repro`, or name a folder of artifacts: `pufferfish replay FOLDER`"
        raise UserError("there is no training to repeat", saw=f"no folder {model.absolute()}", fix=fix)
    plan, outcome = TrainedPlan.load(model / "plan.json"), Outcome.load(model / "outcome.json")
    realised = load_realised(model / SCHEDULE)
    if len(realised.u) != outcome.num_steps:
        saw = f"{len(realised.u)} steps in {model / SCHEDULE}, {outcome.num_steps} in outcome.json"
        raise UserError("the schedule is not that of the model", saw=saw, fix="run `dvc checkout`, or train anew: `dvc repro train`")
    subset = load_subset(subset_folder)
    if subset.identity != outcome.subset:
        saw = f"subset {subset.identity}, trained on {outcome.subset}"
        raise UserError(
            "the prepared text changed since this training", saw=saw, fix="bring it back (`git checkout` and `dvc checkout`), or train anew: `dvc repro`"
        )
    return Recording(model, subset_folder, plan, subset, outcome, realised, _machine(artifacts / paths.HARDWARE.name, plan))


def _machine(path: Path, plan: Plan) -> Fingerprint | None:
    if not path.exists():
        return None
    hardware = Hardware.load(path)
    return hardware.fingerprint if hardware.identity == plan.hardware else None
