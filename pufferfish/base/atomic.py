"""Files and folders that are either whole or absent: written beside, flushed to disk, moved into place."""

from __future__ import annotations

import json
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil


def beside(path: Path) -> Path:
    """A fresh name in the same folder, for a file or folder under construction."""
    return path.with_name(f".{path.name}.{os.getpid()}-{uuid.uuid4().hex[:8]}.tmp")


def remove_left_overs(path: Path) -> None:
    """Remove the folders under construction for `path` that killed processes left: those named by `beside` in a process that is no more, or in a former
    one with our number, before we make one ourselves. Another process may be at work on the same path."""
    for folder in path.parent.glob(f".{path.name}.*-*.tmp"):
        pid = folder.name.removeprefix(f".{path.name}.").partition("-")[0]
        if pid.isdecimal() and (int(pid) == os.getpid() or not psutil.pid_exists(int(pid))):
            shutil.rmtree(folder, ignore_errors=True)


def write_bytes(path: Path, content: bytes) -> None:
    """Write the file so that a reader, or a power cut, sees the old content or the new, never a mixture."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = beside(path)
    try:
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def write_text(path: Path, text: str) -> None:
    """`write_bytes` for UTF-8 text."""
    write_bytes(path, text.encode("utf-8"))


def write_json(path: Path, content: Any) -> None:
    """`write_text` for JSON, readable and with a final newline; floats are written exactly."""
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


@contextmanager
def folder(path: Path) -> Iterator[Path]:
    """A fresh folder beside the wanted one, moved into place at the end of the block, or removed where that is not reached. What killed processes left there
    is removed first."""
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_left_overs(path)
    unfinished = beside(path)
    unfinished.mkdir()
    try:
        yield unfinished
        replace_folder(path, unfinished)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def replace_folder(path: Path, finished: Path) -> None:
    """Move a finished folder into place; what stood there before is removed only after the new one is in place, and is put back where that fails."""
    old = beside(path)
    try:
        if path.exists():
            os.replace(path, old)
        os.replace(finished, path)
    except BaseException:
        if old.exists() and not path.exists():
            os.replace(old, path)
        raise
    sync_folder(path.parent)
    shutil.rmtree(old, ignore_errors=True)


def sync_folder(folder: Path) -> None:
    """Make renames in this folder durable, where the system can."""
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
