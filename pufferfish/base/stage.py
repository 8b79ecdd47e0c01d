"""The frame around each stage's `main`: errors in three lines, exit codes, and what the stage cost."""

from __future__ import annotations

import functools
import os
import signal
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

from pufferfish.base.errors import UserError
from pufferfish.base.refusals import as_user_error
from pufferfish.base.timing import write_timing

EXIT_USER_ERROR = 2
EXIT_INTERRUPTED = 130


class Interrupted(Exception):
    """The work was stopped by the user or the system, everything finished is saved; the message says how to go on."""


class StopRequest:
    """Ctrl-C, a termination signal, a closed terminal, or the death of the process that started us, noted to be obeyed between two steps.

    A second signal ends at once.
    """

    def __init__(self) -> None:
        self._is_wanted, self._parent = False, os.getppid()

    @classmethod
    def install(cls) -> StopRequest:
        """Take over SIGINT, SIGTERM, and SIGHUP where it is not ignored, as after `nohup`."""
        request = cls()
        hang_up = [] if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN else [signal.SIGHUP]
        for number in (signal.SIGINT, signal.SIGTERM, *hang_up):
            signal.signal(number, request._note)
        return request

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._is_wanted = True
        signal.signal(number, signal.SIG_IGN if number == signal.SIGHUP else signal.SIG_DFL)  # shell and system both tell of a closed terminal

    def __call__(self) -> bool:
        """Whether the work should stop."""
        return self._is_wanted or os.getppid() != self._parent


def stage(name: str) -> Callable[[Callable[[], Any]], Callable[[], None]]:
    """Make `main` the program of the stage `name`.

    A UserError is printed as it stands and ends the process with status 2, as a full disk and want of memory do, an interruption with 130; any other exception
    is our defect and keeps its traceback. Afterwards `artifacts/timing/<name>.json` says what the stage cost from the start
    of its process. A `main` that returns False did nothing new: the time of the run that did the work stands.
    """

    def frame(main: Callable[[], Any]) -> Callable[[], None]:
        @functools.wraps(main)
        def run() -> None:
            try:
                if main() is not False:
                    write_timing(name)
            except (OSError, MemoryError, RuntimeError) as error:
                refused = as_user_error(error, then="then run `dvc repro` again; what was finished is kept")
                if not refused:
                    raise
                print(f"{name}: {refused}", file=sys.stderr, flush=True)
                sys.exit(EXIT_USER_ERROR)
            except UserError as error:
                print(f"{name}: {error}", file=sys.stderr, flush=True)
                sys.exit(EXIT_USER_ERROR)
            except (Interrupted, KeyboardInterrupt) as stop:
                print(f"{name}: {str(stop) or 'interrupted'}", file=sys.stderr, flush=True)
                sys.exit(EXIT_INTERRUPTED)

        return run

    return frame
