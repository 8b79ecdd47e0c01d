"""What a process writes for people."""

from __future__ import annotations

import os
import select
from typing import TextIO


def mute(stream: TextIO) -> None:
    """Let a stream that nobody reads any more lead nowhere, so that neither later words nor the interpreter's last flush fail."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)


def would_wait(stream: TextIO) -> bool:
    """Whether writing would hold up the writer: to a terminal that was stopped (Ctrl-S), or a full pipe whose reader pauses."""
    try:
        return not select.select([], [stream.fileno()], [], 0.0)[1]
    except (OSError, ValueError):  # closed, or nothing of the system's: writing tells
        return False
