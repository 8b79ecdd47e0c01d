"""The live view in a terminal: a few lines that stay where they are."""

from __future__ import annotations

import time
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TextIO

from pufferfish.base.events import EvalDone, Event, Finished, Refit, Shrunk, Started, StepDone, Warned
from pufferfish.base.units import format_bytes, format_count, format_duration
from pufferfish.schema.plan import Plan
from pufferfish.ui.lines import pack
from pufferfish.ui.plain import event_line, notice

if TYPE_CHECKING:
    from rich.text import Text

REDRAW_S = 0.25
MAX_WIDTH = 100


class ScreenView:
    """Called with every event; redraws at most four times a second, in the calling thread and without a thread of its own."""

    def __init__(self, plan: Plan, stream: TextIO) -> None:
        from rich.console import Console
        from rich.live import Live

        self._forecast_bpb = plan.forecast.val_bpb
        self._console = Console(file=stream, highlight=False)
        self._live = Live(console=self._console, auto_refresh=False, redirect_stdout=False, redirect_stderr=False)
        self._step: StepDone | None = None
        self._bpb: float | None = None
        self._drawn_s = 0.0

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self._draw()
        self._live.stop()

    def __call__(self, event: Event) -> None:
        """Take in the event and redraw, if it is time."""
        match event:
            case StepDone():
                self._step = event
                if time.monotonic() - self._drawn_s < REDRAW_S:
                    return
            case EvalDone():
                self._bpb = event.val_bpb
            case Refit() | Shrunk() | Warned():
                self._print(notice(event), "yellow")
            case Started() | Finished():
                self._print(event_line(event), "bold")
        self._draw()

    def _print(self, line: str, style: str) -> None:
        """A line that stays, above the panel."""
        self._console.print(line, style=style, markup=False)

    def _draw(self) -> None:
        self._drawn_s = time.monotonic()
        if self._step is not None:
            width = min(self._console.width, MAX_WIDTH)
            self._live.update(panel(self._step, self._bpb, self._forecast_bpb, width=width, has_blocks=has_blocks(self._console.encoding)), refresh=True)


def has_blocks(encoding: str) -> bool:
    """Whether the stream can carry more than ASCII."""
    return encoding.lower().replace("-", "").startswith("utf")


def panel(step: StepDone, val_bpb: float | None, forecast_bpb: float, *, width: int, has_blocks: bool) -> Text:
    """The bar, and below it what is known, on as many lines as the width needs."""
    from rich.text import Text

    left = f" {step.u:4.0%}  {format_duration(step.remaining_s)} left"
    bar_width = max(4, width - len(left))
    filled = round(bar_width * step.u)
    full, empty = ("━", "─") if has_blocks else ("#", "-")
    quality = f"{val_bpb:.3f}" if val_bpb is not None else "-"
    fields = [
        f"validation {quality} bits/byte",
        f"forecast {forecast_bpb:.3f}",
        f"loss {step.loss:.3f}",
        f"{format_count(step.tokens_per_s)} tokens/s",
        f"{format_count(step.num_tokens)} tokens",
        f"step {step.step:,}",
        f"rate {step.learning_rate:.2f}",
        format_bytes(step.memory_bytes),
    ]
    text = Text(no_wrap=True, overflow="crop")
    text.append(full * filled, "cyan")
    text.append(empty * (bar_width - filled), "dim")
    text.append(left, "bold")
    for line in pack(fields, width=width):
        text.append(f"\n{line}")
    return text


def suits(stream: Any, environment: dict[str, str]) -> bool:
    """Whether a panel can be redrawn here: a terminal that moves its cursor, with a person before it."""
    return stream.isatty() and environment.get("TERM", "dumb") not in ("dumb", "unknown") and not environment.get("CI")
