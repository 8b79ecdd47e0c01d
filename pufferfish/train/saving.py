"""When an unfinished training is saved, and what that costs."""

from __future__ import annotations

from dataclasses import dataclass, field

MAX_SHARE = 0.02  # of the time between two checkpoints, for one of them
LAST_SHARE = 0.25  # of the time between two checkpoints: so near to the end none is begun, the model itself is saved soon
FIRST_SHARE = 0.2  # of the time that is left, for the first one: its price is a guess, and the learning rate has still to come down
DISK_BYTES_PER_S = 1e8  # a guess, that of a slow disk: what was measured is not known to the training


@dataclass
class Saving:
    """By time, every `interval_s` or as seldom as its price demands: the least time that one took, since what a stall adds is no price, or what the last one
    took where it failed.

    Before the first one its price is a guess, which keeps it away from the end and delays it no further.
    """

    interval_s: float
    last_s: float  # when the last one was made or skipped, on the boot clock
    guess_s: float  # its bytes over the speed of the disk
    times_s: list[float] = field(default_factory=list)  # what each took that did not fail
    failed_s: float = 0.0  # what the last one took, if it failed

    def made(self, elapsed_s: float) -> None:
        """One took so long."""
        self.times_s.append(elapsed_s)
        self.failed_s = 0.0

    def is_due(self, at_s: float, *, remaining_s: float) -> bool:
        """At this time of the boot clock, with so much left for steps: infinite where there is no deadline."""
        interval_s = max(self.interval_s, min(self.times_s, default=0.0) / MAX_SHARE, self.failed_s / MAX_SHARE)
        return at_s - self.last_s > interval_s and remaining_s >= LAST_SHARE * interval_s

    def fits(self, remaining_s: float) -> bool:
        """Whether one is done in time."""
        return self.price_s <= (1.0 if self.times_s else FIRST_SHARE) * remaining_s

    @property
    def price_s(self) -> float:
        """Of one."""
        return min(self.times_s, default=self.guess_s)
