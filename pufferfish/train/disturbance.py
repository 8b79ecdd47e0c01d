"""What disturbs a training under a deadline, a machine that stands still or becomes slower, and what is kept back for it."""

from __future__ import annotations

import math
import statistics
from collections import deque

from pufferfish.base.units import format_duration, format_seconds

LOOK_S, LOOK_SHARE = 2.0, 0.04  # of steps, between two looks at the pace; less in a short training, which would be over before its mean shows anything
NUM_LOOKS = 4  # the last ones, whose mean is the pace now
LONG_STALL_S = 1.0  # one that is told
TOLD_STALLS = 3  # at most, of those in a row: the machine may have become slower, which is told when it is certain
BORNE = 1.25  # so much slower the stages after training may become before the time planned for them does not suffice
MOST = 2.0  # times the planned time are kept for them at most
SETTLED_LOOKS = 2  # after so many the pace is compared with the plan: the first one has cold caches in it
NEWS = 0.1  # a pace that differs so much from the planned one is told
TELL_SHARE = 0.3  # of the planned time: a change of what is kept that is told


class Disturbance:
    """Sees every step. `extra_s` is to be kept for the stages after training beside what was planned for them: they become slower with the steps,
    and nobody can shorten them. It follows the pace up and down, but takes no more than half of the time for steps at once: however late a machine becomes
    slower, the learning rate still comes down. That takes some seconds more, which the stages after training may miss.

    On 2 cores, beside a process that kept the disk busy, steps took 2.2 times as long, evaluation 1.8 times and export 1.4 times.
    """

    def __init__(self, *, later_s: float, share_s: float = math.inf, planned_s: float = math.nan, usual_s: float = math.inf) -> None:
        """`later_s`: planned for the stages after training; `share_s`: of training; `planned_s`: for a step; `usual_s`: of a step, in an earlier process."""
        self.extra_s, self._told_s = 0.0, 0.0
        self._later_s, self._planned_s, self._look_s = later_s, planned_s, min(LOOK_S, LOOK_SHARE * share_s)
        self._paces_s = deque[float](maxlen=NUM_LOOKS)
        self.usual_s = usual_s  # the quickest pace so far
        self._looked_at_s, self._num_steps, self._num_stalls = 0.0, 0, 0

    def see_step(self, elapsed_s: float, *, is_stall: bool, left_s: float) -> str:
        """What the user should know about this step; mostly nothing. `left_s`: until the deadline, less what is kept."""
        self._num_stalls = self._num_stalls + 1 if is_stall else 0
        if is_stall:
            is_told = elapsed_s >= LONG_STALL_S and self._num_stalls <= TOLD_STALLS
            return f"a step took {format_duration(elapsed_s)}: the steps that are left are fewer" if is_told else ""
        self._looked_at_s += elapsed_s
        self._num_steps += 1
        return self._look(left_s) if self._looked_at_s >= self._look_s else ""

    def _look(self, left_s: float) -> str:
        self._paces_s.append(self._looked_at_s / self._num_steps)
        self._looked_at_s, self._num_steps = 0.0, 0
        pace_s = statistics.fmean(self._paces_s)
        self.usual_s = min(self.usual_s, pace_s)
        slowdown, basis = max((pace_s / self.usual_s, "usual"), (self._slower_than_planned(), "planned"))
        wanted_s = self._later_s * min(MOST - 1, max(0.0, slowdown / BORNE - 1))
        self.extra_s = min(wanted_s, self.extra_s + left_s / 2)
        is_over = self._told_s > 0 and not self.extra_s
        if abs(self.extra_s - self._told_s) < TELL_SHARE * self._later_s and not is_over:
            return self._news(self._paces_s[-1]) if len(self._paces_s) == SETTLED_LOOKS else ""
        self._told_s = self.extra_s
        kept = f"{format_duration(self.extra_s)} more are kept" if self.extra_s else "nothing more is kept"
        return f"steps take {slowdown:.1f} times as long as {basis}: {kept} for evaluation and export"

    def _slower_than_planned(self) -> float:
        """A machine may have become slower before the first step. What is only a plan that is a little wrong is less than is borne; the quickest of the last
        looks counts, so that cold caches do not."""
        is_settled = len(self._paces_s) >= SETTLED_LOOKS
        return min(self._paces_s) / self._planned_s if is_settled and self._planned_s > 0 else 0.0

    def _news(self, pace_s: float) -> str:
        """About the plan: nothing where the pace is the planned one, or none was planned."""
        if not abs(pace_s / self._planned_s - 1) > NEWS:
            return ""
        return f"a step takes {format_seconds(pace_s)}, planned were {format_seconds(self._planned_s)}"
