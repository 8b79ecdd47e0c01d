"""Which live view suits the place where the work runs."""

from __future__ import annotations

import os
from typing import TextIO

from pufferfish.schema.plan import Plan
from pufferfish.ui.plain import PlainView
from pufferfish.ui.screen import ScreenView, suits


def open_view(plan: Plan, *, stream: TextIO) -> ScreenView | PlainView:
    """A panel for a terminal, else lines. Both are called with events and are context managers. NO_COLOR is respected."""
    return ScreenView(plan, stream) if suits(stream, dict(os.environ)) else PlainView(stream)
