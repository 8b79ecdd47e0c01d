"""The evaluations during a training: when the next one is due, whether it is worth its time, and what those to come will need."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

MAX_SHARE = 0.01  # of the training time, for one of them
CHANCES = 2  # before they are too dear: the first one may have met a stall


@dataclass
class Evaluations:
    """So many, spread evenly over the schedule. The price of one is the least time that one took: what a stall adds is no price."""

    num: int
    share_s: float  # training's time
    num_past: int = 0  # those that were skipped among them
    times_s: list[float] = field(default_factory=list)

    def as_progress(self) -> dict[str, Any]:
        """For a checkpoint: what has to be told to a later process beside the number and the time."""
        return {"num_past": self.num_past, "times_s": self.times_s}

    def is_due(self, u: float) -> bool:
        """At this progress of the schedule."""
        return self.num_past < self.num and u >= (self.num_past + 1) / (self.num + 1)

    @property
    def price_s(self) -> float:
        """Of one; 0 before the first."""
        return min(self.times_s, default=0.0)

    @property
    def are_too_dear(self) -> bool:
        """They are skipped under a deadline."""
        return len(self.times_s) >= CHANCES and self.price_s > MAX_SHARE * self.share_s

    @property
    def reserve_s(self) -> float:
        """For those that are left and will not be skipped."""
        return 0.0 if self.are_too_dear else (self.num - self.num_past) * min(self.price_s, MAX_SHARE * self.share_s)
