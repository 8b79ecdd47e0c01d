"""The evaluations during a training: when the next one is due, whether it is worth its time, and what those to come will need."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

MAX_SHARE = 0.01  # of the training time, for one of them
CHANCES = 2  # before they are too dear: the first one may have met a stall
LEFT_SHARE = 0.5  # of the time that is left, for one of them: the learning rate has still to come down


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
    def expected_s(self) -> float:
        """What the next one may take without a word: its price, and before it is known as much as one is worth."""
        return self.price_s if self.times_s else MAX_SHARE * self.share_s

    def fits(self, left_s: float) -> bool:
        """Whether the schedule still comes to its end after one, with so much left until the deadline."""
        return self.price_s <= LEFT_SHARE * left_s

    @property
    def are_too_dear(self) -> bool:
        """They are skipped under a deadline."""
        return len(self.times_s) >= CHANCES and self.price_s > MAX_SHARE * self.share_s

    @property
    def reserve_s(self) -> float:
        """For those that are left and will not be skipped."""
        return 0.0 if self.are_too_dear else (self.num - self.num_past) * min(self.price_s, MAX_SHARE * self.share_s)
