"""The child process that follows a journal and delivers it to MLflow, so that the work itself neither waits nor pays for it.

    python -m pufferfish.track.worker <journal> <linger seconds>

Its standard input says whether the parent lives: at its end the rest of the journal is delivered and the row is ended, as KILLED
where the parent did not say how it went. It tells the parent on standard output, in lines of JSON, what the user should know;
whatever else is printed here goes to the log.
Then it stays for a while: the stages that follow leave their journals to it, and import no MLflow of their own.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import sqlite3
import sys
import time
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from pufferfish.track import journal, origin, store

if TYPE_CHECKING:
    from mlflow import MlflowClient

    from pufferfish.track.row import Row

FLUSH_S = 3.0
FIRST_FLUSH_S = 0.3
SAMPLE_S = 5.0
LOOK_S = 0.5  # for journals that others left
SAMPLE_GROWTH = 1e-3  # of a long run every 1,000th part is sampled
MAX_RETRY_S = 15.0
OPENING_NICENESS = 10  # a tenth of a busy core, so that the row is there within the first half minute; it costs three seconds of one core in all
NICENESS = 19  # a hundredth of a busy core


class Parent:
    """The process that works, and the channel on which it listens."""

    def __init__(self, channel: int) -> None:
        self._channel = channel
        self.pid = os.getppid()
        self.is_gone = False

    def wait(self, timeout_s: float) -> None:
        """Return after the time, or at once when the parent has closed the pipe or is dead (its own children may hold the pipe open)."""
        if self.is_gone:
            time.sleep(timeout_s)
            return
        readable, _, _ = select.select([sys.stdin], [], [], timeout_s)
        self.is_gone = os.getppid() != self.pid or (bool(readable) and not os.read(sys.stdin.fileno(), 1))

    def give_way(self, niceness: int) -> None:
        """Leave the cores to it. Niceness only ever rises."""
        with contextlib.suppress(OSError):
            os.nice(niceness - os.nice(0))

    def tell(self, kind: str, text: str = "") -> None:
        """One line for the parent, if it still listens."""
        with contextlib.suppress(OSError):
            os.write(self._channel, json.dumps({"kind": kind, "text": text}).encode() + b"\n")

    def warn(self, text: str) -> None:
        """Something went wrong that the user should know."""
        print(time.strftime("%F %T"), text, file=sys.stderr, flush=True)
        self.tell("warning", text)


class Delivery:
    """One journal on its way into one row. `problem` is empty while the store answers; `is_live` says that its work goes on."""

    def __init__(self, reader: journal.Reader, parent: Parent, *, is_live: bool) -> None:
        self._reader, self._parent, self._is_live = reader, parent, is_live
        self.last_s = 0.0  # when the work was last heard of
        self.pending: deque[journal.Message] = deque()
        self.start: journal.Message | None = None
        self.finish: journal.Message | None = None
        self.row: Row | None = None
        self.problem = ""

    def read(self) -> None:
        """Take the new lines; the first and the last message are not for the row itself."""
        for message in self._reader.read():
            self.last_s = max(self.last_s, message.get("at_s", 0.0))
            if message["type"] == "start":
                self.start = message
            elif message["type"] == "finish":
                self.finish = message
            else:
                self.pending.append(message)

    def flush(self) -> bool:
        """Deliver what is there. False where the store does not answer; nothing is lost then."""
        from pufferfish.track.row import STORE_ERRORS, Row

        try:
            store.check_database()
            if self.row is None:
                assert self.start is not None
                self.row = Row(open_client(), self.start, self._parent.warn)
                if self._is_live:
                    self.row.reopen()
            self.row.deliver(self.pending)
        except (*STORE_ERRORS, sqlite3.Error) as error:
            self._note(error)
            return False
        if self.problem:
            self._parent.tell("open")
        self.problem = ""
        return True

    def end(self, status: str, at_s: float) -> bool:
        """End the row. False where the store does not answer."""
        from pufferfish.track.row import STORE_ERRORS

        assert self.row is not None
        try:
            self.row.end(status, at_s)
        except (*STORE_ERRORS, sqlite3.Error) as error:
            self._note(error)
            return False
        return True

    def _note(self, error: BaseException) -> None:
        text = (str(error).strip() or type(error).__name__).splitlines()[0]
        if not self.problem:
            self._parent.warn(f"the tracking store does not answer ({text}); the work goes on, its row waits in {journal.folder()} and is delivered later")
            self._parent.tell("blocked")
        self.problem = text


def open_client() -> MlflowClient:
    """Raises MlflowException, SQLAlchemyError, sqlite3.Error or OSError where the store does not answer."""
    from mlflow import MlflowClient

    store.create_store()
    store.follow_checkout()
    return MlflowClient(store.tracking_uri())


def follow(delivery: Delivery, parent: Parent, *, linger_s: float) -> bool:
    """Deliver until the parent has finished or gone, and then for at most `linger_s` of a silent store. True if all is in the store."""
    from pufferfish.track.system import SystemSampler

    sampler = None
    with contextlib.suppress(psutil.Error):
        sampler = SystemSampler(parent.pid)
    begin_s = next_sample_s = time.monotonic()
    retry_s, gone_s, wait_s = FLUSH_S, 0.0, FIRST_FLUSH_S
    while True:
        parent.wait(wait_s)
        gone_s = gone_s or (time.monotonic() if parent.is_gone else 0.0)
        delivery.read()
        if sampler and time.monotonic() >= next_sample_s and not parent.is_gone and not delivery.problem and delivery.row:
            next_sample_s = time.monotonic() + SAMPLE_S + SAMPLE_GROWTH * (time.monotonic() - begin_s)
            step = max(0, round(time.time() - delivery.row.start_s))
            delivery.pending.append({"type": "metrics", "values": sampler.sample(), "step": step, "at_s": time.time()})
        is_delivered = delivery.flush()
        if is_delivered and (parent.is_gone or delivery.finish) and end_row(delivery):
            return True
        if gone_s and time.monotonic() - gone_s > linger_s:
            return False
        retry_s = FLUSH_S if is_delivered else min(MAX_RETRY_S, 1.5 * retry_s)
        wait_s = 1.0 if gone_s else retry_s
        if is_delivered:
            parent.give_way(NICENESS)
            assert delivery.start is not None
            deliver_all_abandoned(parent, own_key=delivery.start["run_key"])


def end_row(delivery: Delivery) -> bool:
    """End the row as the parent said, or as KILLED where it could not say."""
    finish = delivery.finish or {"status": "KILLED", "at_s": delivery.last_s}
    return delivery.end(finish["status"], finish["at_s"])


def deliver_abandoned(path: Path, parent: Parent, *, own_key: str | None) -> bool:
    """Deliver a journal that was left behind, and remove it. The row of our own key goes on: we end it later. False where the store does not answer."""
    reader = journal.Reader.open(path, is_waiting=False)
    if reader is None:
        return True
    delivery = Delivery(reader, parent, is_live=False)
    delivery.read()
    if delivery.start and delivery.flush() and (delivery.start["run_key"] == own_key or end_row(delivery)):
        reader.remove()
        return True
    reader.close()
    return False


def deliver_all_abandoned(parent: Parent, *, own_key: str | None = None) -> bool:
    """Deliver whatever others left. False where some of it could not be."""
    are_delivered = [deliver_abandoned(path, parent, own_key=own_key) for path in journal.abandoned()]
    return all(are_delivered)


def deliver(reader: journal.Reader, parent: Parent, linger_s: float) -> bool:
    """Deliver the parent's journal; before it what was left of the same row, beside it what others left. False where the store does not answer."""
    delivery = Delivery(reader, parent, is_live=True)
    delivery.read()
    assert delivery.start is not None, "the parent writes the first line before it starts the worker"
    own_key = delivery.start["run_key"]
    for other in journal.abandoned():
        start = journal.start_message(other)
        if start and start["run_key"] == own_key:
            deliver_abandoned(other, parent, own_key=own_key)
    is_complete = follow(delivery, parent, linger_s=linger_s)
    if is_complete:
        reader.remove()
        parent.tell("done")
        deliver_all_abandoned(parent)
    else:
        reader.close()
        parent.tell("left")
    return is_complete


def stay(parent: Parent, linger_s: float) -> bool:
    """Deliver what others leave, until for `linger_s` nobody has left anything that could be delivered. False where something is left."""
    end_s, is_delivered = time.monotonic() + linger_s, True
    while time.monotonic() < end_s:
        time.sleep(LOOK_S)
        if journal.abandoned():
            is_delivered = deliver_all_abandoned(parent)
            end_s = time.monotonic() + linger_s if is_delivered else end_s
    return is_delivered


def take_channel() -> int:
    """Standard output for ourselves alone: what libraries print would be taken for a message, or break with the pipe once the parent is gone."""
    channel = os.dup(1)
    os.dup2(2, 1)
    return channel


def import_early() -> None:
    """Import MLflow at once, while the work imports torch on another core: later the work wants all of them."""
    import pufferfish.track.row  # noqa: F401


def main() -> None:
    """See the docstring of this file."""
    for name in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(name, signal.SIG_IGN)
    path, linger_s = Path(sys.argv[1]), float(sys.argv[2])
    parent = Parent(take_channel())
    parent.give_way(OPENING_NICENESS)
    with journal.attending():
        reader = journal.Reader.open(path, is_waiting=True)  # None: another worker has delivered it
        store.quiet()
        import_early()
        start = journal.start_message(path)
        if start and journal.is_writer_alive(start):
            journal.Journal(path).append({"type": "tags", "values": origin.git_tags(Path(start["folder"]))})
        is_answering = (reader is None or deliver(reader, parent, linger_s)) and stay(parent, linger_s)
    if is_answering:  # somebody may have left a journal to us just before we left
        deliver_all_abandoned(parent)


if __name__ == "__main__":
    main()
