"""What a search says about the planner: regrets, where the best was found, and how the rivals did."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ledger import Run

RIVALS = ("table", "20 per parameter", "random")
HEADS = ("regret", "again", *RIVALS)


@dataclass(frozen=True)
class Study:
    """All that was run for one case."""

    planner: Run
    runs: list[Run]  # with the same initial weights, so that they can be compared
    rivals: dict[str, list[Run]]
    pairs: list[tuple[Run, Run]]  # planner's and best configuration, run again

    @property
    def best(self) -> Run:
        """The first of the best."""
        return min(self.runs, key=lambda run: run.score)


@dataclass(frozen=True)
class Summary:
    """One line of the table. A regret is None where there is nothing to compare."""

    corpus: str
    budget: str
    planner_bpb: float | None
    best_bpb: float | None
    best_role: str
    changes: dict[str, list[Any]]  # from the planner's choice to the best, by axis
    regret: float | None
    regret_again: float | None  # of the pairs
    rivals: dict[str, float | None]  # their regrets; the mean of several random ones
    failures: dict[str, str]  # of those that are named here, by role
    num_runs: int
    origins: list[str]  # code and machine of the runs


def summarise(study: Study) -> Summary:
    """The numbers of one case."""
    planner, best = study.planner, study.best
    before, after = (run.result.configuration for run in (planner, best))
    named = [planner, *(run for runs in study.rivals.values() for run in runs), *(run for pair in study.pairs for run in pair)]
    return Summary(
        corpus=planner.order.case.corpus,
        budget=planner.order.case.budget,
        planner_bpb=planner.result.val_bpb,
        best_bpb=best.result.val_bpb,
        best_role=best.role,
        changes={axis: [before[axis], after[axis]] for axis in before if before[axis] != after[axis]},
        regret=regret_of(planner, best),
        regret_again=mean_of([regret_of(*pair) for pair in study.pairs]),
        rivals={name: mean_of([regret_of(run, best) for run in study.rivals.get(name, [])]) for name in RIVALS},
        failures={run.role: run.failing for run in named if run.failing},
        num_runs=sum(run.is_legal for run in study.runs),
        origins=sorted({f"{run.code} on {run.machine}" for run in [*study.runs, *named]}),
    )


def regret_of(run: Run, best: Run) -> float | None:
    """Bits per byte over the best, less one; None where one of them does not count."""
    return run.score / best.score - 1 if math.isfinite(run.score) and math.isfinite(best.score) else None


def mean_of(regrets: Sequence[float | None]) -> float | None:
    """Of those that there are."""
    there = [regret for regret in regrets if regret is not None]
    return statistics.fmean(there) if there else None


def table(summaries: Sequence[Summary]) -> str:
    """One line for each case, mean and worst of all, and what failed."""
    width = max(6, *(len(each.corpus) for each in summaries))
    head = f"{'corpus':<{width}} {'budget':>7} {'planner':>8} {'best':>8} {'runs':>4} " + columns(*HEADS) + "   best found with"
    lines = [head, *(line_of(each, width) for each in summaries)]
    everything = [[each.regret, each.regret_again, *each.rivals.values()] for each in summaries]
    for name, joined in (("mean", mean_of), ("worst", worst_of)):
        shares = [share(joined(column)) for column in zip(*everything, strict=True)]
        lines.append(f"{name:<{width}} {'':>7} {'':>8} {'':>8} {'':>4} {columns(*shares)}")
    lines += [f"{each.corpus}, {each.budget}, {role}: {text.splitlines()[0]}" for each in summaries for role, text in each.failures.items()]
    if len({origin for each in summaries for origin in each.origins}) > 1:
        lines.append("these runs are of several versions of the code, or of several machines: begin anew to compare them fairly")
    return "\n".join(lines)


def line_of(each: Summary, width: int) -> str:
    """One case."""
    shares = columns(*map(share, (each.regret, each.regret_again, *each.rivals.values())))
    return f"{each.corpus:<{width}} {each.budget:>7} {number(each.planner_bpb)} {number(each.best_bpb)} {each.num_runs:>4} {shares}   {where(each)}"


def columns(*texts: str) -> str:
    """Right under their heads."""
    return " ".join(f"{text:>{max(8, len(head))}}" for text, head in zip(texts, HEADS, strict=True))


def where(each: Summary) -> str:
    """What the best did otherwise."""
    if each.best_bpb is None:
        return "nothing"
    if each.best_role == "planner":
        return "the planner's choice"
    changes = ", ".join(f"{axis} {value(before)} -> {value(after)}" for axis, (before, after) in each.changes.items())
    return f"{changes or 'the same choice'} ({each.best_role})"


def value(content: Any) -> str:
    """Of an axis."""
    return f"{content:.3g}" if isinstance(content, float) else str(content)


def number(bpb: float | None) -> str:
    """Bits per byte."""
    return f"{'-' if bpb is None else f'{bpb:.4f}':>8}"


def share(regret: float | None) -> str:
    """In per cent."""
    return "-" if regret is None else f"{regret:+.2%}"


def worst_of(regrets: Sequence[float | None]) -> float | None:
    """The largest of those that there are."""
    return max((regret for regret in regrets if regret is not None), default=None)
