"""The work's end of tracking: it writes to a journal, and another process does the rest. It never waits, and never raises."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psutil

import pufferfish
from pufferfish.base import paths
from pufferfish.base.stage import Interrupted
from pufferfish.track import journal, origin, store
from pufferfish.track.artifact import artifact_message
from pufferfish.track.clean import clean_key, flat, without_secrets

FINISH_S = 10.0
MAX_LOG_BYTES = 1_000_000
Status = str  # FINISHED, FAILED or KILLED


class Tracker:
    """One process's part of one row. `warnings` tells what the user should know; the work is never stopped by tracking."""

    LINGER_S = 20.0  # how long the child tries a silent store after the work has ended, or stays for the journals of later stages

    def __init__(self, path: Path, start: journal.Message) -> None:
        """Not for callers: see `start` and `open`."""
        self._warnings: list[str] = []
        self._journal: journal.Journal | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._told = b""
        self._is_finished = False
        self._is_delivered = False
        self._is_blocked = False  # the store does not answer
        try:
            self._journal = journal.Journal(path)
            self._journal.append(start)
        except OSError as error:
            self._warnings.append(f"tracking is not complete: {error}")

    @classmethod
    def start(cls, run_key: str, *, experiment: str, run_name: str, is_resumed: bool) -> Tracker:
        """Begin or go on with the row `run_key`, delivered by a child as it grows. Returns after milliseconds, the store is opened by the child.

        `is_resumed` says that training goes on after an interruption: points up to the last logged step are not logged again.
        """
        tracker = cls.open(run_key, experiment=experiment, run_name=run_name, is_resumed=is_resumed)
        tracker._follow()
        return tracker

    @classmethod
    def open(cls, run_key: str, *, experiment: str, run_name: str, is_resumed: bool) -> Tracker:
        """`start` for short work: the row is delivered once the work has ended, by the child that an earlier stage left or by one that starts then."""
        process = psutil.Process()
        start = {"type": "start", "store": store.name(), "run_key": run_key, "experiment": experiment, "run_name": run_name, "is_resumed": is_resumed}
        who = {"pid": process.pid, "pid_start_s": process.create_time(), "at_s": time.time(), "folder": os.getcwd()}
        tracker = cls(journal.new_path(run_key), start | who)
        tracker.tags(origin.environment_tags())
        return tracker

    def _follow(self, *, unless_attended: bool = False) -> None:
        """Have a child deliver the journal, or leave it to one that is there."""
        if self._journal is None:
            return
        try:
            if not (unless_attended and journal.is_attended()):
                self._process = self._start_worker(self._journal.path)
        except OSError as error:
            self._warn(f"tracking is not complete: {error}")

    def _start_worker(self, path: Path) -> subprocess.Popen[bytes]:
        return start_worker(path, linger_s=self.LINGER_S)

    def params(self, values: Mapping[str, Any]) -> None:
        """The plan and its like, nested or flat. The first value of a parameter stands; later stages repeat them so that a lost row is rebuilt."""
        self._append({"type": "params", "values": flat(values)})

    def tags(self, values: Mapping[str, Any]) -> None:
        """What names the row and may change."""
        self._append({"type": "tags", "values": flat(values)})

    def metrics(self, values: Mapping[str, float], step: int, at_s: float | None = None) -> None:
        """Points of curves at a step; `at_s` is a date in seconds since 1970, now by default."""
        points = {clean_key(key): float(value) for key, value in values.items()}
        self._append({"type": "metrics", "values": points, "step": step, "at_s": time.time() if at_s is None else at_s})

    def artifact(self, path: Path, folder: str = "") -> None:
        """A file or a folder. A small text is taken now, anything else is copied by the child soon after if it is still the same: leave it in place."""
        try:
            message = artifact_message(path, folder)
        except OSError as error:
            self._warn(f"tracking is not complete: {error}")
        else:
            self._append(message)

    def text(self, name: str, text: str) -> None:
        """A small text file."""
        self._append({"type": "text", "name": name, "text": without_secrets(text)})

    def _append(self, message: journal.Message) -> None:
        if self._journal is None or self._is_finished:
            return
        try:
            self._journal.append(message)
        except OSError as error:
            self._warn(f"tracking is not complete: {error}")

    def _warn(self, text: str) -> None:
        if text not in self._warnings:
            self._warnings.append(text)

    @property
    def warnings(self) -> list[str]:
        """What went wrong so far, each thing once."""
        self._listen(0.0)
        if self._process is not None and not self._is_delivered and self._process.poll() not in (None, 0):
            self._warn(f"tracking stopped (see {paths.state() / 'tracking.log'}); the work goes on, its row is delivered later")
        return list(self._warnings)

    def _listen(self, timeout_s: float) -> bool:
        """Take in what the child tells within the time. False when it has ended."""
        if self._process is None or self._process.stdout is None or self._process.stdout.closed:
            return False
        poll = select.poll()
        poll.register(self._process.stdout, select.POLLIN)
        if not poll.poll(timeout_s * 1000):
            return True
        content = os.read(self._process.stdout.fileno(), 1 << 16)
        if not content:
            self._process.stdout.close()
            return False
        *lines, self._told = (self._told + content).split(b"\n")
        for line in lines:
            with suppress(ValueError):  # not a message
                self._hear(json.loads(line))
        return True

    def _hear(self, message: Any) -> None:
        """Take in one message of the child."""
        match message:
            case {"kind": "warning", "text": text}:
                self._warn(text)
            case {"kind": "done"}:
                self._is_delivered = True
            case {"kind": "blocked" | "open" as kind}:
                self._is_blocked = kind == "blocked"

    def finish(self, status: Status = "FINISHED", timeout_s: float = FINISH_S) -> None:
        """End the row. Waits until the store has it, at most `timeout_s`, and not at all for a store that does not answer.

        Nothing depends on the waiting: the child goes on alone, and what it cannot deliver waits in the journal.
        """
        if self._is_finished:
            return
        self._append({"type": "finish", "status": status, "at_s": time.time()})
        self._is_finished = True
        if self._journal is not None:
            self._journal.close()
            if self._process is None:
                self._follow(unless_attended=True)
        if self._process is None:
            return
        assert self._process.stdin is not None
        self._process.stdin.close()
        end_s = time.monotonic() + timeout_s
        while not self._is_delivered and not self._is_blocked and (left_s := end_s - time.monotonic()) > 0:
            if not self._listen(left_s):
                break
        self._listen(0.0)  # the last moment to hear of it
        if self._process.stdout is not None:
            self._process.stdout.close()

    def abort(self, status: Status = "KILLED") -> None:
        """`finish` for a process in a hurry: the child ends the row alone."""
        self.finish(status, timeout_s=0.0)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        if kind is None:
            self.finish()
        else:
            self.abort("KILLED" if issubclass(kind, (KeyboardInterrupt, Interrupted)) else "FAILED")


def tell(warnings: Iterable[str]) -> None:
    """Print what went wrong with tracking, for as long as somebody reads it."""
    with suppress(OSError):
        for warning in warnings:
            print(f"tracking: {warning}", file=sys.stderr, flush=True)


def start_worker(path: Path, *, linger_s: float) -> subprocess.Popen[bytes]:
    """A child that delivers this journal and what else waits. Raises OSError."""
    package = os.fspath(Path(pufferfish.__file__).resolve().parents[1])
    search = os.pathsep.join([package, *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = os.environ | {"PYTHONPATH": search, "OMP_NUM_THREADS": "1"}
    log = paths.state() / "tracking.log"
    with open(log, "ab") as errors:
        if errors.tell() > MAX_LOG_BYTES:
            errors.truncate(0)
        return subprocess.Popen(
            [sys.executable, "-m", "pufferfish.track.worker", os.fspath(path.absolute()), str(linger_s)],
            cwd=paths.workspace(),
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            process_group=0,  # Ctrl-C leaves it time to end the row; in a session of its own Linux would ignore its niceness
        )
