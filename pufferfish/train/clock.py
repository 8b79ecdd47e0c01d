"""What drives the schedule: the deadline, a number of steps, or the record of an earlier run."""

from __future__ import annotations

import math
import statistics
from collections import deque
from collections.abc import Callable
from typing import Protocol

from pufferfish.base.clock import now_s


class Clock(Protocol):
    """Progress of a training. `u` is the schedule's progress before the next step."""

    u: float
    given_s: float  # of grace

    def tick(self) -> None:
        """A step was made."""

    @property
    def is_over(self) -> bool:
        """No further step."""

    @property
    def expected_steps(self) -> int:
        """Steps still to come."""

    @property
    def remaining_s(self) -> float:
        """Time still to come."""

    @property
    def late_s(self) -> float | None:
        """Time since the deadline, negative before it; None where the steps were counted."""


class StepClock:
    """So many steps, whatever they take: u = step / num_steps."""

    late_s = None
    given_s = 0.0

    def __init__(self, num_steps: int, *, step: int = 0, step_s: float) -> None:
        """`step_s` is the planned pace."""
        self.num_steps, self.step, self._step_s = num_steps, step, step_s
        self.u = self.u_at(step)
        self._start_s, self._first_step = now_s(), step

    def u_at(self, step: int) -> float:
        """Progress after so many steps."""
        return min(1.0, step / self.num_steps)

    def tick(self) -> None:
        """A step was made."""
        self.step += 1
        self.u = self.u_at(self.step)

    @property
    def is_over(self) -> bool:
        """All steps are made."""
        return self.step >= self.num_steps

    @property
    def expected_steps(self) -> int:
        """Steps still to come."""
        return self.num_steps - self.step

    @property
    def remaining_s(self) -> float:
        """At the mean pace so far; at the planned one before the first step."""
        done = self.step - self._first_step
        return self.expected_steps * ((now_s() - self._start_s) / done if done else self._step_s)


class ReplayClock(StepClock):
    """The progress that an earlier run recorded, step by step."""

    def __init__(self, recorded_u: list[float], *, step: int = 0, step_s: float) -> None:
        """`step_s` is its pace."""
        self._recorded_u = [*recorded_u, 1.0]
        super().__init__(len(recorded_u), step=step, step_s=step_s)

    def u_at(self, step: int) -> float:
        """Progress after so many steps."""
        return self._recorded_u[step]


class DeadlineClock:
    """Progress by the remaining-fraction rule: after each step u += (1 - u) / (expected remaining steps).

    It is monotonic, reaches 1 exactly when time runs out, and a stall only shortens the future: nothing of the schedule is skipped as long as time is left.
    The pace is the mean of the last steps without outliers, the planned pace first among them: a step that took over three times the median is a stall, until
    half of the steps are like it, which is a slower machine. Where steps are only launched, each tick but the first measures the step before, and the one in
    flight has its time too.
    Time that is needed for anything else is reserved through `reserve_s`; if that takes all that is left, the schedule is cut off.
    """

    WINDOW = 24  # steps that the pace is taken from
    STALL = 3.0  # medians
    FEWEST_LEFT = 20  # steps, in which the learning rate still comes down
    NEARLY_OVER = 0.9  # progress, from which on it is down

    def __init__(
        self,
        deadline_s: float,
        *,
        step_s: float,
        u: float = 0.0,
        most_steps: float = math.inf,
        grace_s: float = 0.0,
        given_s: float = 0.0,
        is_in_flight: Callable[[], bool] = lambda: False,
        now: Callable[[], float] = now_s,
    ) -> None:
        """`deadline_s` on the clock `now`; `step_s` is the planned pace, until others were measured; after `most_steps` it ends before the deadline. A stall,
        in a step or between two, that leaves too few steps for the learning rate to come down gets `grace_s` more, once, where that is enough for it;
        `given_s` of it were given to an earlier process.

        `is_in_flight` tells whether the last step may still be computed on an accelerator.
        """
        self.deadline_s, self.u, self.now, self._is_in_flight = deadline_s + given_s, u, now, is_in_flight
        self._steps_left, self._grace_s, self.given_s = most_steps, 0.0 if given_s else grace_s, given_s
        self.reserve_s = 0.0
        self._last_steps = deque[float]([step_s], maxlen=self.WINDOW)
        self._last_s = now()
        self._is_over = False
        self._was_in_flight = False  # a step, when this one began
        self.last_step_s, self.is_stall = 0.0, False  # of the last step that was measured
        self.is_measured = False  # the last tick measured a step
        self.grace_taken_s = 0.0  # in the last call, which was `start_step` or `tick`
        self.pause_s = 0.0  # before this step, for something else
        self.lost_s = 0.0  # in this pause, of the time for steps
        self.left_s = self.until_deadline_s  # when the last step was made

    def start_step(self) -> None:
        """Time from here on belongs to the next step, or still to the one in flight; call it after anything that is no step, before asking `is_over`."""
        has_landed, self._was_in_flight = self._was_in_flight, self._is_in_flight()
        self.grace_taken_s, self.pause_s, self.lost_s = 0.0, 0.0, 0.0
        if self._was_in_flight:
            return
        now = self.now()
        self.pause_s, self._last_s = now - self._last_s, now
        if not self._is_over and self.until_deadline_s < self._steps_left * self.step_s:  # the time ends it, and not the number of steps
            self.lost_s = max(0.0, self.pause_s - (self.slowest_s if has_landed else 0.0))
        if self.pause_s > self._longest_s and self.u < self.NEARLY_OVER and self.left_s >= self.FEWEST_LEFT * self.step_s:
            self._take_grace()

    def tick(self) -> None:
        """A step was made since `start_step` or the last tick."""
        now, is_in_flight = self.now(), self._is_in_flight()
        self.grace_taken_s = 0.0
        self.is_measured, self._was_in_flight = self._was_in_flight or not is_in_flight, is_in_flight
        if self.is_measured:
            self.last_step_s, self._last_s = now - self._last_s, now
            self._last_steps.append(self.last_step_s)
        self.is_stall = self.is_measured and self.last_step_s > self._longest_s
        self._steps_left -= 1
        if self.is_stall and self.u < self.NEARLY_OVER:
            self._take_grace()
        steps = self.remaining_s / self.step_s
        self.u = min(1.0, self.u + (1 - self.u) / max(1.0, steps))
        self._is_over = self.u >= 1.0 or steps < 1.0
        self.left_s = self.until_deadline_s

    def _take_grace(self) -> None:
        few_s, later_s = self.FEWEST_LEFT * self.step_s, self.deadline_s + self._grace_s
        if self.until_deadline_s < few_s <= self._until_s(later_s):
            self.deadline_s, self.grace_taken_s, self.given_s, self._grace_s = later_s, self._grace_s, self._grace_s, 0.0

    @property
    def step_s(self) -> float:
        """Pace: mean seconds of the last steps, stalls left out."""
        return max(1e-6, statistics.fmean(self._usual_steps()))

    @property
    def slowest_s(self) -> float:
        """The slowest of the last steps, stalls left out."""
        return max(self._usual_steps())

    def _usual_steps(self) -> list[float]:
        longest_s = self._longest_s
        return [elapsed_s for elapsed_s in self._last_steps if elapsed_s <= longest_s]

    @property
    def _longest_s(self) -> float:
        """A longer step is a stall."""
        return self.STALL * statistics.median_low(self._last_steps)

    @property
    def is_over(self) -> bool:
        """Another step would end after the deadline, or be too many."""
        return self._is_over or self._steps_left < 1 or self.until_deadline_s < self.slowest_s

    @property
    def expected_steps(self) -> int:
        """Steps still to come at this pace."""
        return max(0, int(self.remaining_s / self.step_s))

    @property
    def remaining_s(self) -> float:
        """Time for steps until the deadline, or for as many as there may be."""
        return min(self.until_deadline_s, self._steps_left * self.step_s)

    @property
    def late_s(self) -> float | None:
        """Time since the deadline, negative before it; None where it ended before it, after the most steps."""
        late_s = self.now() - self.deadline_s
        return None if late_s < 0 and math.isfinite(self._steps_left) else late_s

    @property
    def until_deadline_s(self) -> float:
        """Time that is left, less what is reserved and what the step in flight takes."""
        return self._until_s(self.deadline_s)

    def _until_s(self, deadline_s: float) -> float:
        in_flight_s = self.slowest_s if self._is_in_flight() else 0.0
        return max(0.0, deadline_s - self.reserve_s - in_flight_s - self.now())
