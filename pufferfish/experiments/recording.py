"""A finished training as its artifacts tell it, or its row in tracking: everything that is needed to repeat it, checked before anything heavy is loaded."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pufferfish.base import paths
from pufferfish.base.errors import UserError
from pufferfish.data.shards import load_subset
from pufferfish.schema.hardware import Fingerprint, Hardware
from pufferfish.schema.plan import Plan, TrainedPlan
from pufferfish.schema.reports import Outcome, Subset
from pufferfish.train.realised import SCHEDULE, Realised, load_realised

RUN_ID = re.compile("[0-9a-f]{32}")


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


@contextmanager
def find_recording(name: str, *, report: Callable[[str], None]) -> Iterator[Recording]:
    """The training in a folder of artifacts, or of the run with this id: its model is fetched, and its text prepared again where it is not at hand.

    Raises UserError as `open_recording` and `fetch_model` do, and where the text is no longer what it was.
    """
    if Path(name).exists() or not RUN_ID.fullmatch(name):
        yield open_recording(Path(name))
        return
    from pufferfish.track.fetch import fetch_model

    with tempfile.TemporaryDirectory(prefix="pufferfish-run-") as folder:
        model = Path(folder, paths.MODEL.name)
        fetch_model(name, model)
        yield _open(model, _text_of(model, Path(folder, paths.SUBSET.name), report), paths.HARDWARE)


def open_recording(artifacts: Path) -> Recording:
    """Raises UserError if there is no training, if it left no schedule, if a file was changed, or if the prepared text is another one."""
    model = artifacts / paths.MODEL.name
    if not model.is_dir():
        fix = "run `make repro`, name a folder of artifacts, or the id of a run: `pufferfish replay FOLDER`, `pufferfish replay RUN`"
        raise UserError("there is no training to repeat", saw=f"no folder {model.absolute()}", fix=fix)
    return _open(model, artifacts / paths.SUBSET.name, artifacts / paths.HARDWARE.name)


def _open(model: Path, subset_folder: Path, hardware: Path) -> Recording:
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
    return Recording(model, subset_folder, plan, subset, outcome, realised, _machine(hardware, plan))


def _text_of(model: Path, folder: Path, report: Callable[[str], None]) -> Path:
    """Where the text is that a model was trained on: among the artifacts, or in `folder`, prepared as it was then."""
    try:
        if load_subset(paths.SUBSET).identity == Outcome.load(model / "outcome.json").subset:
            return paths.SUBSET
    except UserError:
        pass  # none, or a broken one, says nothing against this training
    from pufferfish.data.prepare import prepare_subset

    try:
        prepare_subset(TrainedPlan.load(model / "plan.json").data, folder, report=report)
    except UserError as error:
        raise UserError(error.what, saw=error.saw, fix="bring the text of that training back, or repeat another one") from None
    return folder


def _machine(path: Path, plan: Plan) -> Fingerprint | None:
    if not path.exists():
        return None
    hardware = Hardware.load(path)
    return hardware.fingerprint if hardware.identity == plan.hardware else None
