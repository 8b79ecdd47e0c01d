"""Answers that took time to find, kept for the next time: one file for each question, until the code that found them changes.

They can all be found again, so nothing here fails: a damaged file is told in a line and written anew, and so is one that cannot be written.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pufferfish.base import atomic, paths
from pufferfish.base.digest import digest, digest_code

T = TypeVar("T")
Tell = Callable[[str], None]

ROOMS = {"survey": ("data",), "steps": ("model", "train"), "pilots": ("data", "model", "plan", "train")}  # what is kept, and the rooms whose code finds it out


@dataclass(frozen=True)
class Kept:
    """One file."""

    path: Path
    num_bytes: int
    is_current: bool  # False: found by other code, or damaged; never read again


def recall(kind: str, question: Any, read: Callable[[Any], T], *, tell: Tell) -> T | None:
    """The answer as `read` understands it, None where there is none. `read` may raise KeyError, TypeError or ValueError for what is no answer."""
    path = path_of(kind, question)
    try:
        content = json.loads(path.read_text("utf-8"))
        if content["question"] != question:
            raise ValueError("another question")
        return read(content["answer"])
    except FileNotFoundError:
        return None
    except (OSError, KeyError, TypeError, ValueError) as error:
        tell(f"{path} cannot be used ({type(error).__name__}): what it held is found out anew")
        return None


def keep(kind: str, question: Any, answer: Any, *, tell: Tell) -> None:
    """Write the answer, a JSON value, for the next time."""
    path = path_of(kind, question)
    try:
        atomic.write_json(path, {"code": digest_code(*ROOMS[kind]), "question": question, "answer": answer})
    except OSError as error:
        tell(f"{path} cannot be written ({error.strerror}): the next plan finds the same out again")


def path_of(kind: str, question: Any) -> Path:
    """Where the answer to a question is kept; another place for other code."""
    return folder() / f"{kind}-{digest([question, digest_code(*ROOMS[kind])])}.json"


def folder() -> Path:
    """Where all answers are."""
    return paths.state() / "kept"


def all_kept() -> list[Kept]:
    """Every file, in the order of names."""
    codes = {kind: digest_code(*rooms) for kind, rooms in ROOMS.items()}
    return [Kept(path, path.stat().st_size, _code_of(path) == codes.get(path.name.partition("-")[0])) for path in sorted(folder().glob("*.json"))]


def _code_of(path: Path) -> str:
    try:
        return str(json.loads(path.read_text("utf-8"))["code"])
    except (OSError, KeyError, TypeError, ValueError):
        return ""
