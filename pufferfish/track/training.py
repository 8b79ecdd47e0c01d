"""The row of a training: opened at the start of the stage, fed by its events, closed with its model, opened again for its results.

Nobody waits for the store at the end: the budget is running, and the child process delivers the rest alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pufferfish.base.events import Event
from pufferfish.base.units import format_count, format_duration
from pufferfish.schema.plan import Plan
from pufferfish.track.listener import TrainingListener
from pufferfish.track.store import experiment_name
from pufferfish.track.tracker import Tracker, tell


class TrackedTraining:
    """Called with every event."""

    def __init__(self, tracker: Tracker) -> None:
        self.tracker = tracker
        self._listener = TrainingListener(tracker)

    def __call__(self, event: Event) -> None:
        """Log one event."""
        self._listener(event)

    def model(self, folder: Path, curve: Path) -> None:
        """Log the finished model and its curve."""
        self.tracker.artifact(folder, "model")
        self.tracker.artifact(curve)


def run_name(plan: Plan) -> str:
    """Budget and size, for people."""
    return f"{format_duration(plan.budget.total_s).replace(' ', '')}-{format_count(plan.forecast.num_params).replace(' ', '')}"


@contextmanager
def track_training(plan: Plan, *, run_key: str, is_resumed: bool) -> Iterator[TrackedTraining]:
    """Open the row `run_key` and close it: FINISHED, KILLED after an interruption, FAILED after an error. What went wrong with it is told at the end."""
    with Tracker.start(run_key, experiment=experiment_name(), run_name=run_name(plan), is_resumed=is_resumed) as tracker:
        describe(tracker, plan)
        yield TrackedTraining(tracker)
        finish_and_tell(tracker)


@contextmanager
def track_result(plan: Plan, *, run_key: str) -> Iterator[Tracker]:
    """Open the row of a finished training again, for what was found out about its model; costs milliseconds, and MLflow no import beside the work.

    What went wrong with it is told at the end.
    """
    with Tracker.open(run_key, experiment=experiment_name(), run_name=run_name(plan), is_resumed=False) as tracker:
        describe(tracker, plan)
        yield tracker
        finish_and_tell(tracker)


def finish_and_tell(tracker: Tracker) -> None:
    """End the row, which may be what goes wrong, and tell what went wrong so far."""
    tracker.finish(timeout_s=0.0)
    tell(tracker.warnings)


def describe(tracker: Tracker, plan: Plan) -> None:
    """Parameters and tags of the row; every stage sends them, so that a lost row is rebuilt by whichever runs."""
    sections = {name: getattr(plan, name).model_dump() for name in ("data", "model", "train", "forecast")}
    tracker.params({"budget_s": plan.budget.total_s, **sections})
    tracker.tags({"pufferfish.hardware": plan.hardware, "pufferfish.corpus": plan.data.corpus, "pufferfish.plan": plan.identity})
