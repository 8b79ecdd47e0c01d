"""The state of an interrupted training: whole or absent, checked when read, never a pickle.

A checkpoint is a folder `step-<number>` with `state.safetensors`, `progress.json` and, written last, `manifest.json` with their SHA-256. It is written beside,
flushed and moved into place; the last two are kept. The newest that passes its manifest is the one to go on from.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from pufferfish.base import atomic
from pufferfish.base.digest import digest_file
from pufferfish.train.work import CHECKPOINTS

KEEP = 2
STATE, PROGRESS, MANIFEST = "state.safetensors", "progress.json", "manifest.json"


def save(folder: Path, tensors: dict[str, torch.Tensor], progress: dict[str, Any]) -> int:
    """Write a checkpoint of `progress["step"]` into the work folder; returns its bytes. Raises OSError (a full disk) and leaves the earlier ones whole."""
    target = folder / f"step-{progress['step']:09d}"
    for left_over in folder.glob(".step-*.tmp"):  # of a process that was killed while saving
        shutil.rmtree(left_over, ignore_errors=True)
    with atomic.folder(target) as unfinished:
        save_tensors(unfinished / STATE, tensors)
        atomic.write_json(unfinished / PROGRESS, progress)
        files = {name: digest_file(unfinished / name) for name in (STATE, PROGRESS)}
        atomic.write_json(unfinished / MANIFEST, files)
        num_bytes = sum((unfinished / name).stat().st_size for name in files)
    _drop_all_but(target, folder)
    return num_bytes


def _drop_all_but(latest: Path, folder: Path) -> None:
    """Keep this one and those just before it; later ones were damaged, so that training went on from before them."""
    kept = [found for found in _found(folder) if found.name <= latest.name][:KEEP]
    for old in _found(folder):
        if old not in kept:
            shutil.rmtree(old, ignore_errors=True)


def save_tensors(path: Path, tensors: dict[str, torch.Tensor]) -> None:
    """A safetensors file, flushed to the disk. Raises OSError if there is no room."""
    try:
        save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, path, metadata={"format": "pt"})
    except SafetensorError as error:  # how safetensors reports a full disk
        raise OSError(str(error)) from error
    with open(path, "rb+") as file:
        os.fsync(file.fileno())


def newest(folder: Path) -> tuple[Path | None, list[str]]:
    """The newest whole checkpoint, None if there is none, and complaints about damaged ones that were passed over."""
    complaints = []
    for candidate in _found(folder):
        damage = _damage(candidate)
        if not damage:
            return candidate, complaints
        complaints.append(f"{candidate.name} is damaged ({damage}) and was passed over")
    return None, complaints


def load_progress(checkpoint: Path) -> dict[str, Any]:
    """What was handed to `save` as progress."""
    progress: dict[str, Any] = json.loads((checkpoint / PROGRESS).read_text("utf-8"))
    return progress


def load_tensors(checkpoint: Path) -> dict[str, torch.Tensor]:
    """What was handed to `save` as tensors, on the CPU."""
    return load_file(checkpoint / STATE)


def _found(folder: Path) -> list[Path]:
    return sorted(folder.glob(CHECKPOINTS), reverse=True)


def _damage(candidate: Path) -> str:
    try:
        files = json.loads((candidate / MANIFEST).read_text("utf-8"))
    except (OSError, ValueError) as error:
        return f"{MANIFEST}: {error}"
    for name in (STATE, PROGRESS):
        path = candidate / name
        if not path.exists():
            return f"{name} is missing"
        if digest_file(path) != files.get(name):
            return f"{name} does not match its SHA-256"
    return ""
