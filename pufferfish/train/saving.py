"""When an unfinished training is saved, and what that costs."""

from __future__ import annotations

from dataclasses import dataclass, field

MAX_SHARE = 0.02  # of the time between two checkpoints, for one of them
LAST_SHARE = 0.25  # of the time between two checkpoints: so near to the end none is begun, the model itself is saved soon


@dataclass
class Saving:
    """By time, every `interval_s` or as seldom as its price demands: the least time that one took, since what a stall adds is no price."""

    interval_s: float
    last_s: float  # when the last one was made or skipped, on the boot clock
    times_s: list[float] = field(default_factory=list)  # what each took

    def is_due(self, at_s: float, *, remaining_s: float) -> bool:
        """At this time of the boot clock, with so much left for steps: infinite where there is no deadline."""
        interval_s = max(self.interval_s, self.price_s / MAX_SHARE)
        return at_s - self.last_s > interval_s and remaining_s >= LAST_SHARE * interval_s

    @property
    def price_s(self) -> float:
        """Of one; 0 before the first."""
        return min(self.times_s, default=0.0)
