"""The journal between the work and its tracking: one file of JSON lines per tracked process, kept until all of it is in the store.

The work appends (one `write` of microseconds, no lock, no thread), a worker follows and delivers. The worker holds the file's
lock; when either of them dies the file stays, and the next worker delivers it. Every line carries its own time, so that
delivering it twice changes nothing in the store. A second lock says that some worker is there and looks for what others left.
The first line names the store that the row is for; a worker delivers only what is for its own.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from pufferfish.base import paths
from pufferfish.track import store

SAME_START_S = 60.0  # process start times are only as steady as the system's date
MAX_FINISH_BYTES = 200  # of the last line
Message = dict[str, Any]


def folder() -> Path:
    """Where journals wait."""
    return paths.state() / "spool"


def new_path(label: str) -> Path:
    """A fresh name; names sort by time."""
    return folder() / f"{time.time_ns()}-{os.getpid()}-{label}.jsonl"


def encode(message: Message) -> bytes:
    """One line."""
    return json.dumps(message, separators=(",", ":"), default=str).encode() + b"\n"


class Journal:
    """The writing end. Raises OSError where the disk refuses."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        self._is_torn = False

    def append(self, message: Message) -> None:
        """Add one line, whole or, on a full disk, torn: the next one then starts on a line of its own."""
        line = b"\n" * self._is_torn + encode(message)
        self._is_torn = True
        self._is_torn = os.write(self._descriptor, line) < len(line)

    def close(self) -> None:
        """The file stays."""
        os.close(self._descriptor)


class Reader:
    """The reading end, with the lock."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self.path, self._descriptor = path, descriptor
        self._rest = b""

    @classmethod
    def open(cls, path: Path, *, is_waiting: bool) -> Reader | None:
        """None if the journal is gone, or is being delivered by another process and we do not wait for that."""
        try:
            descriptor = os.open(path, os.O_RDWR if os.access(path, os.W_OK) else os.O_RDONLY)  # NFS locks only what is open for writing
        except FileNotFoundError:
            return None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if is_waiting else fcntl.LOCK_NB))
        except BlockingIOError:
            os.close(descriptor)
            return None
        if os.fstat(descriptor).st_nlink == 0:  # delivered and removed while we waited
            os.close(descriptor)
            return None
        return cls(path, descriptor)

    def read(self) -> list[Message]:
        """The whole lines since the last call; a torn line is left out."""
        chunks = [self._rest]
        while chunk := os.read(self._descriptor, 1 << 20):
            chunks.append(chunk)
        *lines, self._rest = b"".join(chunks).split(b"\n")
        return [message for line in lines if (message := decode(line))]

    def remove(self) -> None:
        """Everything is in the store."""
        self.path.unlink(missing_ok=True)
        self.close()

    def close(self) -> None:
        """Give the lock back; the file stays."""
        os.close(self._descriptor)


def decode(line: bytes) -> Message | None:
    """A line as a message, None if it is torn or empty."""
    try:
        message = json.loads(line)
    except ValueError:
        return None
    return message if isinstance(message, dict) and "type" in message else None


def start_message(path: Path) -> Message | None:
    """The first message of a journal."""
    try:
        with open(path, "rb") as file:
            return decode(file.readline())
    except FileNotFoundError:
        return None


def is_writer_alive(start: Message) -> bool:
    """Whether the process that writes this journal still runs."""
    try:
        return bool(start["pid"]) and abs(psutil.Process(start["pid"]).create_time() - start["pid_start_s"]) < SAME_START_S
    except psutil.Error:
        return False


def is_finished(path: Path) -> bool:
    """Whether the last line says how the work ended."""
    try:
        with open(path, "rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - MAX_FINISH_BYTES))
            message = decode(file.read().rstrip(b"\n").rpartition(b"\n")[2])
    except FileNotFoundError:
        return False
    return message is not None and message["type"] == "finish"


def abandoned() -> list[Path]:
    """Journals for our store whose work has ended or died, the oldest first. Whether somebody delivers them now, their locks say."""
    if not folder().is_dir():
        return []
    starts = [(path, start_message(path)) for path in sorted(folder().glob("*.jsonl"))]
    return [path for path, start in starts if start and is_for_our_store(start) and (not is_writer_alive(start) or is_finished(path))]


def is_for_our_store(start: Message) -> bool:
    """Whether this process logs where the row is to go. Journals of older versions do not say where: they go to whoever finds them."""
    return start.get("store", store.name()) == store.name()


@contextmanager
def attending() -> Iterator[None]:
    """While the block runs, others may leave journals for our store to this process; what they left at the very end is there once the block is over."""
    descriptor = _open_attendance()
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH)
        yield
    finally:
        os.close(descriptor)


def is_attended() -> bool:
    """Whether a worker is there that will deliver a finished journal for our store. Raises OSError where the disk refuses."""
    descriptor = _open_attendance()
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def _open_attendance() -> int:
    folder().mkdir(parents=True, exist_ok=True)
    return os.open(folder() / f".attended-{store.name()}", os.O_RDWR | os.O_CREAT, 0o644)
