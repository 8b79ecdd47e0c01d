"""The folder where an unfinished training lives: outside version control, named after all that makes its checkpoints valid, owned by one process."""

from __future__ import annotations

import json
import os
import shutil
import socket
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import yaml
from filelock import FileLock, Timeout

from pufferfish.base import atomic, paths
from pufferfish.base.digest import digest, digest_code
from pufferfish.base.errors import UserError
from pufferfish.schema.plan import Plan
from pufferfish.schema.reports import Subset

FINISHED = "finished"


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


def run_key(folder: Path) -> str:
    """The name of this training's row in tracking: made once, kept with the work, so that a resumed training goes on with its row."""
    path = folder / "run_key"
    if not path.exists():
        atomic.write_text(path, uuid.uuid4().hex)
    return path.read_text("utf-8").strip()


def mark_finished(folder: Path) -> None:
    """The model is written; the work is kept until the next training starts, because DVC has still to take the model into its cache."""
    atomic.write_text(folder / FINISHED, _taken_by_dvc())


def remove_finished(*, but: Path) -> None:
    """Remove the work of trainings that are finished; of the one in the folder `but` only where DVC has taken its model, so that it is wanted anew."""
    for marker in but.parent.glob(f"*/{FINISHED}"):
        if marker.parent != but or _is_taken(marker):
            shutil.rmtree(marker.parent, ignore_errors=True)


def _is_taken(marker: Path) -> bool:
    return _taken_by_dvc() not in ("", marker.read_text("utf-8"))


def _taken_by_dvc() -> str:
    """Names what DVC has taken of the stage train last; empty where that is nothing."""
    try:
        return digest(yaml.safe_load(paths.LOCK.read_text("utf-8"))["stages"]["train"])
    except (OSError, yaml.YAMLError, KeyError, TypeError):
        return ""
