"""The folder where a training lives until DVC has its model: outside version control, named after what its checkpoints depend on, owned by one process."""

from __future__ import annotations

import json
import os
import shutil
import socket
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import yaml
from filelock import FileLock, Timeout

from pufferfish.base import atomic, paths
from pufferfish.base.digest import digest, digest_code, digest_file
from pufferfish.base.errors import UserError
from pufferfish.base.timing import write_timing
from pufferfish.schema.plan import Plan, TrainedPlan
from pufferfish.schema.reports import Outcome, Subset

FINISHED, TAKEN = "finished", "taken"  # a folder with what a finished training left, whole or absent; in it: what DVC had taken before
CHECKPOINTS = "step-*"  # folders, one for each
TIMING = paths.timing("train")
LEFT = (paths.MODEL, paths.CURVE, TIMING)  # as in dvc.yaml


def work_identity(plan: Plan, subset: Subset) -> str:
    """16 hex digits of everything that a checkpoint depends on: budget, model, training, data and code."""
    sections = {name: getattr(plan, name).model_dump(mode="json") for name in ("budget", "model", "train")}
    return digest({**sections, "subset": subset.identity, "code": digest_code("data", "model", "train")})


def work_folder(plan: Plan, subset: Subset) -> Path:
    """Where this training keeps what an interruption must not lose."""
    return paths.state() / "work" / work_identity(plan, subset)


@contextmanager
def own(folder: Path) -> Iterator[None]:
    """Hold the work folder. Raises UserError naming the owner when another process trains there; a dead owner's lock is taken over."""
    folder.mkdir(parents=True, exist_ok=True)
    owner = folder / "owner.json"
    lock = FileLock(folder / "lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        try:
            other = json.loads(owner.read_text("utf-8"))
            saw = f"process {other['pid']} on {other['host']} is training in {folder}"
        except (OSError, ValueError, KeyError):
            saw = f"another process is training in {folder}"
        raise UserError("this training is already running", saw=saw, fix="wait for it, or end that process and run `dvc repro` again") from None
    try:
        atomic.write_json(owner, {"pid": os.getpid(), "host": socket.gethostname()})
        yield
    finally:
        lock.release()


def has_checkpoint(folder: Path) -> bool:
    """Whether there is something to go on from, whole or not."""
    return any(folder.glob(CHECKPOINTS))


def told_others(folder: Path) -> str:
    """Where a training begins anew: the interrupted ones of other plans, in a line; empty where there are none that nobody is at."""
    if has_checkpoint(folder):
        return ""
    others = [other for other in sorted(folder.parent.iterdir()) if other != folder and has_checkpoint(other) and not is_owned(other)]
    if not others:
        return ""
    is_one = len(others) == 1
    subject = "an interrupted training of another plan or code is" if is_one else "interrupted trainings of other plans or code are"
    steps = ", ".join(f"{other.name} at step {_last_step(other)}" for other in others)
    return f"{subject} kept in {folder.parent}: {steps}; `pufferfish doctor --prune` removes {'it' if is_one else 'them'}"


def _last_step(folder: Path) -> int:
    return max((int(checkpoint.name.rpartition("-")[2]) for checkpoint in folder.glob(CHECKPOINTS)), default=0)


def is_owned(folder: Path) -> bool:
    """Whether a process is training there."""
    try:
        with FileLock(folder / "lock", timeout=0):
            return False
    except Timeout:
        return True


def run_key(folder: Path) -> str:
    """The name of this training's row in tracking: a resumed training goes on with its row, and one that starts anew gets another."""
    path = folder / "run_key"
    if not path.exists() or not (has_checkpoint(folder) or (folder / FINISHED).exists()):
        atomic.write_text(path, uuid.uuid4().hex)
    return path.read_text("utf-8").strip()


@contextmanager
def finishing(folder: Path) -> Iterator[Path]:
    """A folder for the model and its curve. After the block the training is finished, which neither a full disk nor a power cut takes back: what it left is
    kept until the next training starts, since DVC has still to take it from its place, and empties that place where it was interrupted."""
    with atomic.folder(folder / FINISHED) as building:
        atomic.write_text(building / TAKEN, _taken_by_dvc())
        yield building
        write_timing("train")
        atomic.write_bytes(building / TIMING.name, TIMING.read_bytes())


def is_finished(folder: Path) -> bool:
    """Whether the training is finished and its model kept. One that was damaged is forgotten, and training goes on from its last checkpoint."""
    finished = folder / FINISHED
    if not finished.exists():
        return False
    is_whole = all((finished / target.name).exists() for target in LEFT) and _is_as_written(finished / paths.MODEL.name)
    if not is_whole:
        shutil.rmtree(finished)
    return is_whole


def _is_as_written(model: Path) -> bool:
    try:
        TrainedPlan.load(model / "plan.json")
        outcome = Outcome.load(model / "outcome.json")
    except UserError:
        return False
    return [digest_file(weights) for weights in model.glob("*.safetensors")] == [outcome.weights_sha256]


def put_in_place(folder: Path) -> None:
    """Lay what the finished training left where DVC looks for it: the model as links, which take no room."""
    _link_folder(folder / FINISHED / paths.MODEL.name, paths.MODEL)
    for target in (paths.CURVE, TIMING):
        atomic.write_bytes(target, (folder / FINISHED / target.name).read_bytes())


def _link_folder(source: Path, target: Path) -> None:
    with atomic.folder(target) as unfinished:
        for file in source.iterdir():
            _link(file, unfinished / file.name)


def _link(source: Path, target: Path) -> None:
    """A copy where the file system has no hard links, or the two lie on different ones."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def remove_finished(*, but: Path) -> None:
    """Remove the work of trainings that are finished; of the one in the folder `but` only where DVC has taken its model, so that it is wanted anew."""
    for marker in but.parent.glob(f"*/{FINISHED}"):
        if marker.parent != but or _is_taken(marker):
            with suppress(Timeout), FileLock(marker.parent / "lock", timeout=0):  # its process may still be putting the model in place
                shutil.rmtree(marker.parent, ignore_errors=True)


def _is_taken(marker: Path) -> bool:
    return _taken_by_dvc() not in ("", (marker / TAKEN).read_text("utf-8"))


def _taken_by_dvc() -> str:
    """Names what DVC has taken of the stage train last; empty where that is nothing."""
    try:
        return digest(yaml.safe_load(paths.LOCK.read_text("utf-8"))["stages"]["train"])
    except (OSError, yaml.YAMLError, KeyError, TypeError):
        return ""
