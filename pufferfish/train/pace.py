"""Between the clock of a training and what wants some of its time: evaluations to come, and the stages after training on a machine that is disturbed."""

from __future__ import annotations

from pufferfish.base.units import format_duration
from pufferfish.train.clock import Clock, DeadlineClock
from pufferfish.train.disturbance import Disturbance
from pufferfish.train.evaluations import Evaluations


class Pace:
    """Keeps the time of a deadline; where there is none, nothing is kept and nothing told."""

    def __init__(self, clock: Clock, evaluations: Evaluations, disturbance: Disturbance) -> None:
        self._clock = clock if isinstance(clock, DeadlineClock) else None
        self._evaluations, self._disturbance = evaluations, disturbance

    def start_step(self) -> str:
        """Before each step; what the user should know of the pause before it, mostly nothing."""
        clock = self._clock
        if clock is None:
            return ""
        self._keep_time(clock)
        clock.start_step()
        return f"{format_duration(clock.pause_s)} passed between two steps: {_told_grace(clock)}" if clock.grace_taken_s else ""

    def see_step(self) -> str:
        """After each step; what the user should know of it, mostly nothing."""
        clock = self._clock
        if clock is None or not clock.is_measured:
            return ""
        reason = self._disturbance.see_step(clock.last_step_s, is_stall=clock.is_stall, left_s=clock.until_deadline_s)
        self._keep_time(clock)
        return f"a step took {format_duration(clock.last_step_s)}: {_told_grace(clock)}" if clock.grace_taken_s else reason

    def _keep_time(self, clock: DeadlineClock) -> None:
        clock.reserve_s = self._evaluations.reserve_s + self._disturbance.extra_s


def _told_grace(clock: DeadlineClock) -> str:
    return f"{format_duration(clock.grace_taken_s)} of the time for evaluation and export bring the learning rate down"
