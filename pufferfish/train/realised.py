"""schedule.jsonl: what a training really did, exact enough to repeat it step by step without a clock.

A header, then a row for each step. The model has no random state of its own while training (no dropout): beside plan and data, progress and the
size of the micro-batches (sums of floats depend on it) are all there is.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from pufferfish.base import atomic
from pufferfish.base.errors import UserError
from pufferfish.schema.plan import Plan
from pufferfish.train.schedule import lr_share

SCHEDULE = "schedule.jsonl"
SCHEMA_VERSION = 2


@dataclass(frozen=True)
class Realised:
    """The schedule as it was followed, and where."""

    u: list[float]  # progress before each step
    micro_batch: list[int]  # sequences at a time in each step: fewer after memory ran out
    environment: dict[str, str]  # see `environment.py`

    def save(self, path: Path, plan: Plan) -> None:
        """JSON lines; progress and learning-rate share are hexadecimal floats."""
        train = plan.train
        header = {"schema_version": SCHEMA_VERSION, "num_steps": len(self.u), "seed": train.seed, "data_seed": train.data_seed}
        per_step = train.tokens_per_step // plan.model.seq_len
        lines = [json.dumps(header | {"environment": self.environment})]
        for step, (u, size) in enumerate(zip(self.u, self.micro_batch, strict=True)):
            share = lr_share(u, train)
            lines.append(f'{{"step": {step}, "u": "{u.hex()}", "lr_share": "{share.hex()}", "first_sample": {step * per_step}, "micro_batch": {size}}}')
        atomic.write_text(path, "\n".join(lines) + "\n")


def load_realised(path: Path) -> Realised:
    """Every bit of what was saved. Raises UserError where there is nothing, something else, or only a part."""
    again = "train anew: `dvc repro --force --single-item train`"
    try:
        lines = path.read_text("utf-8").splitlines()
        header, rows = json.loads(lines[0]), [json.loads(line) for line in lines[1:]]
        if header["schema_version"] != SCHEMA_VERSION:
            saw = f"schema_version {header['schema_version']}; this code reads {SCHEMA_VERSION}"
            raise UserError(f"{path} was written by another version", saw=saw, fix=again)
        realised = Realised([float.fromhex(row["u"]) for row in rows], [row["micro_batch"] for row in rows], header["environment"])
        num_steps = header["num_steps"]
    except FileNotFoundError:
        raise UserError("the training left no schedule to repeat", saw=f"no file {path.absolute()}", fix=again) from None
    except (ValueError, LookupError, TypeError) as error:
        raise UserError(f"{path} is no schedule of a training", saw=f"{type(error).__name__}: {error}", fix=again) from None
    if len(rows) != num_steps:
        raise UserError(f"{path} is not whole", saw=f"{len(rows)} steps of {num_steps}", fix=again)
    return realised
