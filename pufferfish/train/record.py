"""What a run really did: the realised schedule, exact enough to repeat it without a clock, and the curve of the validation."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pufferfish.base import atomic


@dataclass
class Record:
    """Grows during training and is part of every checkpoint."""

    u: list[float] = field(default_factory=list)  # progress before each step
    lr_share: list[float] = field(default_factory=list)
    first_sample: list[int] = field(default_factory=list)  # data position before each step
    loss: list[float] = field(default_factory=list)  # nats per token; one step late on accelerators
    curve: list[dict[str, float]] = field(default_factory=list)  # one row for each evaluation

    def as_progress(self) -> dict[str, Any]:
        """For a checkpoint; JSON keeps every bit of a float."""
        return {"u": self.u, "lr_share": self.lr_share, "first_sample": self.first_sample, "loss": self.loss, "curve": self.curve}

    def save_schedule(self, path: Path, *, seed: int, data_seed: int) -> None:
        """JSON lines: a header, then a row for each step with u and the learning-rate share as hexadecimal floats.

        The model has no random state of its own while training (no dropout): seeds and data position are all there is.
        """
        lines = [json.dumps({"schema_version": 1, "num_steps": len(self.u), "seed": seed, "data_seed": data_seed})]
        rows = zip(self.u, self.lr_share, self.first_sample, strict=True)
        lines += [json.dumps({"step": step, "u": u.hex(), "lr_share": share.hex(), "first_sample": first}) for step, (u, share, first) in enumerate(rows)]
        atomic.write_text(path, "\n".join(lines) + "\n")

    def save_curve(self, path: Path) -> None:
        """A CSV that `dvc plots` draws."""
        table = io.StringIO()
        writer = csv.DictWriter(table, fieldnames=["elapsed_s", "val_bpb", "train_loss", "step", "tokens"], lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.curve)
        atomic.write_text(path, table.getvalue())


def load_schedule(path: Path) -> list[float]:
    """The recorded progress before each step, exact."""
    rows = [json.loads(line) for line in path.read_text("utf-8").splitlines()[1:]]
    return [float.fromhex(row["u"]) for row in rows]
