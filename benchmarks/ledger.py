"""Every finished pipeline of a long benchmark as one line of JSON in a file, so that a benchmark that was stopped goes on where it was."""

from __future__ import annotations

import json
import math
import os
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from pufferfish.base.errors import UserError
from pufferfish.base.units import format_duration, parse_duration

PLANNING = ("hardware-probe", "plan")  # what these stages refuse was not run


@dataclass(frozen=True)
class Case:
    """What is compared with each other."""

    corpus: str
    budget: str

    @property
    def budget_s(self) -> float:
        """The budget in seconds."""
        return parse_duration(self.budget)

    def __str__(self) -> str:
        return f"{self.corpus}, {self.budget}"


@dataclass(frozen=True)
class Order:
    """A pipeline that is wanted."""

    case: Case
    pins: dict[str, Any]  # by name, all others are `auto`
    seed: int = 0  # of the initial weights; text and split are the same for all


@dataclass(frozen=True)
class Result:
    """What a pipeline gave. A refused one has only the time it took."""

    spent_s: float
    val_bpb: float | None = None
    val_bytes: int = 0
    device: str = ""
    configuration: dict[str, Any] = field(default_factory=dict)  # as planned
    tokens: int = 0  # trained on
    flops_per_token: float = 0.0
    export_s: float = 0.0  # that the plan's export, which is not run, and the pause before it are estimated to take, without a margin; 0 in files of older code
    step_s: float = 0.0  # that its steps were counted by, where paces are compared in turn
    plan: dict[str, Any] = field(default_factory=dict)  # of the planner's run, where paces are compared with its own
    speeds: dict[str, str] = field(default_factory=dict)  # that it found of the machine, by file
    refused_by: str = ""  # the stage
    refusal: str = ""  # its lines


@dataclass(frozen=True)
class Run:
    """One line."""

    role: str
    order: Order
    result: Result
    code: str  # identity of the code that ran
    machine: str
    date: str

    @property
    def is_legal(self) -> bool:
        """Whether it was planned."""
        return self.result.refused_by not in PLANNING

    @property
    def late_s(self) -> float:
        """How long after the budget an export would have ended; negative is early."""
        return self.result.spent_s + self.result.export_s - self.order.case.budget_s

    @property
    def score(self) -> float:
        """Bits per byte; infinite where there are none, or where they came too late."""
        return math.inf if self.result.val_bpb is None or self.late_s > 0 else self.result.val_bpb

    @property
    def failing(self) -> str:
        """Why it does not count; empty where it does."""
        if self.result.refused_by:
            return f"refused by {self.result.refused_by}: {self.result.refusal}"
        return f"late by {format_duration(self.late_s)}" if self.late_s > 0 else ""


class Ledger:
    """The file with all its runs."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        self._path = path
        self.runs = _read(path)

    def find(self, order: Order) -> Run | None:
        """The run of an order, whatever part it played."""
        return next((run for run in self.runs if run.order == order), None)

    def of(self, case: Case) -> list[Run]:
        """All runs of a case with the same initial weights, to be compared."""
        return [run for run in self.runs if run.order.case == case and run.order.seed == 0]

    def add(self, run: Run) -> None:
        """Append it, durably. Raises UserError where the corpus is not measured on the same text as before."""
        corpus = run.order.case.corpus
        sizes = {each.result.val_bytes for each in [*self.runs, run] if each.order.case.corpus == corpus and each.result.val_bytes}
        if len(sizes) > 1:
            saw = f"{corpus}: {' and '.join(map(str, sorted(sizes)))} bytes      ({self._path})"
            raise UserError("the validation text of a corpus changed between two runs", saw=saw, fix="begin anew with another `--out`")
        self.runs.append(run)
        content = self._path.read_bytes()
        start = "\n" if content and not content.endswith(b"\n") else ""  # after a line that was left unfinished
        with open(self._path, "a", encoding="utf-8") as lines:
            lines.write(f"{start}{json.dumps(_flat(run))}\n")
            lines.flush()
            os.fsync(lines.fileno())


def _flat(run: Run) -> dict[str, Any]:
    order = {"corpus": run.order.case.corpus, "budget": run.order.case.budget, "role": run.role, "pins": run.order.pins, "seed": run.order.seed}
    return order | asdict(run.result) | {"code": run.code, "machine": run.machine, "date": run.date}


def _unflat(line: dict[str, Any]) -> Run:
    result = Result(**{each.name: line[each.name] for each in fields(Result) if each.name in line})
    return Run(line["role"], Order(Case(line["corpus"], line["budget"]), line["pins"], line["seed"]), result, line["code"], line["machine"], line["date"])


def _read(path: Path) -> list[Run]:
    """All lines but one that was left unfinished."""
    found = []
    for line in path.read_text("utf-8").splitlines():
        try:
            content = json.loads(line)
        except json.JSONDecodeError:
            continue
        found.append(_unflat(content))
    return found
