"""Between the clock of a training and what wants some of its time: evaluations, checkpoints, and the stages after training on a machine that is disturbed."""

from __future__ import annotations

import math

from pufferfish.base.units import format_duration, format_seconds
from pufferfish.train.clock import Clock, DeadlineClock
from pufferfish.train.disturbance import TOLD_STALLS, Disturbance
from pufferfish.train.evaluations import Evaluations
from pufferfish.train.saving import Saving

LONG_PAUSE_S, LONG_PAUSE_SHARE = 1.0, 0.01  # that nobody expected, of the time that was left; the longer of the two is told
FEWER = "the steps that are left are fewer"


class Pace:
    """Keeps the time of a deadline; where there is none, nothing is kept, skipped or told."""

    def __init__(self, clock: Clock, evaluations: Evaluations, disturbance: Disturbance, saving: Saving) -> None:
        self._clock = clock if isinstance(clock, DeadlineClock) else None
        self._evaluations, self._disturbance, self._saving = evaluations, disturbance, saving
        self._expected_s = 0.0  # of the pause before the next step
        self._num_pauses = 0  # long ones in a row

    def start_step(self) -> str:
        """Before each step; what the user should know of the pause before it, mostly nothing."""
        clock = self._clock
        if clock is None:
            return ""
        left_s, expected_s, self._expected_s = clock.left_s, self._expected_s, 0.0
        self._keep_time(clock)
        clock.start_step()
        is_long = clock.lost_s - expected_s > max(LONG_PAUSE_S, LONG_PAUSE_SHARE * left_s)
        self._num_pauses = self._num_pauses + 1 if is_long else 0
        fewer = FEWER if is_long and self._num_pauses <= TOLD_STALLS else ""
        if not (corrections := [reason for reason in (fewer, _told_grace(clock)) if reason]):
            return ""
        expected = f", where {format_seconds(expected_s)} were expected" if expected_s else ""
        return f"{format_duration(clock.pause_s)} passed between two steps{expected}: {'; '.join(corrections)}"

    def see_step(self) -> str:
        """After each step; what the user should know of it, mostly nothing."""
        clock = self._clock
        if clock is None or not clock.is_measured:
            return ""
        reason = self._disturbance.see_step(clock.last_step_s, is_stall=clock.is_stall, left_s=clock.until_deadline_s)
        self._keep_time(clock)
        if not (grace := _told_grace(clock)):
            return reason
        return f"{reason}; {grace}" if reason else f"a step took {format_duration(clock.last_step_s)}: {grace}"

    def pass_evaluation(self) -> str:
        """One is due: why it is skipped, nothing where it is made now."""
        self._evaluations.num_past += 1
        if self._clock is None:
            return ""
        self._keep_time(self._clock)  # without this one, which may have what was kept for it
        left_s, price_s = self._clock.until_deadline_s, self._evaluations.price_s
        if self._evaluations.are_too_dear:
            return f"evaluation skipped: it takes {price_s:.1f} s"
        if not self._evaluations.fits(left_s):
            return f"evaluation skipped: it takes {price_s:.1f} s of the {format_duration(left_s)} that are left"
        self._expected_s += self._evaluations.expected_s
        return ""

    def pass_checkpoint(self) -> str:
        """One is due: why it is skipped, nothing where it is made now."""
        if not self._saving.fits(self.remaining_s):
            return f"checkpoint skipped: it {'takes' if self._saving.times_s else 'may take'} {self._saving.price_s:.1f} s"
        self._expected_s += self._saving.price_s
        return ""

    @property
    def remaining_s(self) -> float:
        """Time for steps; infinite where there is no deadline."""
        return self._clock.remaining_s if self._clock else math.inf

    def _keep_time(self, clock: DeadlineClock) -> None:
        clock.reserve_s = self._evaluations.reserve_s + self._disturbance.extra_s


def _told_grace(clock: DeadlineClock) -> str:
    taken_s = clock.grace_taken_s
    return f"{format_duration(taken_s)} of the time for evaluation and export bring the learning rate down" if taken_s else ""
