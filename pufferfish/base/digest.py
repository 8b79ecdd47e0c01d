"""Identities of things: short, stable digests of values, files and source code."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any


def digest(value: Any) -> str:
    """16 hex digits that identify a JSON value, whatever the order of its keys."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def digest_file(path: Path) -> str:
    """64 hex digits (SHA-256) that identify the content of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest_code(*rooms: str) -> str:
    """16 hex digits that identify the source code of rooms of this package, for example `digest_code("model", "train")`."""
    package = Path(__file__).resolve().parents[1]
    files = sorted(path for room in rooms for path in (package / room).rglob("*.py"))
    return digest([(path.relative_to(package).as_posix(), digest_file(path)) for path in files])


def digest_files(paths: Iterable[tuple[str, Path]]) -> str:
    """16 hex digits that identify named files by their content."""
    return digest([(name, digest_file(path)) for name, path in paths])
