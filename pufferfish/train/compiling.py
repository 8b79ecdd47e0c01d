"""What a compiler that is missing or fails raises, and what the user is told then."""

from __future__ import annotations

import subprocess

from pufferfish.base.errors import UserError

COMPILING = (RuntimeError, OSError, ImportError, subprocess.SubprocessError)  # what may be raised, beside memory that runs out
LONGEST_CAUSE = 300  # characters of what a compiler said: its command lines go on for pages


def no_compilation(error: Exception) -> UserError:
    """torch.compile fails on this machine; the first line of the error, and the first that names another one, say why."""
    first, *others = (line.strip() for line in f"{type(error).__name__}: {error}".splitlines() if line.strip())
    cause = "; ".join([first, *[line for line in others if "error:" in line.lower()][:1]])
    saw = cause if len(cause) <= LONGEST_CAUSE else f"{cause[:LONGEST_CAUSE]} ..."
    again = "mend what the compiler complains of, or run `pufferfish doctor --remeasure`, so that the next plan asks for the compiler again"
    return UserError("torch.compile does not work here", saw=saw, fix=f"{again}; or set `train.compile: false`")
