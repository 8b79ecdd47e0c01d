"""Which live view suits the place where the work runs."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TextIO

from pufferfish.base.events import Event
from pufferfish.base.output import mute, would_wait
from pufferfish.schema.plan import Plan
from pufferfish.ui.plain import PlainView
from pufferfish.ui.screen import ScreenView, suits


@contextmanager
def open_view(plan: Plan, *, stream: TextIO) -> Iterator[Callable[[Event], None]]:
    """A panel for a terminal, else lines, to be called with events. NO_COLOR is respected.

    Where nothing can be written any more, the reader has gone, the terminal was closed or the log's disk is full, the work goes on unseen; so it does
    while the terminal is stopped or the reader pauses.
    """
    view = view_for(plan, stream)
    _unless_unread(stream, view.__enter__)
    try:
        yield lambda event: None if would_wait(stream) else _unless_unread(stream, view, event)
    finally:
        _unless_unread(stream, view.__exit__, *sys.exc_info())


def _unless_unread(stream: TextIO, write: Callable[..., object], *arguments: object) -> None:
    try:
        write(*arguments)
    except OSError:
        mute(stream)


def view_for(plan: Plan, stream: TextIO) -> ScreenView | PlainView:
    """Both are called with events and are context managers."""
    return ScreenView(plan, stream) if suits(stream, dict(os.environ)) else PlainView(stream)
