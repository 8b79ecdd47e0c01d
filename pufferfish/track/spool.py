"""Stages that must not pay for tracking leave their row on disk; the worker of the next tracked stage delivers it."""

from __future__ import annotations

import time
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pufferfish.base import atomic
from pufferfish.track import journal, origin, store
from pufferfish.track.artifact import artifact_message
from pufferfish.track.clean import clean_key, flat
from pufferfish.track.tracker import tell


def spool_stage(
    stage: str,
    *,
    params: Mapping[str, Any] | None = None,
    metrics: Mapping[str, float] | None = None,
    artifacts: Sequence[Path] = (),
    tags: Mapping[str, Any] | None = None,
) -> None:
    """Write one finished row of the experiment `<name>/stages`: a millisecond, no MLflow. Tells it where the disk refuses."""
    at_s = time.time()
    start = {"type": "start", "store": store.name(), "run_key": uuid.uuid4().hex, "experiment": f"{store.experiment_name()}/stages", "run_name": stage}
    messages: list[journal.Message] = [
        start | {"is_resumed": False, "pid": 0, "pid_start_s": 0.0, "at_s": at_s},
        {"type": "tags", "values": origin.environment_tags() | {"pufferfish.stage": stage} | flat(tags or {})},
        {"type": "params", "values": flat(params or {})},
        {"type": "metrics", "values": {clean_key(key): float(value) for key, value in (metrics or {}).items()}, "step": 0, "at_s": at_s},
    ]
    finish = {"type": "finish", "status": "FINISHED", "at_s": at_s}
    try:
        messages += [*map(artifact_message, artifacts), finish]
        atomic.write_bytes(journal.new_path(stage), b"".join(map(journal.encode, messages)))
    except OSError as error:
        tell([f"the row of {stage} is lost: {error}"])
