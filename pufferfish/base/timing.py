"""artifacts/timing/: when each stage ran, as it stamps it itself, for the stages that own what is left."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from pufferfish.base import atomic, clock, paths


@dataclass(frozen=True)
class Timing:
    """One run of a stage, from the start of its process, on the boot clock."""

    boot_id: str
    start_s: float
    end_s: float

    @property
    def elapsed_s(self) -> float:
        """What the stage cost."""
        return self.end_s - self.start_s


def timing_so_far() -> Timing:
    """Of this process."""
    return Timing(clock.boot_id(), clock.process_start_s(), clock.now_s())


def write_timing(stage: str) -> None:
    """Stamp this process as the run of a stage."""
    timing = timing_so_far()
    content = {"stage": stage, "boot_id": timing.boot_id, "start_s": timing.start_s, "end_s": timing.end_s, "elapsed_s": timing.elapsed_s}
    atomic.write_json(paths.timing(stage), content)


def read_timing(path: Path) -> Timing | None:
    """None where the stage left no timing, as after `dvc pull`."""
    try:
        content = json.loads(path.read_text("utf-8"))
        return Timing(content["boot_id"], content["start_s"], content["end_s"])
    except (FileNotFoundError, ValueError, KeyError):
        return None
