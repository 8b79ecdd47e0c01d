"""Files for a row as they are when they are noted: when they are copied, perhaps days later, another run may have written to the same place."""

from __future__ import annotations

import hashlib
import os
import time
from contextlib import suppress
from pathlib import Path

from pufferfish.base.digest import digest
from pufferfish.track.journal import Message

MAX_INLINE_BYTES = 1_000_000  # a small text travels in the line itself
MAX_DIGESTED_BYTES = 1 << 24  # of one file: hundredths of a second; the first weights of two trainings differ already
SETTLE_S = 1.0  # where DVC is set to links, it takes files away for a moment and puts links to its cache in their place


def artifact_message(path: Path, folder: str = "") -> Message:
    """A small text as a whole, anything else by its place and what identifies its content. Raises OSError where it cannot be read."""
    if path.is_file() and path.stat().st_size <= MAX_INLINE_BYTES:
        with suppress(UnicodeDecodeError):
            return {"type": "text", "name": f"{folder}/{path.name}" if folder else path.name, "text": path.read_bytes().decode("utf-8")}
    return {"type": "artifact", "path": os.fspath(path.absolute()), "folder": folder, "content": content_of(path)}


def content_of(path: Path) -> str:
    """16 hex digits that identify a file, or the files of a folder and their names: by size and by their first bytes, not by date, which a link changes."""
    files = [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.is_file())
    return digest([(file.relative_to(path).as_posix(), *_identity(file)) for file in files])


def _identity(file: Path) -> tuple[int, str]:
    with open(file, "rb") as opened:
        return os.fstat(opened.fileno()).st_size, hashlib.sha256(opened.read(MAX_DIGESTED_BYTES)).hexdigest()


def holds(path: Path, content: str) -> bool:
    """Whether the content that was noted is still there; looks again after a moment where it is not."""
    if _holds_now(path, content):
        return True
    time.sleep(SETTLE_S)
    return _holds_now(path, content)


def _holds_now(path: Path, content: str) -> bool:
    try:
        return path.exists() and content_of(path) == content
    except OSError:
        return False
